"""The ledger against a plain Python model, under random sequences of everything that can happen to jobs.

The model says what must hold: no job lost, at most one committed effect a job, attempts within bounds, no fenced
attempt finishing, caps and uniqueness kept, whoever renews is not rescued, what was lost with a worker runs alone, what
is locked waits, a change that was folded in is processed, and a row that cannot be read fails alone.
Time is the model's own: `advance_clock` moves the ledger's times, in steps against which the test's own run time is
nothing.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.cluster import Database
from docworker.db.ledger import Claimed, Message
from docworker.db.ledger.dispatching.requeue import WAITS_AT_MOST_SECONDS
from docworker.db.models.ledger.job import LIVE_STATES
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs import task
from docworker.jobs.execution.continuity import Continuity
from docworker.jobs.execution.leases import clear_stop, request_stop
from docworker.jobs.execution.message import run_message
from docworker.jobs.testing import advance_clock
from tests.support.database import reopened_database
from tests.support.ledger import LedgerSteps

MAX_ATTEMPTS = 3
MAX_FAULTS = 2
MAX_GIVEN_BACK = 2
CAP = 4
LEASE_SECONDS = 10
MOST_RUN_SECONDS = 60
"""As `LedgerSteps.claim` asks for: nobody renews beyond."""
REDISPATCH_SECONDS = 10
FAILURE = ledger.Failure("E", "m")
KEYS = st.sampled_from(["a", "b", None, None])
SPOILT = {
    "garbled": f"""arguments = '{{"deep": {"[" * 3000}{"]" * 3000}}}'""",
    "spent": "attempt = max_attempts",
}
"""What the table's constraints allow, and no worker can run."""

MOST_CLAIMS = (MAX_ATTEMPTS + MAX_FAULTS) * (MAX_GIVEN_BACK + 1)
"""Whatever is refunded: each attempt that counts, and each fault, after as many that are given back."""

HOW = st.sampled_from(["return", "return, stopping", "see the stop", "raise", "raise, stopping"])
told: dict[UUID, str] = {}


@task.job(name=LedgerSteps.kind)
def do_as_told(attempt: task.Attempt, number: int) -> None:
    how = told[attempt.id]
    if "stop" in how:
        request_stop(60)
    if how == "see the stop":
        assert attempt.should_stop
    if how.startswith("raise"):
        raise RuntimeError(how)


@dataclass
class Expected:
    """What the model knows of one job."""

    key: str | None
    number: int
    state: str = "queued"
    attempt: int = 0
    ever_claimed: bool = False
    effects: int = 0
    faults: int = 0
    given_back: int = 0
    blamed: bool = False
    alone: bool = False
    dispatches: int = 0
    message_id: UUID | None = None
    overdue_at: float = 0.0
    claims: int = 0
    garbled: bool = False

    @property
    def is_runnable(self) -> bool:
        return not self.garbled and self.attempt < MAX_ATTEMPTS


class LedgerMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        with all_jobs_session() as session:
            session.execute(text("DELETE FROM ledger.jobs"))
        self.tenants = [LedgerSteps(), LedgerSteps()]
        self.jobs: dict[UUID, Expected] = {}
        self.tenant_of: dict[UUID, LedgerSteps] = {}
        self.messages: list[Message] = []
        self.sent_at: dict[UUID, float] = {}
        self.attempts: list[tuple[LedgerSteps, Claimed]] = []
        self.run_until: dict[UUID, float] = {}
        self.now = 0.0
        self.watched = Continuity()
        self.held: set[UUID] = set()
        self.entered = 0

    def of(self, steps: LedgerSteps, *states: str) -> list[UUID]:
        return [one for one, job in self.jobs.items() if self.tenant_of[one] is steps and job.state in states]

    @rule(tenant=st.integers(0, 1), key=KEYS, count=st.integers(1, 3))
    def enqueue(self, tenant: int, key: str | None, count: int) -> None:
        steps = self.tenants[tenant]
        keys = None if key is None else [key] * count
        self.entered += 1
        ids = steps.enqueue(
            count, arguments=[{"number": self.entered}] * count, unique_keys=keys, max_attempts=MAX_ATTEMPTS
        )
        for job_id in dict.fromkeys(ids):
            self.note_entered(steps, key, job_id)

    def unclaimed(self, steps: LedgerSteps, key: str | None) -> list[UUID]:
        """The job that takes what is enqueued with this key."""
        waiting = [] if key is None else self.of(steps, "queued", "dispatched")
        return [one for one in waiting if self.jobs[one].key == key and not self.jobs[one].ever_claimed]

    def note_entered(self, steps: LedgerSteps, key: str | None, job_id: UUID) -> None:
        folded = self.unclaimed(steps, key)
        assert [job_id] == folded or (not folded and job_id not in self.jobs)
        if not folded:
            self.jobs[job_id] = Expected(key, self.entered)
            self.tenant_of[job_id] = steps
            return
        into = self.jobs[job_id]
        into.number, into.garbled = self.entered, False
        if into.state == "dispatched":
            into.overdue_at = min(into.overdue_at, self.now + 1)
            self.time_passes(10)

    @rule(data=st.data(), tenant=st.integers(0, 1), key=st.sampled_from(["a", "b"]), is_kept=st.booleans())
    def fold_slowly(self, data: st.DataObject, tenant: int, key: str, is_kept: bool) -> None:
        """A producer takes long between its change and its COMMIT, or changes its mind."""
        steps = self.tenants[tenant]
        self.enqueue(tenant, key, 1)
        if data.draw(st.booleans()):
            self.dispatch(batch=3, capacity=3)
        self.entered += 1
        into = self.unclaimed(steps, key)
        with writing(steps.organization_id) as producer:
            (job_id,) = ledger.insert_jobs(
                producer,
                steps.organization_id,
                steps.kind,
                [{"number": self.entered}],
                max_attempts=MAX_ATTEMPTS,
                unique_keys=[key],
            )
            with self.holding(into):
                self.meanwhile(data)
            if not is_kept:
                producer.rollback()
        if is_kept:
            self.note_entered(steps, key, job_id)

    @rule(data=st.data(), tenant=st.integers(0, 1))
    def somebody_holds(self, data: st.DataObject, tenant: int) -> None:
        """An operator, or a program that stands still, has locked some jobs."""
        self.enqueue(tenant, None, 2)
        self.dispatch(batch=2, capacity=3)
        ids = data.draw(st.lists(st.sampled_from(list(self.jobs)), min_size=1, max_size=3, unique=True))
        with all_jobs_session() as session, self.holding(ids):
            session.execute(text("SELECT FROM ledger.jobs WHERE id = ANY(:ids) FOR NO KEY UPDATE"), {"ids": ids})
            self.meanwhile(data)

    @contextmanager
    def holding(self, ids: Collection[UUID]) -> Iterator[None]:
        self.held = set(ids)
        yield
        self.held = set()

    def meanwhile(self, data: st.DataObject) -> None:
        """What waits for no lock: it goes on with the other jobs."""
        step = data.draw(st.sampled_from(["dispatch", "claim", "claim", "sweep", "change"]))
        if step == "dispatch":
            self.dispatch(batch=3, capacity=3)
        elif step == "claim":
            for message in [one for one in self.messages if self.held & set(one.job_ids)]:
                self.claim(message, len(message.job_ids))
        elif step == "sweep":
            self.sweep()
        elif step == "change":
            self.change_some(data.draw(st.sampled_from([ledger.CANCEL, ledger.RETRY])))

    @rule(change=st.sampled_from([ledger.CANCEL, ledger.RETRY, ledger.RETRY]))
    def change_some(self, change: ledger.Change) -> None:
        """An operator's next chunk of jobs, passing over what is locked."""
        chosen = sorted(
            (self.tenant_of[one].organization_id, one) for one, job in self.jobs.items() if job.state in change.states
        )
        with all_jobs_session() as session:
            keys = ledger.next_keys(session, change, ledger.Filter(), after=None, most=2)
            assert keys == chosen[:2]
            changed = ledger.change_keys(session, change, keys, skip_locked=True) if keys else []
        assert set(changed) == {job_id for _, job_id in keys} - self.held
        for job_id in changed:
            job = self.jobs[job_id]
            if change is ledger.CANCEL:
                job.state = "cancelled"
            else:
                job.state, job.attempt, job.faults, job.given_back, job.dispatches = "queued", 0, 0, 0, 0
                job.ever_claimed, job.claims = True, 0

    @rule(data=st.data(), tenant=st.integers(0, 1), key=KEYS, how=st.sampled_from(list(SPOILT)), late=st.booleans())
    def spoil(self, data: st.DataObject, tenant: int, key: str | None, how: str, late: bool) -> None:
        """Somebody writes to the table past docworker, before or after the dispatch."""
        self.enqueue(tenant, key, 1)
        self.enqueue(tenant, None, 1)
        known = len(self.messages)
        if late:
            self.dispatch(batch=3, capacity=3)
        waiting = [one for one, job in self.jobs.items() if job.state in ("queued", "dispatched")]
        job_id = data.draw(st.sampled_from(waiting))
        with all_jobs_session() as session:
            session.execute(text(f"UPDATE ledger.jobs SET {SPOILT[how]} WHERE id = :id"), {"id": job_id})
        self.jobs[job_id].garbled |= how == "garbled"
        if how == "spent":
            self.jobs[job_id].attempt = MAX_ATTEMPTS
        self.dispatch(batch=3, capacity=3)
        for message in self.messages[known:]:
            self.claim(message, len(message.job_ids))

    @rule(batch=st.integers(1, 3), capacity=st.integers(1, 3))
    def dispatch(self, batch: int, capacity: int) -> None:
        for message in self.tenants[0].dispatch(capacity=capacity, batch_size=batch, cap_of_organization=CAP):
            self.messages.append(message)
            self.sent_at[message.id] = self.now
            for job_id in message.job_ids:
                job = self.jobs[job_id]
                assert job.state == "queued"
                assert job_id not in self.held
                assert not job.alone or len(message.job_ids) == 1
                job.state, job.message_id = "dispatched", message.id
                job.overdue_at = self.now + min(REDISPATCH_SECONDS * 2**job.dispatches, 600)
                job.dispatches += 1

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), lost=st.booleans(), twice=st.booleans())
    def deliver(self, data: st.DataObject, lost: bool, twice: bool) -> None:
        """A message arrives, is lost, or arrives and stays at the broker for another time."""
        message = data.draw(st.sampled_from(self.messages))
        if not twice:
            self.messages.remove(message)
        if lost:
            return
        self.claim(message, data.draw(st.integers(1, len(message.job_ids))))

    def claim(self, message: Message, most: int) -> None:
        """Begin that many of the jobs, and hand the others back."""
        for part in message.parts:
            steps = self.owner_of(part)
            begun, left = part.job_ids[:most], part.job_ids[most:]
            most -= len(begun)
            self.claim_part(steps, message, begun)
            steps.hand_back(left, message_id=message.id)
            self.note_handed_back(message, left)

    def note_handed_back(self, message: Message, ids: Sequence[UUID]) -> None:
        for one in self.claimable(ids):
            job = self.jobs[one]
            if job.message_id == message.id:
                job.state, job.message_id, job.dispatches = "queued", None, max(job.dispatches - 1, 0)

    def owner_of(self, part: ledger.Part) -> LedgerSteps:
        return next(one for one in self.tenants if one.organization_id == part.organization_id)

    def claim_part(self, steps: LedgerSteps, message: Message, ids: Sequence[UUID]) -> None:
        runnable = self.note_claimed(message, ids)
        claimed = steps.claim(ids, message_id=message.id, lease=LEASE_SECONDS)
        assert [one.id for one in claimed] == runnable
        for one in claimed:
            assert (one.attempt, one.arguments) == (self.jobs[one.id].attempt, {"number": self.jobs[one.id].number})
            assert one.claim_token not in self.run_until, "each claim has a token of its own"
            self.attempts.append((steps, one))
            self.run_until[one.claim_token] = self.now + MOST_RUN_SECONDS

    def note_claimed(self, message: Message, ids: Sequence[UUID]) -> list[UUID]:
        """Those of a message's jobs that a worker now gets; what it cannot run fails on the way."""
        runnable = []
        for job_id in self.claimable(ids):
            job = self.jobs[job_id]
            is_spent = job.attempt >= MAX_ATTEMPTS
            if not is_spent and job.alone and job.message_id != message.id:
                continue
            if job.is_runnable:
                runnable.append(job_id)
            job.state, job.blamed = ("running", job.blamed) if job.is_runnable else ("failed", True)
            if not is_spent:
                job.attempt, job.ever_claimed, job.dispatches = job.attempt + 1, True, 0
                job.claims += 1
                assert job.claims <= MOST_CLAIMS
        return runnable

    def claimable(self, ids: Sequence[UUID]) -> list[UUID]:
        return [one for one in ids if self.jobs[one].state == "dispatched" and one not in self.held]

    @precondition(lambda self: any(self.jobs[one].state == "queued" for one in self.jobs))
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        """Messages run as a worker runs them, by a function that returns, raises, or is asked to stop and sees it or
        not. One that returned without having seen it has succeeded."""
        known = len(self.messages)
        self.dispatch(batch=3, capacity=2)
        for message in self.messages[known:]:
            told.update((one, data.draw(HOW)) for one in message.job_ids)
            expected = self.note_work(message)
            try:
                ran = run_message(do_as_told.kind, message.parts, message.id)
            finally:
                clear_stop()
            assert ran == expected

    def note_work(self, message: Message) -> int:
        """One job after the other, until a stop was asked for; returns how many ran."""
        ran, is_stopping = 0, False
        for job_id in message.job_ids:
            if is_stopping:
                self.note_handed_back(message, [job_id])
            elif self.note_claimed(message, [job_id]):
                ran += 1
                is_stopping = "stop" in told[job_id]
                self.note_ran(self.jobs[job_id], told[job_id])
        return ran

    def note_ran(self, job: Expected, how: str) -> None:
        if how == "see the stop":
            self.note_end(job, "give_back")
        elif how.startswith("return"):
            job.state, job.effects = "succeeded", job.effects + 1
        else:
            self.note_end(job, "retry")

    @rule(tenant=st.integers(0, 1), count=st.integers(1, 3))
    def run_some(self, tenant: int, count: int) -> None:
        """As things usually go: what is enqueued is dispatched, and what is dispatched is claimed."""
        self.enqueue(tenant, None, count)
        known = len(self.messages)
        self.dispatch(batch=count, capacity=3)
        for message in self.messages[known:]:
            self.claim(message, len(message.job_ids))

    def owns(self, claimed: Claimed) -> bool:
        return self.jobs[claimed.id].state == "running" and self.current[claimed.id] == claimed.claim_token

    @property
    def current(self) -> dict[UUID, UUID]:
        """The latest token of each job: attempts are appended as they are claimed."""
        return {one.id: one.claim_token for _, one in self.attempts}

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), size=st.integers(1, 3))
    def finish(self, data: st.DataObject, size: int) -> None:
        steps, _ = data.draw(st.sampled_from(self.attempts))
        mine = [one for owner, one in self.attempts if owner is steps][-size:]
        finished = steps.finish(mine)
        assert finished == {one.id for one in mine if self.owns(one)}
        for job_id in finished:
            self.jobs[job_id].state = "succeeded"
            self.jobs[job_id].effects += 1

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), how=st.sampled_from(["retry", "fault", "fail", "charge", "give_back", "give_back"]))
    def end_otherwise(self, data: st.DataObject, how: str) -> None:
        self.end(*data.draw(st.sampled_from(self.attempts)), how)

    def end(self, steps: LedgerSteps, claimed: Claimed, how: str) -> None:
        owned, job = self.owns(claimed), self.jobs[claimed.id]
        with writing(steps.organization_id) as session:
            if how == "give_back":
                became: str | None = ledger.give_back(session, [claimed], most=MAX_GIVEN_BACK).get(claimed.id)
            elif how == "charge":
                became = ledger.charge(session, [claimed], FAILURE).get(claimed.id)
            elif how == "fail":
                became = "failed" if ledger.fail(session, claimed, FAILURE) else None
            else:
                became = ledger.retry(
                    session, claimed, FAILURE, delay_seconds=0, uses_attempt=how == "retry", max_faults=MAX_FAULTS
                )
        if owned:
            self.note_end(job, how)
        state = {"given_back": "queued", "retried": "queued"}.get(became or "", became)
        assert state == (job.state if owned else None)

    @rule(how=st.sampled_from(["retry", "fault", "charge", "give_back", "die"]))
    def wear_out(self, how: str) -> None:
        """One job ends in the same way again and again, each message that ever carried it comes once more, and each
        attempt that is over tries to end once more."""
        self.tenants.append(LedgerSteps())  # whose other jobs do not take up its room
        self.enqueue(len(self.tenants) - 1, None, 1)
        worn = next(reversed(self.jobs))
        for _ in range(MAX_ATTEMPTS * (MAX_GIVEN_BACK + 1)):
            self.time_passes(10)
            self.dispatch(batch=3, capacity=10)
            for message in [one for one in self.messages if worn in one.job_ids]:
                self.claim(message, len(message.job_ids))
            if how == "die":
                self.time_passes(30)
                self.sweep()
            mine = [one for one in self.attempts if one[1].id == worn]
            for steps, claimed in sorted(mine, key=lambda one: self.owns(one[1])):
                if not self.owns(claimed):
                    assert steps.finish([claimed]) == set()
                    self.end(steps, claimed, "fail")
                if self.owns(claimed) or claimed is mine[0][1]:
                    self.end(steps, claimed, "charge" if how == "die" else how)

    def note_end(self, job: Expected, how: str) -> None:
        """What it costs: an attempt, or one of the faults or returns that are free; the reason is kept."""
        if how == "give_back" and job.given_back < MAX_GIVEN_BACK:
            job.state, job.attempt, job.given_back = "queued", job.attempt - 1, job.given_back + 1
            return
        job.blamed, job.given_back = True, 0
        job.faults += how == "fault"
        used_up = job.faults >= MAX_FAULTS if how == "fault" else job.attempt >= MAX_ATTEMPTS
        job.state = "failed" if how == "fail" or used_up else "queued"
        job.attempt -= how == "fault" and not used_up

    @rule(tenant=st.integers(0, 1))
    def cancel(self, tenant: int) -> None:
        live = self.of(self.tenants[tenant], *LIVE_STATES)[:1]
        if live:
            with all_jobs_session() as session:
                assert ledger.cancel(session, ledger.Filter(), live) == live
            self.jobs[live[0]].state = "cancelled"

    @rule(seconds=st.sampled_from([10, 30, 3600]))
    def time_passes(self, seconds: float) -> None:
        """Nobody renews, and nobody judges."""
        advance_clock(seconds)
        self.now += seconds

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), stall=st.sampled_from([0, 20]))
    def watch(self, data: st.DataObject, stall: int) -> None:
        """After a stall of everybody a judge looks for two leases; some attempts live, and renew as soon as they can.
        Only the others are rescued, and no one before the judge has watched for a whole lease."""
        attempts = [claimed for _, claimed in self.attempts if self.owns(claimed)]
        end = self.now + stall + 2 * LEASE_SECONDS
        living = [one for one in attempts if end < self.run_until[one.claim_token] and data.draw(st.booleans())]
        self.time_passes(stall)
        begun = self.now
        for second in range(0, 2 * LEASE_SECONDS, 2):
            rescued = self.look()
            assert not rescued & {one.id for one in living}
            assert not rescued or not stall or self.now >= begun + LEASE_SECONDS
            if second % 4 == 0:
                self.renew(living)
            self.time_passes(2)
        left = {one.id for one in attempts if self.owns(one)}
        assert left == {one.id for one in living}, "the dead were rescued all the same"

    def look(self) -> set[UUID]:
        """As `worker.dispatcher.judge` looks, by the model's clock."""
        is_sure = self.watched.seconds(self.now) >= LEASE_SECONDS
        with all_jobs_session() as session:
            real = ledger.master_seconds(session)
            until = real - (self.now - self.watched.master_seconds(self.now)) if is_sure else -math.inf
            rescued = self.note_rescued(ledger.rescue_expired(session, until=until))
        self.watched.looked(asked_at=self.now, answered_at=self.now, master_seconds=self.now)
        return rescued

    def renew(self, living: Collection[Claimed]) -> None:
        for steps in self.tenants:
            mine = [one for one in living if one.organization_id == steps.organization_id]
            with writing(steps.organization_id) as session:
                assert ledger.renew(session, mine, lease_seconds=LEASE_SECONDS) == {one.id for one in mine}

    def note_rescued(self, rescued: Sequence[ledger.Rescued]) -> set[UUID]:
        for one in rescued:
            job = self.jobs[one.id]
            assert job.state == "running"
            assert one.id not in self.held
            job.state, job.alone = "failed" if job.attempt >= MAX_ATTEMPTS else "queued", True
            job.blamed, job.given_back = True, 0
            assert (one.state, one.attempt) == (job.state, job.attempt)
        return {one.id for one in rescued}

    @rule(waiting=st.integers(0, 2))
    def sweep(self, waiting: int = 0) -> None:
        """A judge who is sure of the leases; and messages that are not among the `waiting` newest were lost."""
        with all_jobs_session() as session:
            self.note_rescued(ledger.rescue_expired(session))
            ledger.requeue_overdue(session, waiting=waiting)
        kept = self.newest_messages(waiting)
        for job_id, job in self.jobs.items():
            is_overdue = job.state == "dispatched" and job.overdue_at <= self.now and job.message_id not in kept
            if is_overdue and job_id not in self.held:
                job.state = "queued"

    def newest_messages(self, count: int) -> set[UUID]:
        """Of those whose jobs nobody has claimed, and that may still wait at the broker."""
        unclaimed = {job.message_id for job in self.jobs.values() if job.state == "dispatched"}
        sent = [one for one, at in self.sent_at.items() if one in unclaimed and at > self.now - WAITS_AT_MOST_SECONDS]
        return set(sent[-count:]) if count else set()

    @invariant()
    def the_ledger_is_as_the_model_says(self) -> None:
        with all_jobs_session() as session:
            rows = {row.id: row for row in session.execute(text("SELECT * FROM ledger.jobs")).all()}
        assert rows.keys() == self.jobs.keys()
        for job_id, job in self.jobs.items():
            assert (rows[job_id].state, rows[job_id].attempt, rows[job_id].alone) == (job.state, job.attempt, job.alone)
            assert job.effects == (job.state == "succeeded")
            assert bool(rows[job_id].error_class) == (job.blamed and job.state != "succeeded"), "the reason is kept"
        under_way = Counter(row.organization_id for row in rows.values() if row.state in ("dispatched", "running"))
        assert all(count <= CAP for count in under_way.values())
        waiting = Counter(
            (row.organization_id, row.unique_key)
            for row in rows.values()
            if row.unique_key and row.claimed_at is None and row.state in ("queued", "dispatched")
        )
        assert all(count == 1 for count in waiting.values())

    def teardown(self) -> None:
        """Whatever happened, what is left can be run to its end: nothing is stuck."""
        for _ in range(MAX_ATTEMPTS + 60):
            self.time_passes(3600)
            self.sweep()
            self.messages.clear()
            self.dispatch(batch=10, capacity=10)
            for message in self.messages:
                for part in message.parts:
                    steps = LedgerSteps(part.organization_id)
                    steps.finish(steps.claim(part.job_ids, message_id=message.id))
            with all_jobs_session() as session:
                live = session.scalar(text("SELECT count(*) FROM ledger.jobs WHERE finished_at IS NULL"))
                for job_id, state, attempt in session.execute(text("SELECT id, state, attempt FROM ledger.jobs")):
                    self.jobs[job_id].state, self.jobs[job_id].attempt = state, attempt
            if not live:
                return
        raise AssertionError(f"{live} jobs are stuck")


@pytest.mark.parametrize("runs", [12, pytest.param(60, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_the_ledger_behaves_as_its_model(opened: Database, runs: int) -> None:
    with reopened_database(max_given_back=MAX_GIVEN_BACK, backoff_base=0.001, backoff_max=0.001):
        run_state_machine_as_test(
            LedgerMachine,
            settings=settings(
                max_examples=runs,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
