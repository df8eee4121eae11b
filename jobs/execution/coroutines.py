"""`AsyncAttempt`: what the function of a coroutine kind receives; `event_loop()`: where such functions run.

The loop has a thread of its own, and with it asyncio's sessions (`db.sessions.aio`): signals, such as the one of the
soft limit, meet the thread that waits for the jobs, and a job that blocks the loop does not keep these from being
settled.
"""

import asyncio
import inspect
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.cluster import database
from docworker.db.cluster.positions import WalPosition
from docworker.db.ledger import AttemptEnd, Claimed
from docworker.db.sessions import aio
from docworker.db.sessions.aio import AsyncTenantSession
from docworker.jobs.execution.attempts import A, Attempt, Result

log = structlog.get_logger(__name__)

T = TypeVar("T")
AsyncEffect = Callable[[AsyncTenantSession], Awaitable[Result]] | Callable[[Session], Result]

_PULSE_SECONDS = 0.2
_BLOCKED_SECONDS = 1.0
_CLOSE_SECONDS = 3.0


class AsyncAttempt(Generic[A]):
    """One run of one job of a coroutine kind. What waits is awaited; else as `Attempt`."""

    def __init__(self, attempt: Attempt[A]) -> None:
        self._attempt = attempt

    @property
    def id(self) -> UUID:
        return self._attempt.id

    @property
    def organization_id(self) -> UUID:
        return self._attempt.organization_id

    @property
    def idempotency_key(self) -> str:
        return self._attempt.idempotency_key

    @property
    def claimed(self) -> Claimed:
        return self._attempt.claimed

    @property
    def position(self) -> WalPosition:
        return self._attempt.position

    @property
    def arguments(self) -> A:
        """Raises UnacceptedArgumentsError where this release does not take them."""
        return self._attempt.arguments

    @property
    def should_stop(self) -> bool:
        """As `Attempt.should_stop`. A job that is cancelled or taken over need not ask: what it awaits is cancelled."""
        return self._attempt.should_stop

    async def read(self, load: Callable[[AsyncTenantSession], Awaitable[T]] | Callable[[Session], T]) -> T:
        """As `Attempt.read`; `load` is a coroutine function of an AsyncSession, or an ordinary one of a Session."""

        async def loaded(session: AsyncTenantSession) -> T:
            found: T = await _call(load, session)
            return found

        return await aio.read(self.organization_id, loaded, position=self.position)

    async def finish(self, effect: AsyncEffect | None = None) -> None:
        """As `Attempt.finish`; `effect` is a coroutine function of an AsyncSession, or an ordinary one of a Session."""
        attempt = self._attempt
        attempt.failed_finish = None
        try:
            done = await self._succeed(effect) or await self._has_succeeded()
        except BaseException as error:
            attempt.failed_finish = error
            raise
        attempt.settle(AttemptEnd.SUCCEEDED if done else AttemptEnd.FENCED)

    async def _succeed(self, effect: AsyncEffect | None) -> bool:
        claimed = self.claimed
        async with aio.writing(self.organization_id) as session:
            if not await session.run_sync(ledger.lock_owned, [claimed]):
                return False
            result: Result = None if effect is None else await _call(effect, session)
            await session.run_sync(self._attempt.tell_the_rest)
            kept = None if result is None else ledger.as_json(result, "what the effect returns")
            return bool(await session.run_sync(ledger.succeed, [(claimed, kept)]))

    async def progress(self, done: float, of: float | None = None, message: str | None = None) -> None:
        """As `Attempt.progress`."""
        await aio.run(self._attempt.progress, done, of, message)

    async def log(self, message: str, **fields: Any) -> None:
        """As `Attempt.log`."""
        await aio.run(self._attempt.log, message, **fields)

    @property
    def checkpointed(self) -> dict[str, Any] | None:
        """As `Attempt.checkpointed`."""
        return self._attempt.checkpointed

    async def checkpoint(self, state: dict[str, Any], session: AsyncTenantSession | None = None) -> None:
        """As `Attempt.checkpoint`."""
        if session is None:
            await aio.run(self._attempt.checkpoint, state)
        else:
            await session.run_sync(partial(self._attempt.checkpoint, state))

    async def snooze(self, seconds: float) -> None:
        """As `Attempt.snooze`."""
        await aio.run(self._attempt.snooze, seconds)

    async def _has_succeeded(self) -> bool:
        """It was taken over or cancelled, or finished by a COMMIT whose answer was lost."""
        async with aio.writing(self.organization_id) as session:
            finished = await session.run_sync(ledger.finished_as, [self.claimed])
        return finished.get(self.id) is AttemptEnd.SUCCEEDED


async def _call(function: Callable[[Any], Any], session: AsyncTenantSession) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(session)
    return await session.run_sync(function)


class EventLoop:
    """A loop in a thread of its own, with asyncio's connections to the database of the process."""

    def __init__(self) -> None:
        self.database = database()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="coroutines", daemon=True)
        self._thread.start()
        self._connections = aio.AsyncDatabase(self.database.settings, application_name="docworker worker")
        self._start(self._watch())

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Have it run; its sessions are of this loop's database."""

        async def run() -> T:
            with aio.using(self._connections):
                return await coroutine

        return self._start(run())

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """Close the database and end the thread; one that a job blocks is left to itself."""
        try:
            self._start(self._connections.dispose()).result(_CLOSE_SECONDS)
        except TimeoutError:
            log.warning("loop.blocked_at_its_end")
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_SECONDS)

    async def _watch(self) -> None:
        """Tell when a job has held up all others."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(_PULSE_SECONDS)
            if (late := time.monotonic() - began - _PULSE_SECONDS) > _BLOCKED_SECONDS:
                log.warning("loop.blocked", seconds=round(late, 1), hint="a coroutine has waited without `await`")


_guard = threading.Lock()
_current: EventLoop | None = None


def event_loop() -> EventLoop:
    """The loop of this process and its open database, begun when it is first asked for."""
    global _current
    with _guard:
        if _current is not None and _current.database is not database():
            _current.close()
            _current = None
        if _current is None:
            _current = EventLoop()
        return _current


def close_event_loop() -> None:
    """Also of one that is blocked: the next job gets a new one."""
    global _current
    with _guard:
        loop, _current = _current, None
    if loop is not None:
        loop.close()


def _begin_anew() -> None:
    global _current, _guard
    _current, _guard = None, threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)
