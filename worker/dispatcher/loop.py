"""`Dispatcher`: moves due jobs from one cluster's ledger to the broker.

Several may run; at each tick one of them plans and the others stand by. It keeps the broker's queue short: the backlog
stays in PostgreSQL. Beside it runs a judge (`worker.dispatcher.judge`), which rescues jobs whose worker fell silent.
All clusters of an installation are served by `worker.dispatcher.clusters`, a dispatcher each.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from celery import Celery
from prometheus_client import Counter, Gauge
from sqlalchemy.orm import Session

from docworker.db import ledger
from docworker.db.cluster import database
from docworker.db.faults import Fault, classify
from docworker.db.ledger import LaneKey, Limits, Load, Message, Walk
from docworker.db.sessions import all_jobs_session
from docworker.db.settings import HOME, Settings
from docworker.jobs.dispatch_limits import limits_of
from docworker.jobs.execution.continuity import Continuity
from docworker.jobs.kind import Kind
from docworker.worker.brokers.channel import Broker
from docworker.worker.dispatcher.backlogs import Backlogs
from docworker.worker.dispatcher.gauges import ClusterGauges, LedgerGauges
from docworker.worker.dispatcher.judge import Judge, VisitingJudge
from docworker.worker.dispatcher.listener import Listener
from docworker.worker.dispatcher.pace import Pace
from docworker.worker.dispatcher.shares import WANTS_SECONDS, Caps, Window
from docworker.worker.http.health import LoopHealth
from docworker.worker.logs import first_line

log = structlog.get_logger(__name__)

_BRING_SECONDS = 0.05
_BRING_AFTER_SENDING_SECONDS = 0.25
"""Who runs what was sent just now wants the processor and the server first."""
_SWEEP_SECONDS = 0.5
_READY_SECONDS = 5.0
_HELD_UP_SECONDS = 5.0
"""Between planning and publishing. By then another one plans, and may have found these messages overdue."""
_SET_ASIDE_SECONDS = 60.0
_UNKNOWN_SECONDS = 60.0
_SHOWN = 100
_TOLD = 20
_STUCK_AFTER_SECONDS = 120.0
_MOST_TOLD = 200
"""Characters of what the broker has answered; the log has all of it."""
_UNKNOWN_FAILURES = 10
"""Failures of unknown meaning since the last look that worked, after which the process ends, for its supervisor to
see."""

OVERDUE = Counter("docworker_overdue_jobs_total", "Dispatched jobs that nobody claimed in time.")
PLANNING = Gauge(
    "docworker_dispatcher_planning", "1 on the dispatcher that plans, 0 on those that stand by.", ("cluster",)
)


class Shared:
    """What the dispatchers of one process share."""

    def __init__(self, settings: Settings, kinds: Mapping[str, Kind]) -> None:
        self.window = Window(settings.dispatch_window)
        self.caps = Caps(kinds, settings.lease)
        self.continuity = {name: Continuity() for name in settings.cluster_names}
        """How long each cluster's judge has watched its server."""
        self.gauges = {
            name: ClusterGauges(name, organizations=settings.metrics_organizations) for name in settings.cluster_names
        }

    def join(self, name: str) -> None:
        """Before any of them plans: this ledger is one of theirs."""
        self.window.join(name)
        self.caps.join(name)


def health_of(settings: Settings) -> LoopHealth:
    """How long a dispatcher may take for a turn."""
    return LoopHealth(
        stuck_after_seconds=_STUCK_AFTER_SECONDS + settings.dispatch_interval,
        ready_within_seconds=_READY_SECONDS + settings.dispatch_interval,
    )


@dataclass
class _Look:
    """What one look has marked, before it is published."""

    planner: bool
    room: int
    messages: list[Message] = field(default_factory=list)
    walks: list[Walk] = field(default_factory=list)
    saw_all: bool = True
    wants_more: bool = False
    has_bounds: bool = False
    """Whether any backlog is bounded."""
    places_at: float | None = None
    """Since when it has held places of kinds with a cap."""
    planned_at: float = 0.0
    limits: Limits | None = None
    begun_at: datetime | None = None
    """By the master's clock, before any jobs were marked."""

    @property
    def is_held_up(self) -> bool:
        now = time.monotonic()
        return now - self.planned_at > _HELD_UP_SECONDS or (
            self.places_at is not None and now - self.places_at > Caps.HOLD_SECONDS
        )


