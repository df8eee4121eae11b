"""The ledger against a plain Python model, under random sequences of everything that can happen to jobs.

The model says what must hold: no job lost, at most one committed effect a job, attempts within bounds, no fenced
attempt finishing, caps and uniqueness kept.
"""

from collections import Counter
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
from db.engines import Database
from db.ledger import Claimed, Message
from db.sessions import overseeing, writing
from jobs.testing import advance_clock
from tests.db.ledger.conftest import Steps

MAX_ATTEMPTS = 3
CAP = 4
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


class LedgerMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        with overseeing() as session:
            session.execute(text("DELETE FROM ledger.jobs"))
        self.tenants = [Steps(), Steps()]
        self.jobs: dict[UUID, Expected] = {}
        self.tenant_of: dict[UUID, Steps] = {}
        self.messages: list[tuple[Steps, Message]] = []
        self.attempts: list[tuple[Steps, Claimed]] = []

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
            for job_id in message.job_ids:
                assert self.jobs[job_id].state == "queued"
                self.jobs[job_id].state = "dispatched"

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), lost=st.booleans(), twice=st.booleans())
    def deliver(self, data: st.DataObject, lost: bool, twice: bool) -> None:
        """A message arrives, is lost, or arrives and stays at the broker for another time."""
        steps, message = data.draw(st.sampled_from(self.messages))
        if not twice:
            self.messages.remove((steps, message))
        if lost:
            return
        claimed = steps.claim(message.job_ids, message_id=message.id)
        for one in claimed:
            job = self.jobs[one.id]
            assert job.state == "dispatched"
            job.state, job.attempt, job.ever_claimed = "running", job.attempt + 1, True
            assert one.attempt == job.attempt <= MAX_ATTEMPTS
            self.attempts.append((steps, one))

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
    @rule(data=st.data(), how=st.sampled_from(["retry", "fault", "fail", "give_back", "renew"]))
    def end_otherwise(self, data: st.DataObject, how: str) -> None:
        steps, claimed = data.draw(st.sampled_from(self.attempts))
        owned, job = self.owns(claimed), self.jobs[claimed.id]
        with writing(steps.organization_id) as session:
            if how == "give_back":
                assert bool(ledger.give_back(session, [claimed], most=1000)) == owned
            elif how == "renew":
                assert bool(ledger.renew(session, [claimed], lease_seconds=10)) == owned
            elif how == "fail":
                assert ledger.fail(session, claimed, FAILURE) == owned
            else:
                state = ledger.retry(
                    session, claimed, FAILURE, delay_seconds=1, uses_attempt=how == "retry", max_faults=50
                )
                assert (state is not None) == owned
        if not owned or how == "renew":
            return
        if how == "fail" or (how == "retry" and job.attempt >= MAX_ATTEMPTS):
            job.state = "failed"
        else:
            job.state = "queued"
            job.attempt -= how != "retry"

    @rule(tenant=st.integers(0, 1))
    def cancel(self, tenant: int) -> None:
        live = self.of(self.tenants[tenant], "queued", "dispatched", "running")[:1]
        if live:
            with overseeing() as session:
                assert ledger.cancel(session, ledger.Filter(), live) == live
            self.jobs[live[0]].state = "cancelled"

    @rule(seconds=st.sampled_from([1, 5, 30, 3600]))
    def time_passes(self, seconds: int) -> None:
        advance_clock(seconds)

    @rule()
    def sweep(self) -> None:
        with overseeing() as session:
            for rescued in ledger.rescue_expired(session):
                job = self.jobs[rescued.id]
                assert job.state == "running"
                job.state = "failed" if job.attempt >= MAX_ATTEMPTS else "queued"
                assert rescued.state == job.state
            ledger.requeue_overdue(session)
            overdue = set(session.scalars(text("SELECT id FROM ledger.jobs WHERE state = 'queued'")))
        for job_id, job in self.jobs.items():
            if job.state == "dispatched" and job_id in overdue:
                job.state = "queued"

    @invariant()
    def the_ledger_is_as_the_model_says(self) -> None:
        with overseeing() as session:
            rows = {row.id: row for row in session.execute(text("SELECT * FROM ledger.jobs")).all()}
        assert rows.keys() == self.jobs.keys()
        for job_id, job in self.jobs.items():
            assert (rows[job_id].state, rows[job_id].attempt) == (job.state, job.attempt)
            assert job.effects == (job.state == "succeeded")
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
            advance_clock(3600)
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
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
