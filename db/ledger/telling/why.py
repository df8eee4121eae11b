"""`why`: what a job waits for, by the planner's own decision, and about when it will have run.

Whether its lane may send is asked of a `Planner` with the kinds, caps and set-aside lanes that the living dispatcher
has told of itself (`db.ledger.telling.processes`), and with what is under way and paused now. It changes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import and_, func, or_, select, true, tuple_
from sqlalchemy.orm import Session

from docworker.db.ledger.dispatching.buckets import book_of
from docworker.db.ledger.dispatching.limiting import Book, Holding
from docworker.db.ledger.dispatching.planning import Hold, Lane, LaneKey, Limits, Load, Planner, Size
from docworker.db.ledger.dispatching.under_way import load
from docworker.db.ledger.telling.forecast import (
    Forecast,
    Line,
    forecast_of_line,
    forecast_of_run,
    line_of,
    seconds_text,
)
from docworker.db.ledger.telling.processes import NEEDED, ProcessState
from docworker.db.ledger.telling.story import progress_of
from docworker.db.ledger.waiting.keys import key_in_force
from docworker.db.models import Gate, GateMember, Job, JobState, Pause, Suspension
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID
from docworker.db.models.ledger.job import LIVE_STATES

_HOLDERS = 5


@dataclass(frozen=True)
class Reason:
    """`code` is for programs and stays as it is, `text` for people. `details` are what the text is made of."""

    code: str
    text: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """Why a job is where it is: the most important reason first. None of them is left when it has ended."""

    job_id: UUID
    kind: str
    state: str
    reasons: Sequence[Reason]
    forecast: Forecast | None = None


def why(session: Session, job: Job, processes: Sequence[ProcessState]) -> Answer:
    """What the job waits for. For the dispatcher's session on the job's ledger; `processes` are those of home's."""
    now = session.scalar(select(func.clock_timestamp()))
    assert now is not None
    living = _Living(processes)
    match job.state:
        case JobState.WAITING:
            reasons, forecast = [*_of_waiting(session, job), *_missing(living, job.kind)], None
        case JobState.QUEUED:
            return _of_queued(session, job, living, now)
        case JobState.DISPATCHED:
            reasons, forecast = _of_dispatched(job, living, now), None
        case JobState.RUNNING:
            reasons, forecast = _of_running(job, living, now), forecast_of_run(session, job, now)
        case _:
            ended = f" at {job.finished_at:%Y-%m-%d %H:%M:%S %Z}" if job.finished_at is not None else ""
            reasons, forecast = [Reason("ended", f"it has ended: {job.state}{ended}; nothing waits")], None
    return Answer(job.id, job.kind, job.state, reasons, forecast)


class _Living:
    """The processes that live, and what they know."""

    def __init__(self, processes: Sequence[ProcessState]) -> None:
        living = [one for one in processes if one.lives]
        self.workers = [one for one in living if one.role == "worker" and not one.details.get("stopping")]
        self.dispatchers = [one for one in living if one.role == "dispatcher"]

    @property
    def left_out(self) -> set[LaneKey]:
        """The lanes that a dispatcher has set aside."""
        told = [lane for one in self.dispatchers for lane in one.details.get("set_aside") or ()]
        return {LaneKey(UUID(lane[0]), *lane[1:]) for lane in told}

    def slots(self, kind: str) -> int:
        """Processes that could run such a job."""
        return sum(int(one.details.get("processes") or 1) for one in self.workers if kind in one.kinds)

    def limits(self, book: Book) -> Limits:
        """As the dispatcher has them; where none lives, of kinds that are all known."""
        kinds = {kind for one in self.dispatchers for kind in one.kinds}
        caps = {kind: cap for one in self.dispatchers for kind, cap in (one.details.get("caps") or {}).items()}
        of_organization = [one.details.get("cap_of_organization") for one in self.dispatchers]
        return Limits(
            lambda kind: Size(1, 1) if kind in kinds or not self.dispatchers else None,
            cap_of_kind=lambda kind: book.cap_of_kind(kind, caps.get(kind)),
            cap_of_organization=next((cap for cap in of_organization if cap is not None), None),
            book=book,
        )


