"""The ledger against a plain Python model, under random sequences of everything that can happen to jobs.

The model says what must hold: no job lost, at most one committed effect a job, attempts within bounds, no fenced
attempt finishing, caps and uniqueness kept, whoever renews is not rescued, and what was lost with a worker runs alone.
Time is the model's own: `advance_clock` moves the ledger's times, in steps against which the test's own run time is
nothing.
"""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

import hypothesis.strategies as st
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

from db import ledger
from db.continuity import Continuity
from db.engines import Database
from db.ledger import Claimed, Message
from db.ledger.dispatch import WAITS_AT_MOST_SECONDS
from db.sessions import overseeing, writing
from jobs.testing import advance_clock
from tests.db.ledger.conftest import Steps

MAX_ATTEMPTS = 3
MAX_FAULTS = 2
MAX_GIVEN_BACK = 2
CAP = 4
LEASE_SECONDS = 10
MOST_RUN_SECONDS = 60
"""As `Steps.claim` asks for: nobody renews beyond."""
REDISPATCH_SECONDS = 10
FAILURE = ledger.Failure("E", "m")
KEYS = st.sampled_from(["a", "b", None, None])


@dataclass
class Expected:
    """What the model knows of one job."""

    key: str | None
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


class LedgerMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        with overseeing() as session:
            session.execute(text("DELETE FROM ledger.jobs"))
        self.tenants = [Steps(), Steps()]
        self.jobs: dict[UUID, Expected] = {}
        self.tenant_of: dict[UUID, Steps] = {}
        self.messages: list[tuple[Steps, Message]] = []
        self.sent_at: dict[UUID, float] = {}
        self.attempts: list[tuple[Steps, Claimed]] = []
        self.run_until: dict[UUID, float] = {}
        self.now = 0.0
        self.watched = Continuity()

    def of(self, steps: Steps, *states: str) -> list[UUID]:
        return [one for one, job in self.jobs.items() if self.tenant_of[one] is steps and job.state in states]

    @rule(tenant=st.integers(0, 1), key=KEYS, count=st.integers(1, 3))
    def enqueue(self, tenant: int, key: str | None, count: int) -> None:
        steps = self.tenants[tenant]
        keys = None if key is None else [key] * count
        for job_id in set(steps.enqueue(count, unique_keys=keys, max_attempts=MAX_ATTEMPTS)):
            folded = [
                one
                for one in self.of(steps, "queued", "dispatched")
                if key is not None and self.jobs[one].key == key and not self.jobs[one].ever_claimed
            ]
            assert [job_id] == folded or (not folded and job_id not in self.jobs)
            if not folded:
                self.jobs[job_id] = Expected(key)
                self.tenant_of[job_id] = steps

    @rule(batch=st.integers(1, 3), capacity=st.integers(1, 3))
    def dispatch(self, batch: int, capacity: int) -> None:
        for message in self.tenants[0].dispatch(capacity=capacity, batch_size=batch, cap_of_organization=CAP):
            steps = next(one for one in self.tenants if one.organization_id == message.lane.organization_id)
            self.messages.append((steps, message))
            self.sent_at[message.id] = self.now
            for job_id in message.job_ids:
                job = self.jobs[job_id]
                assert job.state == "queued"
                assert not job.alone or len(message.job_ids) == 1
                job.state, job.message_id = "dispatched", message.id
                job.overdue_at = self.now + min(REDISPATCH_SECONDS * 2**job.dispatches, 600)
                job.dispatches += 1

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), lost=st.booleans(), twice=st.booleans())
    def deliver(self, data: st.DataObject, lost: bool, twice: bool) -> None:
        """A message arrives, is lost, or arrives and stays at the broker for another time."""
        steps, message = data.draw(st.sampled_from(self.messages))
        if not twice:
            self.messages.remove((steps, message))
        if lost:
            return
        self.claim(steps, message)

    def claim(self, steps: Steps, message: Message) -> None:
        claimed = steps.claim(message.job_ids, message_id=message.id, lease=LEASE_SECONDS)
        assert {one.id for one in claimed} == {
            one
            for one in message.job_ids
            if self.jobs[one].state == "dispatched"
            and (not self.jobs[one].alone or self.jobs[one].message_id == message.id)
        }
        for one in claimed:
            job = self.jobs[one.id]
            job.state, job.attempt, job.ever_claimed, job.dispatches = "running", job.attempt + 1, True, 0
            assert one.attempt == job.attempt <= MAX_ATTEMPTS
            self.attempts.append((steps, one))
            self.run_until[one.claim_token] = self.now + MOST_RUN_SECONDS

    @rule(tenant=st.integers(0, 1), count=st.integers(1, 3))
    def run_some(self, tenant: int, count: int) -> None:
        """As things usually go: what is enqueued is dispatched, and what is dispatched is claimed."""
        self.enqueue(tenant, None, count)
        known = len(self.messages)
        self.dispatch(batch=count, capacity=3)
        for steps, message in self.messages[known:]:
            self.claim(steps, message)

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

    def end(self, steps: Steps, claimed: Claimed, how: str) -> None:
        owned, job = self.owns(claimed), self.jobs[claimed.id]
        with writing(steps.organization_id) as session:
            if how == "give_back":
                became = ledger.give_back(session, [claimed], most=MAX_GIVEN_BACK).get(claimed.id)
            elif how == "charge":
                became = ledger.charge(session, [claimed], FAILURE).get(claimed.id)
            elif how == "fail":
                became = "failed" if ledger.fail(session, claimed, FAILURE) else None
            else:
                became = ledger.retry(
                    session, claimed, FAILURE, delay_seconds=1, uses_attempt=how == "retry", max_faults=MAX_FAULTS
                )
        if owned:
            self.note_end(job, how)
        state = {"given_back": "queued", "retried": "queued"}.get(became or "", became)
        assert state == (job.state if owned else None)

    @rule(how=st.sampled_from(["retry", "fault", "charge", "give_back", "die"]))
    def wear_out(self, how: str) -> None:
        """One job ends in the same way again and again, and each message that ever carried it comes once more."""
        self.enqueue(0, None, 1)
        worn = next(reversed(self.jobs))
        for _ in range(MAX_ATTEMPTS * (MAX_GIVEN_BACK + 1)):
            self.time_passes(10)
            self.dispatch(batch=3, capacity=10)
            for steps, message in [one for one in self.messages if worn in one[1].job_ids]:
                self.claim(steps, message)
            if how == "die":
                self.time_passes(30)
                self.sweep()
            for steps, claimed in [one for one in self.attempts if one[1].id == worn and self.owns(one[1])]:
                self.end(steps, claimed, how)

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
        live = self.of(self.tenants[tenant], "queued", "dispatched", "running")[:1]
        if live:
            with overseeing() as session:
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
        """As `worker.judge` looks, by the model's clock."""
        is_sure = self.watched.seconds(self.now) >= LEASE_SECONDS
        with overseeing() as session:
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
            job.state, job.alone = "failed" if job.attempt >= MAX_ATTEMPTS else "queued", True
            job.blamed, job.given_back = True, 0
            assert (one.state, one.attempt) == (job.state, job.attempt)
        return {one.id for one in rescued}

    @rule(waiting=st.integers(0, 2))
    def sweep(self, waiting: int = 0) -> None:
        """A judge who is sure of the leases; and messages that are not among the `waiting` newest were lost."""
        with overseeing() as session:
            self.note_rescued(ledger.rescue_expired(session))
            ledger.requeue_overdue(session, waiting=waiting)
        kept = self.newest_messages(waiting)
        for job in self.jobs.values():
            if job.state == "dispatched" and job.overdue_at <= self.now and job.message_id not in kept:
                job.state = "queued"

    def newest_messages(self, count: int) -> set[UUID]:
        """Of those whose jobs nobody has claimed, and that may still wait at the broker."""
        unclaimed = {job.message_id for job in self.jobs.values() if job.state == "dispatched"}
        sent = [one for one, at in self.sent_at.items() if one in unclaimed and at > self.now - WAITS_AT_MOST_SECONDS]
        return set(sent[-count:]) if count else set()

    @invariant()
    def the_ledger_is_as_the_model_says(self) -> None:
        with overseeing() as session:
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
            for steps, message in self.messages:
                steps.finish(steps.claim(message.job_ids, message_id=message.id))
            with overseeing() as session:
                live = session.scalar(text("SELECT count(*) FROM ledger.jobs WHERE finished_at IS NULL"))
                for job_id, state, attempt in session.execute(text("SELECT id, state, attempt FROM ledger.jobs")):
                    self.jobs[job_id].state, self.jobs[job_id].attempt = state, attempt
            if not live:
                return
        raise AssertionError(f"{live} jobs are stuck")


def test_the_ledger_behaves_as_its_model(opened: Database) -> None:
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
