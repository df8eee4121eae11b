"""Jobs that wait for others, against a plain model: fan-outs, chains, callbacks of callbacks, and whole trees, which
are cancelled and run again in any order.

The model knows states and who waits for whom, and no counters: a gate is decided when all it knows of have ended. That
the test sees a broken trigger is tested as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
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
from docworker.db.cluster.engines import owner_engine
from docworker.db.ledger.waiting.gates import When
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.settings import settings as docworker_settings
from tests.support.database import opened_database
from tests.support.ledger import LedgerSteps

MOST_JOBS = 8
WHEN = st.sampled_from(["succeeded", "failed", "any"])


@dataclass
class Expected:
    """What the model knows of a job. `known` are those that it waits for; of a tree, those that were seen so far."""

    state: str = "queued"
    children: list[UUID] = field(default_factory=list)
    when: When | None = None
    is_tree: bool = False
    known: set[UUID] = field(default_factory=set)
    by_condition: bool = False
    """Whether it was its condition that cancelled it, and nobody's hand."""

    @property
    def is_live(self) -> bool:
        return self.state in ("waiting", "queued")


class GatesMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.steps = LedgerSteps()
        self.jobs: dict[UUID, Expected] = {}

    # What the model does

    def of(self, *states: str, is_gated: bool | None = None) -> list[UUID]:
        return [
            one for one, job in self.jobs.items() if job.state in states and is_gated in (None, job.when is not None)
        ]

    def absorb(self, gate: Expected, found: Sequence[UUID]) -> None:
        """Of a tree, the children of those that have ended are known."""
        for one in found:
            gate.known.add(one)
            if gate.is_tree and not self.jobs[one].is_live:
                self.absorb(gate, [child for child in self.jobs[one].children if child not in gate.known])

    def gates_of(self, job_id: UUID) -> Iterator[UUID]:
        yield from (one for one, gate in self.jobs.items() if job_id in gate.known)

    def decide(self, gate_id: UUID) -> None:
        gate = self.jobs[gate_id]
        states = [self.jobs[one].state for one in gate.known]
        if gate.state != "waiting" or any(self.jobs[one].is_live for one in gate.known):
            return
        all_succeeded = all(one == "succeeded" for one in states)
        if gate.when == "any" or all_succeeded == (gate.when == "succeeded"):
            gate.state = "queued"
        else:
            self.end(gate_id, "cancelled", by_condition=True)

    def end(self, job_id: UUID, state: str, *, by_condition: bool = False) -> None:
        job = self.jobs[job_id]
        job.state, job.by_condition = state, by_condition
        for gate_id in [*self.gates_of(job_id)]:
            self.absorb(self.jobs[gate_id], [job_id])
            self.decide(gate_id)

    def revive(self, job_id: UUID) -> None:
        job = self.jobs[job_id]
        waits = any(self.jobs[one].is_live for one in job.known)
        job.state, job.by_condition = "waiting" if waits else "queued", False
        for gate_id in self.gates_of(job_id):
            if self.jobs[gate_id].by_condition:
                self.revive(gate_id)

    def tree_of(self, job_id: UUID) -> list[UUID]:
        """It, its children, and what waits for any of them; in the order they came in, what waits behind the others."""
        found, new = set[UUID](), {job_id}
        while new:
            found |= new
            new = {next_ for one in new for next_ in (*self.jobs[one].children, *self.gates_of(one))} - found
        return sorted(found, key=lambda one: (self.jobs[one].when is not None, [*self.jobs].index(one)))

    # What happens

    @precondition(lambda self: len(self.jobs) < MOST_JOBS)
    @rule(data=st.data(), count=st.integers(1, 3))
    def enqueue(self, data: st.DataObject, count: int) -> None:
        """Some jobs, on their own or as children of one that lives."""
        parent = data.draw(st.sampled_from([None, *self.of("queued")]))
        ids = self.steps.enqueue(count, parent_id=parent)
        self.jobs.update((one, Expected()) for one in ids)
        if parent is not None:
            self.jobs[parent].children += ids

    @precondition(lambda self: self.jobs and len(self.jobs) < MOST_JOBS)
    @rule(data=st.data(), when=WHEN, is_tree=st.booleans())
    def enqueue_behind(self, data: st.DataObject, when: When, is_tree: bool) -> None:
        """A job that waits for a tree, or for some jobs, in whatever states they are."""
        any_job = st.sampled_from([*self.jobs])
        awaited = [data.draw(any_job)] if is_tree else data.draw(st.lists(any_job, min_size=1, max_size=3, unique=True))
        one = (
            self.steps.enqueue_after(tree=awaited[0], when=when)
            if is_tree
            else self.steps.enqueue_after(awaited, when=when)
        )
        gate = self.jobs[one] = Expected(state="waiting", when=when, is_tree=is_tree)
        self.absorb(gate, awaited)
        self.decide(one)

    @precondition(lambda self: self.of("queued"))
    @rule(data=st.data(), succeeds=st.booleans())
    def run(self, data: st.DataObject, succeeds: bool) -> None:
        one = data.draw(st.sampled_from(self.of("queued")))
        self.steps.dispatch()
        (claimed,) = self.steps.claim([one])
        if succeeds:
            assert self.steps.finish([claimed]) == {one}
        else:
            with writing(self.steps.organization_id) as session:
                assert ledger.fail(session, claimed, ledger.Failure("E", "m"))
        self.end(one, "succeeded" if succeeds else "failed")

    @precondition(lambda self: self.of("queued", "waiting"))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.cancel_one(data.draw(st.sampled_from(self.of("queued", "waiting"))))

    @precondition(lambda self: self.of("failed", "cancelled"))
    @rule(data=st.data(), is_regretted=st.booleans())
    def retry(self, data: st.DataObject, is_regretted: bool) -> None:
        one = data.draw(st.sampled_from(self.of("failed", "cancelled")))
        with all_jobs_session() as session:
            assert ledger.retry_failed(session, ledger.Filter(), [one]) == [one]
        self.revive(one)
        if is_regretted:
            self.cancel_one(one)

    def cancel_one(self, job_id: UUID) -> None:
        with all_jobs_session() as session:
            assert ledger.cancel(session, ledger.Filter(), [job_id]) == [job_id]
        self.end(job_id, "cancelled")

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel_tree(self, data: st.DataObject) -> None:
        root = data.draw(st.sampled_from([*self.jobs]))
        for _ in ledger.cancel_tree(all_jobs_session, root):
            pass
        tree = [one for one in self.tree_of(root) if self.jobs[one].is_live]
        for one in tree:
            self.jobs[one].state = "cancelled"  # what waits before the others, so none is let go
        for one in tree:
            self.end(one, "cancelled")

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def retry_tree(self, data: st.DataObject) -> None:
        root = data.draw(st.sampled_from([*self.jobs]))
        for _ in ledger.retry_tree(all_jobs_session, root):
            pass
        for one in [one for one in self.tree_of(root) if self.jobs[one].state in ("failed", "cancelled")]:
            if self.jobs[one].state in ("failed", "cancelled"):  # still: what waits may have been taken up again
                self.revive(one)

    @invariant()
    def the_ledger_says_the_same(self) -> None:
        with all_jobs_session() as session:
            of_ours = text("SELECT id, state FROM ledger.jobs WHERE organization_id = :organization_id")
            rows = session.execute(of_ours, {"organization_id": self.steps.organization_id}).all()
        states = {row.id: "queued" if row.state in ("dispatched", "running") else row.state for row in rows}
        assert states == {one: job.state for one, job in self.jobs.items()}

    @invariant()
    def what_has_been_decided_was_counted_right(self) -> None:
        for one, gate in self.jobs.items():
            if gate.when is not None:
                counted = self.steps.awaited(one)
                states = [self.jobs[member].state for member in gate.known]
                assert counted == (
                    sum(state in ("waiting", "queued") for state in states),
                    *(states.count(state) for state in ("succeeded", "failed", "cancelled")),
                )