def _of_waiting(session: Session, job: Job) -> list[Reason]:
    gate = session.get(Gate, (job.organization_id, job.id))
    if job.order_key is not None and (gate is None or not gate.pending):
        return [_of_order(session, job)]
    if job.limit_key is not None and (gate is None or not gate.pending):
        return _of_key(session, job)
    if gate is None:
        return [Reason("waits", "it waits, and no gate of its own tells for what: `docworker jobs cancel` ends it")]
    rows = session.execute(
        select(Job.id, Job.state, Job.claimed_by)
        .join(GateMember, (GateMember.organization_id == Job.organization_id) & (GateMember.job_id == Job.id))
        .where(
            GateMember.organization_id == job.organization_id,
            GateMember.gate_id == job.id,
            GateMember.ended_as.is_(None),
            Job.state.in_(LIVE_STATES),
        )
        .limit(_HOLDERS)
    )
    ended = f"{gate.succeeded:,} have succeeded, {gate.failed:,} failed, {gate.cancelled:,} were cancelled"
    many = gate.pending != 1
    text = f"it waits for the end of {gate.pending:,} job{'s' if many else ''}; {ended}"
    return [Reason("waits_for_jobs", text, {"pending": gate.pending, **_named(rows)})]


def _of_order(session: Session, job: Job) -> Reason:
    """Which one of its key it waits for: the one whose turn it is, else the first before it in line."""
    of_key = select(Job.id, Job.state, Job.claimed_by).where(
        Job.organization_id == job.organization_id, Job.order_key == job.order_key, Job.id != job.id
    )
    admitted = Job.state.in_((JobState.QUEUED, JobState.DISPATCHED, JobState.RUNNING))
    in_line = or_(Job.state == JobState.WAITING, and_(Job.state == JobState.FAILED, Job.blocks))
    before = in_line & (tuple_(Job.order_position, Job.id) < tuple_(job.order_position, job.id))
    row = session.execute(of_key.where(admitted)).first()
    row = row or session.execute(of_key.where(before).order_by(Job.order_position, Job.id).limit(1)).first()
    if row is None:
        return Reason("next_of_key", "it is the next one of its order key: a look of the dispatcher lets it go")
    remedy = ""
    if row.state == JobState.FAILED:
        remedy = ": `docworker jobs retry` runs it again, `docworker jobs release` lets the others pass"
    text = f"it waits for its turn: of its order key the job {row.id} is {row.state}{remedy}"
    return Reason("waits_for_order_key", text, {"order_key": job.order_key, **_named([row])})


def _of_key(session: Session, job: Job) -> list[Reason]:
    """Which ones hold the places of its key, or when its rate lets another go."""
    of_key = and_(Job.organization_id == job.organization_id, Job.limit_key == job.limit_key, ~Job.later)
    key = key_in_force(session, job.organization_id, str(job.limit_key))
    admitted = Job.state.in_((JobState.QUEUED, JobState.DISPATCHED, JobState.RUNNING))
    owes = and_(Job.state == JobState.QUEUED, or_(Job.dispatched_at.is_(None), Job.claimed_at >= Job.dispatched_at))
    places, owing = session.execute(
        select(func.count(), func.count().filter(owes)).select_from(Job).where(of_key, admitted)
    ).one()
    reasons = []
    if key.max_running is not None and places >= key.max_running:
        text = f"of its limit key {key.name!r} at most {key.max_running} run at a time: see `docworker limits list`"
        held_by = _holders(session, of_key)
        reasons.append(Reason("limit_of_key", text, {"limit_key": key.name, "max_running": key.max_running, **held_by}))
    if (rate := key.rate) is not None and owing >= (key.tokens or 0):
        free_in = max(0.0, rate.frees(key.spent_until or 0.0, min(owing + 1, rate.burst)) - key.now)
        per = f"{rate.jobs} in {seconds_text(rate.seconds)}, {rate.burst} at once"
        text = f"the rate of its limit key {key.name!r} is spent, {per}: the next one may go in {seconds_text(free_in)}"
        reasons.append(Reason("rate_of_key", text, {"limit_key": key.name, "free_in_seconds": free_in}))
    if reasons:
        return reasons
    text = "its limit key has a place for it: a look of the dispatcher lets it go"
    return [Reason("next_of_key", text, {"limit_key": key.name, "max_running": key.max_running})]


