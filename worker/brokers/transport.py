"""`Transport`, `SentinelTransport`: kombu's Redis transports with links to the broker that are given up whole.

Celery's worker swallows a failed acknowledgement, and the message counts against the prefetch window for ever; an error
reply ends the worker. Here either ends the link, and the next one begins with the full window. What was delivered over
the old link and still runs (`Unsettled`) is acknowledged over the new one; what had not begun goes back to the queue.
Not for other brokers: AMQP has links and windows of its own (`worker.brokers.amqp` is about its certificates).
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from operator import methodcaller
from queue import Empty
from typing import Any

from kombu import transport as transports
from kombu.transport import redis
from kombu.transport.virtual import Message as VirtualMessage
from redis.exceptions import InvalidResponse, ResponseError

_ERROR_REPLIES = (ResponseError, InvalidResponse)
"""A broker that answers so (READONLY, MISCONF, NOPERM, …) is waited for like one that is away."""


_LINK_ERRORS = redis.Transport.connection_errors + _ERROR_REPLIES


class Unsettled:
    """The messages of links that were given up, until they are settled. Used by the main loop only."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._settled: dict[str, Callable[[Any], Any]] = {}
        self._channel: Any = None

    def __len__(self) -> int:
        """How many still take a place of the prefetch window."""
        return len(self._running)

    def add(self, tags: Collection[str]) -> None:
        """Their link was given up."""
        self._running.update(tags)
        self._channel = None

    def settle(self, tag: str, how: Callable[[Any], Any]) -> None:
        """Acknowledge or return a message, now or as soon as there is a link; `how` is given its QoS."""
        self._running.discard(tag)
        self._settled[tag] = how
        channel = self._channel
        if channel is not None and channel.connection.error is None:
            try:
                self._settle_all()
            except _LINK_ERRORS as error:
                channel.connection.error = error

    def take_over(self, channel: Any, running: Collection[str]) -> None:
        """There is a new link. Messages that are not running have been forgotten: they go back to their queue."""
        for tag in self._running - set(running):
            self._running.discard(tag)
            self._settled[tag] = methodcaller("restore_by_tag", tag)
        self._channel = channel
        self._settle_all()

    def _settle_all(self) -> None:
        for tag, how in list(self._settled.items()):
            how(self._channel.qos)  # if this fails, the next link does it
            del self._settled[tag]


unsettled = Unsettled()


class Message(VirtualMessage):
    """A message that ends the link when it cannot be acknowledged or rejected over it."""

    def ack_log_error(self, logger: Any, errors: Any, multiple: bool = False) -> None:  # noqa: ARG002
        self._settle(partial(self.ack, multiple=multiple), methodcaller("forget", self.delivery_tag))

    def reject_log_error(self, logger: Any, errors: Any, requeue: bool = False) -> None:  # noqa: ARG002
        tag = self.delivery_tag
        later = methodcaller("restore_by_tag", tag, leftmost=True) if requeue else methodcaller("forget", tag)
        self._settle(partial(self.reject, requeue=requeue), later)

    def _settle(self, now: Callable[[], Any], later: Callable[[Any], Any]) -> None:
        """Now, or over the next link. The error is raised by the link's next turn: here it would take the loop's other
        callbacks with it, and so the ends of other messages."""
        channel = self.channel
        if not channel.given_up and channel.connection.error is None:
            try:
                now()
            except _LINK_ERRORS as error:
                channel.connection.error = error
            else:
                return
        channel.qos.let_go(self.delivery_tag)
        unsettled.settle(self.delivery_tag, later)