def run_machine(runs: int) -> None:
    run_state_machine_as_test(
        GatesMachine,
        settings=settings(
            max_examples=runs,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("runs", [15, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])])
def test_gates_behave_as_their_model(fresh_environment: dict[str, str], runs: int) -> None:
    with opened_database():
        run_machine(runs)


BREAKS = {
    "ends are not told": "DROP TRIGGER {trigger} ON ledger.jobs",
    "gates never open": """
        CREATE OR REPLACE FUNCTION ledger.open_gate(organization uuid, gate uuid) RETURNS void LANGUAGE plpgsql
        AS 'BEGIN END'
    """,
    "children are not looked at": """
        CREATE OR REPLACE FUNCTION ledger.add_members(organization uuid, gate uuid, jobs uuid[], as_tree boolean)
        RETURNS void LANGUAGE plpgsql AS 'BEGIN END'
    """,
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_trigger_is_seen(fresh_environment: dict[str, str], how: str) -> None:
    with owner_engine(docworker_settings()).begin() as owner:
        of_gates = "SELECT tgname FROM pg_trigger WHERE tgfoid = 'ledger.tell_gates'::regproc"
        for trigger in owner.scalars(text(of_gates)).all():
            owner.execute(text(BREAKS[how].format(trigger=trigger)))
    with opened_database(), pytest.raises(AssertionError):
        run_machine(15)