def _of_queued(session: Session, job: Job, living: _Living, now: datetime) -> Answer:
    if job.later and job.run_at > now:
        due = (job.run_at - now).total_seconds()
        reasons = [Reason("scheduled", f"it is due in {seconds_text(due)}{_after(job)}", {"due_in_seconds": due})]
        return Answer(job.id, job.kind, job.state, reasons, Forecast(due, "it may begin when it is due"))
    under_way = load(session)
    lane = Lane(job.organization_id, job.kind, job.alone, job.priority, 1, job.run_at)
    limits = living.limits(book_of(session))
    planner = Planner(under_way, limits, capacity=1, left_out=living.left_out)
    reasons = _of_hold(session, job, planner, lane, limits, under_way, living)
    reasons += _missing(living, job.kind)
    line = line_of(session, job)
    reasons += _of_dispatcher(living)
    is_served = not reasons
    reasons.append(_of_line(line))
    forecast = forecast_of_line(session, job, line, under_way, living.slots(job.kind)) if is_served else None
    return Answer(job.id, job.kind, job.state, reasons, forecast)


def _after(job: Job) -> str:
    return "" if job.claimed_at is None else ": its latest attempt put it off, or failed (see `docworker jobs show`)"


def _of_limit(session: Session, job: Job, holding: Holding | None) -> list[Reason]:
    if holding is None:  # it has just been lifted
        return []
    rule = holding.rule
    jobs = f"jobs of the kind {rule.kind!r}" if rule.kind else "jobs"
    whose = " of each organization" if rule.is_each else " of its organization"
    of = jobs + ("" if rule.organization_id == SYSTEM_ORGANIZATION_ID and not rule.is_each else whose)
    if holding.is_rate and (rate := rule.rate) is not None:
        text = f"the rate is spent of {rate.jobs} {of} in {seconds_text(rate.seconds)}, {rate.burst} at once"
        return [Reason("rate_spent", text)]
    which = [Job.kind == rule.kind] if rule.kind else []
    if rule.is_each or rule.organization_id != SYSTEM_ORGANIZATION_ID:
        which.append(Job.organization_id == job.organization_id)
    text = f"at most {rule.max_running} {of} run at a time: see `docworker limits list`"
    return [Reason("limit", text, _holders(session, and_(true(), *which)))]


def _of_hold(
    session: Session, job: Job, planner: Planner, lane: Lane, limits: Limits, under_way: Load, living: _Living
) -> list[Reason]:
    match planner.hold_of(lane):
        case Hold.UNKNOWN_KIND:
            releases = sorted({one.release for one in living.dispatchers})
            return [
                Reason(
                    "kind_unknown",
                    f"no living dispatcher knows the kind {job.kind!r}: its package, or its release, is not there",
                    {"releases": releases},
                )
            ]
        case Hold.LEFT_OUT:
            return [Reason("set_aside", "the server refuses to change jobs of its lane: see lane.set_aside in the log")]
        case Hold.PAUSED:
            return _of_pauses(session, job)
        case Hold.ORGANIZATION_AT_CAP:
            held = under_way.jobs_of_organization[job.organization_id]
            cap = limits.cap_of_organization
            text = f"its organization has {held} of at most {cap} jobs under way"
            return [Reason("organization_at_cap", text, _holders(session, Job.organization_id == job.organization_id))]
        case Hold.KIND_AT_CAP:
            cap = limits.cap_of_kind(job.kind)
            text = f"{under_way.jobs_of_kind[job.kind]} of at most {cap} jobs of its kind are under way"
            return [Reason("kind_at_cap", text, _holders(session, Job.kind == job.kind))]
        case Hold.LIMIT | Hold.RATE:
            return _of_limit(session, job, planner.holding_of(lane))
        case None:
            return []


def _holders(session: Session, which: Any) -> dict[str, Any]:
    """Some of the jobs that hold the places, the longest first."""
    under_way = Job.state.in_((JobState.DISPATCHED, JobState.RUNNING))
    statement = select(Job.id, Job.state, Job.claimed_by).where(under_way, which).order_by(Job.dispatched_at)
    return _named(session.execute(statement.limit(_HOLDERS)))


def _named(rows: Iterable[Any]) -> dict[str, Any]:
    return {"held_by": [{"job": row.id, "state": row.state, "worker": row.claimed_by} for row in rows]}