class QoS(redis.QoS):
    """The prefetch window: also what was delivered over former links and still runs takes a place."""

    def can_consume(self) -> bool:
        most = self.prefetch_count
        return not most or len(self._delivered) - len(self._dirty) + len(unsettled) < most

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message that was taken from its queue. When the link fails at that nobody knows whether the broker has
        noted it, and this worker does not have it either: it goes back."""
        try:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]
        except _LINK_ERRORS:
            unsettled.settle(delivery_tag, methodcaller("return_taken", message))
            raise

    def return_taken(self, message: Any) -> None:
        """Put a message of a former link back, whether it was noted there or not."""
        delivery, tag = message.delivery_info, message.delivery_tag

        def put_back(pipe: Any) -> None:
            pipe.multi()
            self._remove_from_indices(tag, pipe)  # type: ignore[no-untyped-call]
            self.channel._do_restore_message(message._raw, delivery["exchange"], delivery["routing_key"], pipe)

        with self.channel.conn_or_acquire() as client:
            client.transaction(put_back, self.unacked_key)

    def forget(self, tag: str) -> None:
        """Acknowledge a message of a former link."""
        self._remove_from_indices(tag).execute()  # type: ignore[no-untyped-call]

    def let_go(self, tag: str) -> None:
        """It is settled as far as this link is concerned."""
        self._dirty.add(tag)

    def give_up(self) -> set[str]:
        """Forget all messages without a word to the broker; returns those that were not settled."""
        self._flush()  # type: ignore[no-untyped-call]
        left = set(self._delivered)
        self._delivered.clear()
        self._on_collect.cancel()
        return left


class _GivenUp:
    """What makes a channel one that can be given up, for both kinds of it."""

    given_up = False
    credentials: Any = None
    """Asked for what to log in with, for each new connection; None: the address says it."""
    _in_poll: Any
    _in_listen: Any
    _commands: Any = None
    Message = Message
    QoS = QoS

    def give_up(self: Any) -> set[str]:
        """Let go of everything at once: nothing is read, written or waited for over this link again."""
        self.given_up = True
        self.do_restore = False
        left: set[str] = self.qos.give_up()
        self._in_poll = self._in_listen = None
        for part in (self._disconnect_pools, self._close_clients):
            with suppress(Exception):  # the link is broken
                part()
        return left

    @contextmanager
    def conn_or_acquire(self: Any, client: Any = None) -> Iterator[Any]:
        """One client for all commands, which takes a connection of the pool for each: kombu makes a client for each."""
        if client is None:
            if self._commands is None or self._commands.connection_pool is not self.pool:
                self._commands = self._create_client()
            client = self._commands
        yield client

    def _connparams(self: Any, asynchronous: bool = False) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[misc]
        self._process_credential_provider(self.credentials, parameters)
        return parameters

    def _brpop_read(self: Any, **options: Any) -> Any:
        """Also that there is no message is an answer."""
        try:
            found = super()._brpop_read(**options)  # type: ignore[misc]
        except Empty:
            self.connection.has_answered()
            raise
        self.connection.has_answered()
        return found


class Channel(_GivenUp, redis.Channel):
    """A channel to one Redis."""

    from_transport_options = (*redis.Channel.from_transport_options, "credentials")  # type: ignore[assignment]


class SentinelChannel(_GivenUp, redis.SentinelChannel):
    """A channel to the primary that Sentinels name."""

    from_transport_options = (*redis.SentinelChannel.from_transport_options, "credentials")  # type: ignore[assignment]


class Poller(redis.MultiChannelPoller):
    """Raises what has befallen the link. It looks for abandoned messages once a second, and so notices a link that is
    frozen or answers with errors."""

    def __init__(self, link: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._link = link

    def _raise_error(self) -> None:
        if self._link.error is not None:
            raise self._link.error

    def on_poll_start(self) -> None:
        self._raise_error()
        super().on_poll_start()  # type: ignore[no-untyped-call]

    def maybe_restore_messages(self) -> None:
        self._raise_error()  # nothing more is waited for over such a link
        for channel in self._channels:
            if channel.active_queues:
                channel.qos.restore_visible(
                    num=channel.unacked_restore_limit, interval=channel.unacked_restore_throttle
                )
                if not channel.qos.can_consume():  # then it is not asked for messages
                    self._link.has_answered()
                return


class _Link:
    """What makes a transport one whose link is given up whole, for both kinds of it."""

    cycle: Any
    connection_errors = _LINK_ERRORS
    error: BaseException | None = None
    """What a message could not be settled for; the link is to be given up."""
    _answered_at = float("-inf")
    _loop: Any = None
    _turns: Collection[Any] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.cycle = Poller(self)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        before = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)  # type: ignore[misc]
        self._loop, self._turns = loop, loop.on_tick - before

    def has_answered(self) -> None:
        """The broker has answered what shows that messages come over this link."""
        self._answered_at = time.monotonic()

    @property
    def silent_seconds(self) -> float:
        """For how long it has not answered. A link that works is answered about once a second, and a new one has not
        been answered yet: it may be refused. Safe in any thread."""
        return time.monotonic() - self._answered_at

    def give_up(self: Any) -> None:
        if self._loop is not None:
            self._loop.on_tick.difference_update(self._turns)  # it would go on turning this link for ever
        for channel in list(self.channels):
            unsettled.add(channel.give_up())


class Transport(_Link, redis.Transport):
    """For redis:// and rediss:// addresses."""

    Channel = Channel


class SentinelTransport(_Link, redis.SentinelTransport):
    """For sentinel:// addresses."""

    Channel = SentinelChannel


def install() -> None:
    """Have kombu use these for the addresses of Redis, and our own for those of RabbitMQ behind TLS."""
    transports.TRANSPORT_ALIASES.update(
        amqps="docworker.worker.brokers.amqp:TlsTransport",
        redis="docworker.worker.brokers.transport:Transport",
        rediss="docworker.worker.brokers.transport:Transport",
        sentinel="docworker.worker.brokers.transport:SentinelTransport",
    )
