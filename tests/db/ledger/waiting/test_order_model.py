"""Jobs in order against a plain model: lines of each key, whatever is done to the jobs in them. That the test sees a
broken trigger is tested as well."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, text

from docworker.db import ledger
from docworker.db.cluster.engines import owner_engine
from docworker.db.ledger.waiting.order import OnFailure
from docworker.db.models import Job, JobState
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.settings import settings as docworker_settings
from tests.support.database import opened_database
from tests.support.ledger import LedgerSteps

KEY = st.sampled_from("ab")
DONE = ("succeed", "fail", "lose", "cancel", "remove", "retry", "release")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enqueue"), st.lists(KEY, min_size=1, max_size=3), st.sampled_from(["block", "pass"])),
        st.tuples(st.just("move in"), KEY),
        st.tuples(st.sampled_from(DONE), st.integers(0, 9)),
        st.tuples(st.sampled_from(DONE), st.integers(0, 9)),
    ),
    max_size=14,
)


@dataclass
class Expected:
    """A job in the line of its key."""

    key: str
    blocks: bool
    state: str = "waiting"


class Lines:
    """What the model knows, in the order of enqueuing, beside the jobs of an organization."""

    def __init__(self) -> None:
        self.steps = LedgerSteps()
        self.jobs: dict[UUID, Expected] = {}

    def look(self) -> None:
        """Of each key the first in line goes, unless one is under way or the first has failed and blocks."""
        self.steps.dispatch()
        for key in "ab":
            of_key = [one for one in self.jobs.values() if one.key == key]
            line = [one for one in of_key if one.state == "waiting" or (one.state == "failed" and one.blocks)]
            if line and line[0].state == "waiting" and not any(one.state == "dispatched" for one in of_key):
                line[0].state = "dispatched"

    def enqueue(self, keys: Sequence[str], on_failure: OnFailure) -> None:
        for one, key in zip(self.steps.enqueue_in_order(*keys, on_failure=on_failure), keys, strict=True):
            self.jobs[one] = Expected(key, blocks=on_failure == "block")

    def move_in(self, key: str) -> None:
        """As it comes from another ledger, with its place."""
        job_id = new_id()
        with writing(self.steps.organization_id) as session:
            now = session.scalar(text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)"))
            of = {"organization_id": self.steps.organization_id, "id": job_id, "kind": self.steps.kind}
            in_line = {"state": JobState.WAITING, "order_key": key, "order_position": now, "blocks": True}
            session.add(Job(**of, **in_line, max_attempts=3))
        self.jobs[job_id] = Expected(key, blocks=True)

    def do(self, what: str, number: int) -> None:
        """One of those to which it may be done."""
        there = [one for one, job in self.jobs.items() if self._may(what, job)]
        if not there:
            return
        job_id = there[number % len(there)]
        job = self.jobs[job_id]
        match what:
            case "succeed" | "fail" | "lose":
                self._end(what, job_id)
            case "cancel" | "retry" | "release":
                self._operate(what, job_id)
            case _:
                with all_jobs_session() as session:
                    session.execute(delete(Job).where(Job.id == job_id))
                del self.jobs[job_id]
        after = {"succeed": "succeeded", "fail": "failed", "cancel": "cancelled", "retry": "waiting"}
        job.state = after.get(what, job.state)
        job.blocks &= what != "release"

    def _may(self, what: str, job: Expected) -> bool:
        match what:
            case "succeed" | "fail" | "lose":
                return job.state == "dispatched"
            case "cancel":
                return job.state in ("waiting", "dispatched")
            case "retry":
                return job.state in ("failed", "cancelled")
            case "release":
                return job.state == "failed" and job.blocks
            case _:
                return True

    def _end(self, what: str, job_id: UUID) -> None:
        (claimed,) = self.steps.claim([job_id], message_id=self.steps.job(job_id).message_id)
        if what == "succeed":
            assert self.steps.finish([claimed]) == {job_id}
        elif what == "fail":
            with writing(self.steps.organization_id) as session:
                assert ledger.fail(session, claimed, ledger.Failure("E", "m"))
        else:
            self.steps.expire([job_id])
            self.steps.rescue()

    def _operate(self, what: str, job_id: UUID) -> None:
        with all_jobs_session() as session:
            if what == "cancel":
                changed = ledger.cancel(session, ledger.Filter(), [job_id])
            elif what == "retry":
                changed = ledger.retry_failed(session, ledger.Filter(), [job_id])
            else:
                changed = ledger.release(session, [job_id])
        assert changed == [job_id]

    def check(self) -> None:
        with all_jobs_session() as session:
            of_ours = text("SELECT id, state FROM ledger.jobs WHERE organization_id = :organization_id")
            rows = session.execute(of_ours, {"organization_id": self.steps.organization_id}).all()
        assert {row.id: row.state for row in rows} == {one: job.state for one, job in self.jobs.items()}


def run_lines(examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(STEPS)
    def run(taken: Sequence[tuple[str, *tuple[object, ...]]]) -> None:
        lines = Lines()
        for what, *rest in [("enqueue", "aab", "block"), *taken]:
            match what:
                case "enqueue":
                    lines.enqueue(*rest)  # type: ignore[arg-type]
                case "move in":
                    lines.move_in(*rest)  # type: ignore[arg-type]
                case _:
                    lines.do(what, *rest)  # type: ignore[arg-type]
            lines.look()
            lines.check()
        for one in [one for one, job in lines.jobs.items() if job.state in ("waiting", "dispatched")][::-1]:
            lines._operate("cancel", one)

    run()


@pytest.mark.parametrize("examples", [20, pytest.param(300, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])])
def test_lines_behave_as_their_model(fresh_environment: dict[str, str], examples: int) -> None:
    with opened_database():
        run_lines(examples)


@pytest.mark.parametrize("trigger", ["tell_order", "tell_order_of_new", "tell_order_of_gone"])
def test_a_broken_trigger_is_seen(fresh_environment: dict[str, str], trigger: str) -> None:
    with owner_engine(docworker_settings()).begin() as owner:
        owner.execute(text(f"DROP TRIGGER {trigger} ON ledger.jobs"))
    with opened_database(), pytest.raises(AssertionError):
        run_lines(60)