@dataclass(frozen=True)
class Tick:
    """What one look did. `planned` is false on a dispatcher that stands by; `room` is how many messages the broker
    could have been given; `is_amid` a round that has found nothing to send yet, and may; `brought` jobs came into the
    queue behind it, for the next look."""

    planned: bool
    room: int
    messages: Sequence[Message] = ()
    failure: str | None = None
    is_amid: bool = False
    brought: bool = False


class Dispatcher:
    """`run()` until `stop()`; `tick()` is one look, for tests."""

    def __init__(
        self,
        settings: Settings,
        app: Celery,
        kinds: Mapping[str, Kind],
        *,
        cluster: str = HOME,
        database_name: str | None = None,
        shared: Shared | None = None,
        health: LoopHealth | None = None,
        broker: Broker | None = None,
        heard: Callable[[str], None] = lambda _: None,
    ) -> None:
        """With a `database_name` for the ledger of a database of a single organization, whose turns somebody else
        takes: `turn()` instead of `run()`."""
        self.health = health or health_of(settings)
        self._settings = settings
        self._kinds = kinds
        self._cluster = cluster
        self._shared = shared or Shared(settings, kinds)
        self.name = cluster if database_name is None else f"{cluster}/{database_name}"
        self._is_whole_cluster = database_name is None
        self._log = log.bind(**({} if database_name is None else {"database": database_name}), cluster=cluster)
        self._session = partial(all_jobs_session, cluster, database_name)
        self._planning = partial(ledger.planning, cluster, database_name)
        self._broker = broker or Broker(app, settings.queue)
        self._listener = Listener(settings, cluster, heard=heard)
        self.judge = self._judge(database_name)
        self._turns = ledger.Turns()
        self._shortcuts = self._no_shortcuts()
        self._in_force = ledger.LimitsInForce()
        self._arrived_until: datetime | None = None
        self._rounds_in_vain = 0
        self._unknown: dict[LaneKey, float] = {}
        self._set_aside: dict[LaneKey, float] = {}
        self._refused: dict[UUID, float] = {}
        self._gauges = LedgerGauges(cluster, database_name, self._shared.gauges[cluster])
        self._backlogs = Backlogs(self._planning, self._log)
        self._stopping = False
        self._brought_at = self._swept_at = float("-inf")
        self._broker_takes = True
        self._latest: Tick | None = None
        self._unknown_failures = 0
        self.pace = Pace(settings.dispatch_interval)
        self.wants_seconds = WANTS_SECONDS
        """So long a share of the room is kept for it; it looks again before that."""

    def _judge(self, database_name: str | None) -> Judge:
        lease_seconds, continuity = self._settings.lease, self._shared.continuity[self._cluster]
        if database_name is None:
            return Judge(lease_seconds, self._cluster, continuity=continuity)
        return VisitingJudge(lease_seconds, self._cluster, database_name=database_name, continuity=continuity)

    @property
    def state(self) -> dict[str, Any]:
        """For people who ask why jobs wait: whether it plans, how many messages the broker could have been given at the
        latest look, and the lanes that it has set aside, twenty at most."""
        now, latest = time.monotonic(), self._latest
        aside = [[str(lane[0]), *lane[1:]] for lane, until in list(self._set_aside.items()) if until > now]
        return {
            "plans": latest is not None and latest.planned,
            "room": None if latest is None else latest.room,
            "set_aside": aside[:_TOLD],
        }

    def run(self) -> None:
        """Dispatch until stopped. Outages of the master or of the broker are waited out; what is our own fault, or
        keeps happening for no known reason, is raised."""
        self._listener.open()
        self.judge.start()
        try:
            while not self._stopping:
                self.turn()
                self._wait()
        finally:
            self.close()

    def stop(self) -> None:
        """Safe in a signal handler."""
        self._stopping = True
        self._listener.wake()

    def hang_up(self) -> None:
        """For who takes its turns: there are no more."""
        self._gauges.forget()
        self._listener.close()

    def close(self) -> None:
        self.judge.stop()
        self.hang_up()
        self._broker.close()

    def turn(self) -> None:
        started = time.monotonic()
        self.judge.raise_failure()
        try:
            tick = self.tick()
        except Exception as error:
            fault = classify(error)
            self._unknown_failures += fault is Fault.UNKNOWN
            if not fault.retryable or self._unknown_failures >= _UNKNOWN_FAILURES:
                raise
            reason = first_line(error)
            self._log.warning("dispatcher.waiting", error=reason, fault=fault.value)
            self.health.failed(reason)
            self.pace.failed()
            return
        self._unknown_failures = 0
        self._latest = tick
        if tick.failure is None:
            self.health.turned()
            self.pace.looked(
                sent=len(tick.messages),
                is_amid=tick.is_amid,
                room=tick.room,
                window=self._shared.window.share_of(self.name),
                look_seconds=time.monotonic() - started,
            )
            if tick.brought and self.pace.listens:
                self.pace.notified()
        else:
            self.health.failed(tick.failure)
            self.pace.failed()

    def _wait(self) -> None:
        looked_at = time.monotonic()
        while not self._stopping and (left := looked_at + self.pace.seconds - time.monotonic()) > 0:
            if self._listener.wait(left) and self.pace.listens:
                self.pace.notified()

    def tick(self) -> Tick:
        """Plan, mark, commit; then publish, holding nothing. What the broker does not take goes back to the queue; when
        we are killed before that, the jobs are dispatched again when they are overdue. What nobody waits for comes
        behind that, in transactions of its own."""
        asked_at = time.monotonic()
        depth = self._broker.depth()
        sent = waiting = 0
        try:
            look = self._look_again_if_refused(depth, asked_at)
            messages = self._publish(look)
            sent, waiting = len(messages), self._turns.organizations * look.wants_more
        finally:
            self._shared.window.took(self.name, sent, waiting=waiting, wants_seconds=self.wants_seconds)
        brought = False
        if look.planner:
            brought = depth is not None and self._bring(depth, asked_at, len(messages))
            if look.has_bounds:
                self._backlogs.update()
            self._gauges.update(set_aside=len(self._set_aside), unknown=len(self._unknown))
        else:
            self._gauges.leave_to_planner()
        broker_is_well = depth is not None and len(messages) == len(look.messages)
        failure = None if broker_is_well else f"the broker is not well: {(self._broker.trouble or '')[:_MOST_TOLD]}"
        return Tick(look.planner, look.room, messages, failure, is_amid=self._is_amid(look), brought=brought)

    def _is_amid(self, look: "_Look") -> bool:
        """Where thousands of organizations may send nothing (paused, capped, of unknown kinds), one look does not come
        to those that may. After a round for nothing there is no hurry."""
        if look.messages or look.saw_all:
            self._rounds_in_vain = 0
        else:
            self._rounds_in_vain += any(walk.is_new_round for walk in look.walks)
        return not look.saw_all and self._rounds_in_vain < 2

    def _no_shortcuts(self) -> ledger.Shortcuts:
        return ledger.Shortcuts(
            redispatch_after_seconds=self._settings.redispatch_after,
            shortest_lease_seconds=min(
                [self._settings.lease, *(kind.hard_limit_seconds for kind in self._kinds.values())]
            ),
        )

    def _look_again_if_refused(self, depth: int | None, asked_at: float) -> "_Look":
        try:
            return self._look(depth, asked_at)
        except Exception as error:
            self._shortcuts = self._no_shortcuts()  # what it has changed is as it was before
            self._in_force.forget()
            if not ledger.is_refused(error):
                raise
            return self._look(depth, asked_at, is_apart=True)

    def _look(self, depth: int | None, asked_at: float, *, is_apart: bool = False) -> "_Look":
        wanted = None if depth is None or is_apart else self._wanted_ahead()
        asking = [] if wanted is None else [ledger.load_call(self._shortcuts), wanted.call]
        with self._planning(asking=asking) as (session, permit):
            planner = permit is not None
            if self._is_whole_cluster:
                PLANNING.labels(self._cluster).set(planner)
            look = _Look(planner, self._settings.dispatch_window)
            if permit is not None and depth is not None:
                self._in_force.refresh(session, permit)
                self._meet_newcomers(session)
                ahead = None
                if wanted is not None:
                    _, under_way, lanes = session.first_rows
                    ahead = ledger.Ahead(under_way, lanes, wanted)
                look = self._plan(session, depth, asked_at, is_apart=is_apart, ahead=ahead)
            elif not planner:
                if wanted is not None:
                    self._shortcuts = self._no_shortcuts()  # what was asked ahead was not looked at
                if self._shared.window.is_shared:
                    # Another process plans for this ledger: what it lets run counts for the caps of the others here.
                    self._shared.caps.know(self.name, ledger.load(session, self._shortcuts).jobs_of_kind)
        look.has_bounds = permit is not None and permit.has_bounds
        look.planned_at = time.monotonic()
        for walk in look.walks:
            self._turns.take(walk)
        if look.limits is not None:
            self._turns.sent(look.messages, look.limits, look.begun_at)
        return look

    def _wanted_ahead(self) -> ledger.WantedLanes | None:
        """What this look will ask for, where one that plans has seen before that little waits."""
        latest = self._latest
        if latest is None or not latest.planned or not self.pace.listens:
            return None
        limits = self._own_limits(Load())
        return ledger.first_wanted(self._turns, self._shortcuts, limits, capacity=self._settings.dispatch_window)

    def _publish(self, look: "_Look") -> Sequence[Message]:
        """Returns what was sent."""
        messages = look.messages
        if messages and look.is_held_up:
            seconds = round(time.monotonic() - look.planned_at, 1)
            self._log.warning("dispatcher.held_up", seconds=seconds, messages=len(messages))
            unsent: Sequence[Message] = messages
        else:
            timelines = database().cluster(self._cluster).timelines
            unsent = self._broker.publish(messages, cluster=self._cluster, timeline=str(timelines))
        if messages:
            self._broker_takes = not unsent
        if unsent:
            self._take_back(unsent)
        return messages[: len(messages) - len(unsent)]

    def _take_back(self, unsent: Sequence[Message]) -> None:
        try:
            with self._session() as session:
                ledger.undispatch(session, unsent, self._shortcuts)
        except Exception as error:
            if not ledger.is_refused(error):
                raise
            self._log.warning("jobs.not_taken_back", error=first_line(error))  # they will be overdue, each for itself

    def _bring(self, depth: int, asked_at: float, sent: int) -> bool:
        """Bring into the queue what has become due, or is to be dispatched again; whether there was anything."""
        now = time.monotonic()
        if now - self._brought_at < (_BRING_AFTER_SENDING_SECONDS if sent else _BRING_SECONDS):
            return False
        self._brought_at = now
        waiting = self._shared.window.waiting(self.name, depth=depth, asked_at=asked_at, sent=sent)
        try:
            with self._planning() as (session, permit):
                return permit is not None and self._bring_in(session, waiting, asked_at)
        except Exception as error:
            self._shortcuts = self._no_shortcuts()
            if not ledger.is_refused(error):
                if not classify(error).retryable:
                    raise
                self._log.warning("jobs.not_brought", error=first_line(error))
                return False
        with self._planning() as (session, permit):
            if permit is not None:
                self._leave_refused_out(session, waiting)
        return True

    def _bring_in(self, session: Session, waiting: int, asked_at: float) -> bool:
        due = ledger.promote(session, self._refused, self._shortcuts)
        self._turns.came(due)
        return self._sweep(session, waiting, asked_at) > 0 or bool(due)

    def _sweep(self, session: Session, waiting: int, asked_at: float) -> int:
        """Dispatch again what was lost on its way. Not by a look at the broker that has grown old: what has been sent
        since would be taken for what waits there."""
        now = time.monotonic()
        if now - self._swept_at < _SWEEP_SECONDS or now - asked_at > ledger.JUST_SENT_SECONDS:
            return 0
        self._swept_at = now
        held_up = ledger.requeue_held_up(session, self._refused, self._shortcuts)
        if held_up:
            self._log.debug("jobs.held_up", jobs=held_up)
        overdue = ledger.requeue_overdue(session, waiting=waiting, without=self._refused, shortcuts=self._shortcuts)
        if overdue:
            OVERDUE.inc(overdue)
            self._log.warning("jobs.overdue", jobs=overdue)
        return held_up + overdue

    def _leave_refused_out(self, session: Session, waiting: int) -> None:
        now = time.monotonic()
        self._refused = {job_id: until for job_id, until in self._refused.items() if until > now}
        for job_id, error in ledger.find_refused(session, waiting=waiting, without=self._refused).items():
            self._refused[job_id] = now + _SET_ASIDE_SECONDS
            self._log.warning("job.set_aside", job=str(job_id), seconds=_SET_ASIDE_SECONDS, error=first_line(error))

    def _meet_newcomers(self, session: Session) -> None:
        """Whose jobs have just come, while a round takes many looks or not all lanes are looked for."""
        if self._turns.is_long or self._shortcuts.lanes.is_dear:
            came, self._arrived_until = ledger.arrivals(session, since=self._arrived_until, known=self._shortcuts.lanes)
            self._turns.came(came)
        else:
            self._arrived_until = None

    def _plan(
        self, session: Session, depth: int, asked_at: float, *, is_apart: bool, ahead: ledger.Ahead | None
    ) -> "_Look":
        """Fill what room there is.

        A lane that gave less than planned (its jobs are locked by somebody just now) is left out, and the room it did
        not use is planned again: a lane must not starve the others by being locked.
        """
        now = time.monotonic()
        self._set_aside = {lane: until for lane, until in self._set_aside.items() if until > now}
        left_out = set(self._set_aside)
        look: _Look | None = None
        granted = 0
        while True:
            if ahead is None:
                under_way = ledger.load(session, self._shortcuts)
            else:
                under_way = ledger.loaded(ahead.under_way, self._shortcuts)
            sent = 0 if look is None else len(look.messages)
            if look is None:
                self._turns.accounts.measure(under_way, self._turns.samples.ended(session))
                granted = self._take_room(under_way, depth, asked_at)
            left = granted - sent
            # What others have sent since a look at the broker that is too old is in neither count.
            is_old = time.monotonic() - asked_at > ledger.JUST_SENT_SECONDS
            if is_old or not self._broker_takes:  # then one is tried, not all that there seems to be room for
                left = min(left, 1 - sent)
            look = look or _Look(True, left)
            if left <= 0:
                look.wants_more = bool(look.messages) or self._would_send(session, under_way, left_out)
                return look
            places_at, limits = time.monotonic(), self._limits(under_way)
            dispatched = ledger.dispatch_due(
                session,
                self._turns,
                under_way,
                limits,
                capacity=left,
                redispatch_after_seconds=self._settings.redispatch_after,
                left_out=left_out,
                is_apart=is_apart,
                shortcuts=self._shortcuts,
                in_force=self._in_force,
                ahead=ahead,
            )
            ahead = None
            look.messages += dispatched.messages
            look.limits, look.begun_at = limits, look.begun_at or under_way.clock
            look.walks.append(dispatched.walk)
            look.saw_all = dispatched.walk.saw_all
            look.wants_more = len(look.messages) >= left
            if self._take_places(dispatched.walk):
                look.places_at = look.places_at or places_at
            self._note_unknown(dispatched.unknown)
            for lane, error in dispatched.refused.items():
                self._put_aside(lane, error)
            left_out |= dispatched.short | dispatched.refused.keys()
            if not (dispatched.short or dispatched.refused):
                return look

    def _take_room(self, under_way: Load, depth: int, asked_at: float) -> int:
        shared = self._shared
        if shared.window.is_shared:
            shared.caps.know(self.name, under_way.jobs_of_kind)
        return shared.window.take(self.name, depth=depth, just_sent=under_way.messages, asked_at=asked_at)

    def _take_places(self, walk: Walk) -> bool:
        """Whether any places of kinds with a cap were taken, which are those of all ledgers."""
        if not self._shared.window.is_shared:
            return False
        planner = walk.planner
        return self._shared.caps.took(self.name, planner.jobs_of_kind, self._turns.queued(planner))

    def _own_limits(self, under_way: Load) -> Limits:
        usual = self._turns.accounts.usual_seconds
        return limits_of(self._kinds, self._settings, under_way, self._in_force.book(), usual)

    def _limits(self, under_way: Load) -> Limits:
        limits = self._own_limits(under_way)
        if not self._shared.window.is_shared:
            return limits
        if self.name == HOME:
            self._shared.caps.limit(limits.book)
        return replace(limits, cap_of_kind=self._shared.caps.take(self.name, under_way.jobs_of_kind))

    def _would_send(self, session: Session, under_way: Load, left_out: Collection[LaneKey]) -> bool:
        """Whether there is anything to send if there were room: else no share is kept for this ledger."""
        if not self._shared.window.is_shared:
            return False
        walk = ledger.plan(
            session,
            self._turns,
            under_way,
            self._own_limits(under_way),
            capacity=1,
            left_out=left_out,
            shortcuts=self._shortcuts,
        )
        return bool(walk.planner.picks)

    def _put_aside(self, lane: LaneKey, error: Exception) -> None:
        """The server refuses to change its rows. For a while, in memory: the others go on, also after a restart."""
        self._set_aside[lane] = time.monotonic() + _SET_ASIDE_SECONDS
        self._log.warning(
            "lane.set_aside",
            organization=str(lane.organization_id),
            kind=lane.kind[:_SHOWN],
            priority=lane.priority,
            seconds=_SET_ASIDE_SECONDS,
            error=first_line(error),
        )

    def _note_unknown(self, lanes: Collection[LaneKey]) -> None:
        """Those that no look has met for a while are gone."""
        now = time.monotonic()
        before = {lane.kind for lane in self._unknown}
        self._unknown = {lane: met for lane, met in self._unknown.items() if now - met < _UNKNOWN_SECONDS}
        self._unknown |= dict.fromkeys(lanes, now)
        if new := {lane.kind for lane in lanes} - before:
            self._log.warning("kinds.unknown", kinds=[kind[:_SHOWN] for kind in sorted(new)[:_SHOWN]])