def _of_pauses(session: Session, job: Job) -> list[Reason]:
    reasons = []
    if session.get(Suspension, job.organization_id) is not None:
        text = "its organization is suspended, is being moved, or has been moved away: see `docworker tenants list`"
        reasons.append(Reason("organization_not_served", text))
    places = {
        (job.organization_id, job.kind): "its kind is paused for its organization",
        (job.organization_id, ""): "its organization is paused",
        (SYSTEM_ORGANIZATION_ID, job.kind): "its kind is paused",
    }
    for (organization_id, kind), told in places.items():
        pause = session.get(Pause, (organization_id, kind))
        if pause is not None:
            by = "" if pause.paused_by is None else f" by {pause.paused_by}"
            since = f"{pause.created_at:%Y-%m-%d %H:%M:%S %Z}"
            text = f"{told}{by}, since {since}: `docworker jobs resume` takes that back"
            details = {"since": pause.created_at, "by": pause.paused_by, "kind": kind or None}
            reasons.append(Reason("paused", text, details))
    return reasons


def _missing(living: _Living, kind: str) -> list[Reason]:
    reasons = []
    if not living.dispatchers:
        reasons.append(Reason("no_dispatcher", NEEDED["dispatcher"]))
    if not living.workers:
        reasons.append(Reason("no_worker", NEEDED["worker"]))
    elif not living.slots(kind):
        reasons.append(Reason("kind_unknown_to_workers", f"no living worker knows the kind {kind!r}"))
    return reasons


def _of_dispatcher(living: _Living) -> list[Reason]:
    """What keeps the planning one from sending anything."""
    planning = [one for one in living.dispatchers if one.details.get("plans")] or living.dispatchers
    if not planning:
        return []
    if failure := next((one.details["failure"] for one in planning if one.details.get("failure")), None):
        return [Reason("dispatcher_waits", f"the dispatcher waits: {failure}", {"failure": failure})]
    if all(one.details.get("room") == 0 for one in planning):
        return [Reason("broker_full", "as many messages as the broker is to hold wait there: workers take them first")]
    return []


def _of_line(line: Line) -> Reason:
    jobs = (
        "1 job of its organization is" if line.jobs_ahead == 1 else f"{line.jobs_ahead:,} jobs of its organization are"
    )
    own = f"{jobs} more urgent, or as urgent and older"
    if line.is_cut:
        own = own.replace(f"{line.jobs_ahead:,}", f"more than {line.jobs_ahead:,}")
    others = line.organizations - 1
    turns = f", and {others:,} other organizations with jobs take turns with it" if others > 0 else ""
    details = {"jobs_ahead": line.jobs_ahead, "organizations": line.organizations}
    return Reason("in_line", f"it is due and stands in line: {own}{turns}", details)


def _of_dispatched(job: Job, living: _Living, now: datetime) -> list[Reason]:
    since = 0.0 if job.dispatched_at is None else (now - job.dispatched_at).total_seconds()
    again = 0.0 if job.redispatch_at is None else (job.redispatch_at - now).total_seconds()
    text = f"it was sent to the broker {seconds_text(since)} ago, and no worker has taken it yet"
    if job.dispatches > 1:
        text += f" (the {job.dispatches}. time)"
    text += f"; it is sent again in {seconds_text(again)} unless it still waits there" if again > 0 else ""
    sent = Reason("dispatched", text, {"seconds": since, "dispatches": job.dispatches})
    return [*[one for one in _missing(living, job.kind) if one.code != "no_dispatcher"], sent]


def _of_running(job: Job, living: _Living, now: datetime) -> list[Reason]:
    since = 0.0 if job.claimed_at is None else (now - job.claimed_at).total_seconds()
    left = 0.0 if job.lease_expires_at is None else (job.lease_expires_at - now).total_seconds()
    details: dict[str, Any] = {"seconds": since, "worker": job.claimed_by, "lease_seconds": left}
    if left <= 0:
        text = f"its lease ended {seconds_text(-left)} ago: {job.claimed_by} is silent, and it is to be taken back"
        lost = [Reason("lease_ended", text, details)]
        return lost if living.dispatchers else [*lost, Reason("no_dispatcher", "no dispatcher lives to do so")]
    text = f"attempt {job.attempt} of {job.max_attempts} runs on {job.claimed_by} since {seconds_text(since)}"
    if (progress := progress_of(job)) is not None:
        details["progress"] = progress
    return [Reason("running", text, details)]
