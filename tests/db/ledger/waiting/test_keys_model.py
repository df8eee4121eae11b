"""Jobs of limit keys against a plain model: a line of each key, of which so many are under way as its limit lets,
whatever is done to the jobs and to the limits. That the test sees a broken trigger is tested as well."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, text

from docworker.db import ledger
from docworker.db.cluster.engines import owner_engine
from docworker.db.ledger.waiting import keys
from docworker.db.models import Job, JobState
from docworker.db.models.base import new_id
from docworker.db.sessions import all_jobs_session, writing
from docworker.db.settings import settings as docworker_settings
from tests.support.database import opened_database
from tests.support.ledger import LedgerSteps

KEY = st.sampled_from("ab")
MAY = {
    "succeed": ("dispatched",),
    "fail": ("dispatched",),
    "lose": ("dispatched",),
    "cancel": ("waiting", "dispatched"),
    "retry": ("failed", "cancelled"),
    "queue by hand": ("waiting",),
    "remove": ("waiting", "dispatched", "succeeded", "failed", "cancelled"),
}
"""What may be done to a job in which states."""
AFTER = {
    "succeed": "succeeded",
    "fail": "failed",
    "lose": "queued",
    "cancel": "cancelled",
    "retry": "waiting",
    "queue by hand": "queued",
}
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enqueue"), KEY, st.integers(1, 3)),
        st.tuples(st.just("move in"), KEY),
        st.tuples(st.just("limit"), KEY, st.booleans(), st.none() | st.integers(0, 3)),
        st.tuples(st.sampled_from(sorted(MAY)), st.integers(0, 9)),
        st.tuples(st.sampled_from(sorted(MAY)), st.integers(0, 9)),
    ),
    max_size=14,
)


@dataclass
class Expected:
    """A job, and since when it is due, in the order of what has happened."""

    key: str
    due: int
    state: str = "waiting"


class Lines:
    """What the model knows, beside the jobs of an organization."""

    def __init__(self) -> None:
        self.steps = LedgerSteps()
        self.jobs: dict[UUID, Expected] = {}
        self.limits: dict[tuple[str, bool], int] = {}
        self._clock = count()

    def look(self) -> None:
        """Those due longest go, until as many are under way as the limit lets. What is admitted already goes before
        them, unless it is too much by now."""
        self.steps.dispatch()
        for key in "ab":
            line = sorted((one for one in self.jobs.values() if one.key == key), key=lambda one: one.due)
            waiting, admitted, under_way = (
                [one for one in line if one.state == state] for state in ("waiting", "queued", "dispatched")
            )
            most = self.limits.get((key, True), self.limits.get((key, False), len(line)))
            free = max(0, most - len(under_way))
            for place, one in enumerate([*admitted, *waiting]):
                one.state = "dispatched" if place < free else "waiting"

    def enqueue(self, key: str, jobs: int) -> None:
        for one in self.steps.enqueue_under_key(key, jobs, max_attempts=100):
            self.jobs[one] = Expected(key, next(self._clock))

    def move_in(self, key: str) -> None:
        """As it comes from another ledger."""
        job_id = new_id()
        with writing(self.steps.organization_id) as session:
            of = {"organization_id": self.steps.organization_id, "id": job_id, "kind": self.steps.kind}
            session.add(Job(**of, state=JobState.WAITING, limit_key=key, max_attempts=100))
        self.jobs[job_id] = Expected(key, next(self._clock))

    def limit(self, key: str, is_own: bool, most: int | None) -> None:
        owner = self.steps.organization_id if is_own else None
        with all_jobs_session() as session:
            if most is None:
                keys.remove_key_limit(session, key, organization_id=owner)
            else:
                keys.set_key_limit(session, key, organization_id=owner, max_running=most)
        self.limits.pop((key, is_own), None)
        if most is not None:
            self.limits[key, is_own] = most

    def do(self, what: str, number: int) -> None:
        """One of those to which it may be done."""
        there = [one for one, job in self.jobs.items() if job.state in MAY[what]]
        if not there:
            return
        job_id = there[number % len(there)]
        if what in ("succeed", "fail", "lose"):
            self._end(what, job_id)
        else:
            self._operate(what, job_id)
        if what == "remove":
            del self.jobs[job_id]
            return
        self.jobs[job_id].state = AFTER[what]
        if what in ("lose", "retry"):
            self.jobs[job_id].due = next(self._clock)

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
            match what:
                case "cancel":
                    assert ledger.cancel(session, ledger.Filter(), [job_id]) == [job_id]
                case "retry":
                    assert ledger.retry_failed(session, ledger.Filter(), [job_id]) == [job_id]
                case "remove":
                    session.execute(delete(Job).where(Job.id == job_id))
                case _:
                    session.execute(text("UPDATE ledger.jobs SET state = 'queued' WHERE id = :id"), {"id": job_id})

    def check(self) -> None:
        with all_jobs_session() as session:
            of_ours = text("SELECT id, state FROM ledger.jobs WHERE organization_id = :organization_id")
            rows = session.execute(of_ours, {"organization_id": self.steps.organization_id}).all()
        assert {row.id: row.state for row in rows} == {one: job.state for one, job in self.jobs.items()}

    def leave_nothing(self) -> None:
        with all_jobs_session() as session:
            for table in ("jobs", "key_limits", "key_events"):
                session.execute(text(f"DELETE FROM ledger.{table}"))


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
        for what, *rest in [("limit", "a", True, 2), ("enqueue", "a", 3), *taken]:
            match what:
                case "enqueue":
                    lines.enqueue(*rest)  # type: ignore[arg-type]
                case "move in":
                    lines.move_in(*rest)  # type: ignore[arg-type]
                case "limit":
                    lines.limit(*rest)  # type: ignore[arg-type]
                case _:
                    lines.do(what, *rest)  # type: ignore[arg-type]
            lines.look()
            lines.check()
        lines.leave_nothing()

    run()


@pytest.mark.parametrize("examples", [20, pytest.param(300, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])])
def test_lines_behave_as_their_model(fresh_environment: dict[str, str], examples: int) -> None:
    with opened_database():
        run_lines(examples)


@pytest.mark.parametrize(
    ("trigger", "table"),
    [
        ("tell_key", "jobs"),
        ("tell_key_of_new", "jobs"),
        ("tell_key_of_gone", "jobs"),
        ("tell_key_limit", "key_limits"),
    ],
)
def test_a_broken_trigger_is_seen(fresh_environment: dict[str, str], trigger: str, table: str) -> None:
    with owner_engine(docworker_settings()).begin() as owner:
        owner.execute(text(f"DROP TRIGGER {trigger} ON ledger.{table}"))
    with opened_database(), pytest.raises(AssertionError):
        run_lines(60)
