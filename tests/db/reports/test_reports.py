"""Every report against a slow and plain computation over random organizations, wherever these are placed."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings, strategies
from sqlalchemy import delete, insert, update
from sqlalchemy.exc import OperationalError

from docworker.db.documents.reading import path_text
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Document, DocumentVersion, Folder, Job, KeptReport, User
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, Base, new_id
from docworker.db.reports.answering import answer
from docworker.db.reports.question import Question, rows_of
from docworker.db.reports.report import REPORTS, Answer, compute, find_report
from docworker.db.sessions import reading, writing
from docworker.db.settings import settings as in_force
from docworker.jobs.enqueue import enqueue
from docworker.jobs.kinds.maintenance import refresh_statistics
from docworker.jobs.testing import drain
from docworker.worker.local.stack import LocalStack
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.dropping import drop_tenant
from docworker.worker.tenants.places import Model
from tests.support.database import reopened_database
from tests.support.tenants import Tenant

pytestmark = pytest.mark.usefixtures("clusters")

PLACES = [(Model.SHARED, "home"), (Model.SCHEMA, "home"), (Model.DATABASE, "east")]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]
PERCENTILES = (0.5, 0.9, 0.99)

# Around midnight in one zone or another, and while clocks are put back; few, so that some fall together.
MIDNIGHTS = [datetime(2026, 10, *at, tzinfo=UTC) for at in ((24, 22), (24, 23), (25, 0), (25, 4), (26, 0), (31, 23))]
NEAR = [timedelta(0), timedelta(microseconds=-1)]
moments = strategies.builds(lambda at, by: at + by, strategies.sampled_from(MIDNIGHTS), strategies.sampled_from(NEAR))
pauses = strategies.sampled_from([timedelta(0), timedelta(hours=1), timedelta(seconds=2.5), timedelta(days=1)])
Row = dict[str, Any]


@dataclass
class Random:
    """Rows of one organization, as their tables have them."""

    folders: list[Row] = field(default_factory=list)
    documents: list[Row] = field(default_factory=list)
    versions: list[Row] = field(default_factory=list)
    users: list[Row] = field(default_factory=list)
    jobs: list[Row] = field(default_factory=list)

    @property
    def live(self) -> list[Row]:
        return [one for one in self.documents if one["deleted_at"] is None]

    def path(self, folder_id: UUID | None) -> tuple[str, ...]:
        if folder_id is None:
            return ()
        (found,) = [one for one in self.folders if one["id"] == folder_id]
        return (*self.path(found["parent_id"]), found["name"])


@strategies.composite
def organizations(draw: Callable[[Any], Any]) -> Random:
    made = Random()
    one_of = strategies.sampled_from
    for _ in range(draw(strategies.integers(0, 6))):
        above = draw(one_of([None, *made.folders]))
        name = draw(one_of(["a", "b", "a b", "Z", "ä", "a:b%"]))
        parent_id = above and above["id"]
        if (parent_id, name) not in [(one["parent_id"], one["name"]) for one in made.folders]:
            gone = draw(moments) if draw(strategies.integers(0, 4)) == 0 else None
            if above and above["deleted_at"]:
                gone = above["deleted_at"]
            made.folders.append({"id": new_id(), "parent_id": parent_id, "name": name, "deleted_at": gone})
    for number in range(draw(strategies.integers(0, 3))):
        made.users.append({"id": new_id(), "email": f"{number}@example.org"})
    for number in range(draw(strategies.integers(0, 8))):
        _add_document(draw, made, number)
    for _ in range(draw(strategies.integers(0, 8))):
        made.jobs.append(_job(draw))
    return made


def _add_document(draw: Callable[[Any], Any], made: Random, number: int) -> None:
    one_of = strategies.sampled_from
    is_deleted = draw(strategies.integers(0, 3)) == 0
    folders = [None, *(one["id"] for one in made.folders if is_deleted or one["deleted_at"] is None)]
    created = draw(moments)
    latest = draw(strategies.integers(0, 4))
    pruned = draw(strategies.integers(0, max(0, latest - 1)))
    document = {
        "id": new_id(),
        "folder_id": draw(one_of(folders)),
        "filename": f"{number}.txt",
        "media_type": draw(one_of([None, "text/plain", "application/pdf"])),
        "source_bytes": draw(one_of([None, 0, 7, 7, 5 * 10**9])),
        "status": draw(one_of(["pending", "processed", "failed", "unsupported"])),
        "latest_version": latest,
        "version": 1,
        "created_at": created,
        "deleted_at": created + draw(pauses) if is_deleted else None,
    }
    made.documents.append(document)
    for version in range(pruned + 1, latest + 1):
        made.versions.append(
            {
                "document_id": document["id"],
                "version_number": version,
                "content": draw(one_of(["", "text", "späte Töne \U0001f600", "x" * 5000])),
                "content_sha256": "",
                "facts": draw(one_of([{}, {"language": None}, {"language": "de"}, {"language": "en"}])),
                "pipeline": "tests/1",
                "created_at": draw(moments),
            }
        )


def _job(draw: Callable[[Any], Any]) -> Row:
    one_of = strategies.sampled_from
    state = draw(one_of(["queued", "succeeded", "succeeded", "failed", "failed", "cancelled"]))
    due = draw(moments)
    claimed = due + draw(one_of([timedelta(seconds=-1), timedelta(0), timedelta(0), timedelta(seconds=3)]))
    is_claimed = state in ("succeeded", "failed") and draw(strategies.integers(0, 5)) > 0
    return {
        "id": new_id(),
        "kind": draw(one_of(["process_document", "index_documents", "Äquator"])),
        "state": state,
        "attempt": 0,
        "max_attempts": 5,
        "run_at": due,
        "claimed_at": claimed if is_claimed else None,
        "claimed_by": draw(one_of(["host:1", "host:2"])) if is_claimed else None,
        "finished_at": None if state == "queued" else claimed + draw(pauses),
        "error_class": draw(one_of([None, "BadInputError", "ÜbelError"])) if state == "failed" else None,
        "error_message": draw(one_of([None, "why", "long " * 100])) if state == "failed" else None,
    }


questions = strategies.builds(
    lambda zone, bounds, limit: Question(
        min(bounds) if len(bounds) == 2 else None, max(bounds, default=None), zone, limit
    ),
    strategies.sampled_from(ZONES),
    strategies.sets(moments, max_size=2),
    strategies.sampled_from([None, None, 1, 3]),
)


# What each report is, without SQL.


def expected_organization(made: Random, question: Question) -> list[Any]:
    def counts(values: Sequence[str]) -> dict[str, int]:
        return dict(Counter(values))

    live = made.live
    return [
        (
            len(live),
            len(made.documents) - len(live),
            len([one for one in made.folders if one["deleted_at"] is None]),
            len(made.users),
            len(made.versions),
            sum(one["source_bytes"] or 0 for one in live),
            sum(len(one["content"].encode()) for one in made.versions),
            max((one["created_at"] for one in live), default=None),
            counts([one["status"] for one in live]),
            counts([one["media_type"] or "unknown" for one in live]),
        )
    ]


def expected_newest(made: Random, question: Question) -> list[Any]:
    def rank(one: Row) -> Any:
        return one["created_at"], one["id"]

    newest: dict[UUID | None, Row] = {}
    for one in made.live:
        if one["folder_id"] not in newest or rank(one) > rank(newest[one["folder_id"]]):
            newest[one["folder_id"]] = one
    return [
        (path_text(made.path(one["folder_id"])), one["filename"], one["id"], one["created_at"])
        for one in sorted(newest.values(), key=rank, reverse=True)
    ]


def expected_activity(made: Random, question: Question) -> list[Any]:
    zone = ZoneInfo(question.zone)

    def day(moment: datetime) -> date:
        return moment.astimezone(zone).date()

    created = Counter(day(one["created_at"]) for one in made.documents)
    deleted = Counter(day(one["deleted_at"]) for one in made.documents if one["deleted_at"] is not None)
    versions = Counter(day(one["created_at"]) for one in made.versions)
    every = [*created, *deleted, *versions]
    days, total = [], 0
    if every:
        for number in range((max(every) - min(every)).days + 1):
            today = min(every) + timedelta(days=number)
            total += created[today] - deleted[today]
            days.append((today, created[today], deleted[today], versions[today], total))
    last = None if question.until is None else day(question.until - timedelta(microseconds=1))
    within = [
        one
        for one in days
        if (question.since is None or one[0] >= day(question.since)) and (last is None or one[0] <= last)
    ]
    return within[-(question.limit or 31) :]


def expected_folders(made: Random, question: Question) -> list[Any]:
    paths = [(), *(made.path(one["id"]) for one in made.folders if one["deleted_at"] is None)]
    found = []
    for path in sorted(paths, key=lambda path: [name.encode() for name in path]):
        placed = [(made.path(one["folder_id"]), one) for one in made.live]
        below = [one for place, one in placed if place[: len(path)] == path]
        found.append(
            (
                path_text(path),
                len(path),
                len([one for one in paths if one[: len(path)] == path]) - 1,
                len(below),
                len([one for place, one in placed if place == path]),
                sum(one["source_bytes"] or 0 for one in below),
            )
        )
    return found


def expected_formats(made: Random, question: Question) -> list[Any]:
    texts = {(one["document_id"], one["version_number"]): one["facts"].get("language") for one in made.versions}
    groups: dict[Any, list[int]] = defaultdict(list)
    for one in made.live:
        key = one["media_type"], texts.get((one["id"], one["latest_version"]))
        groups[key].append(one["source_bytes"] or 0)
    rows = [(*key, len(sizes), sum(sizes)) for key, sizes in groups.items()]
    return sorted(rows, key=lambda row: (-row[2], nulls_last(row[0]), nulls_last(row[1])))


def nulls_last(name: str | None) -> tuple[bool, bytes]:
    return name is None, (name or "").encode()


def expected_largest(made: Random, question: Question) -> list[Any]:
    sized = [one for one in made.live if one["source_bytes"] is not None]
    return [
        (path_text((*made.path(one["folder_id"]), one["filename"])), one["id"], one["source_bytes"], one["media_type"])
        for one in sorted(sized, key=lambda one: (-one["source_bytes"], one["id"]))
    ]


def expected_changed(made: Random, question: Question) -> list[Any]:
    made_at = {(one["document_id"], one["version_number"]): one["created_at"] for one in made.versions}
    often = [one for one in made.live if one["latest_version"] > 1]
    return [
        (
            path_text((*made.path(one["folder_id"]), one["filename"])),
            one["id"],
            one["latest_version"],
            made_at[one["id"], one["latest_version"]],
        )
        for one in sorted(often, key=lambda one: (-one["latest_version"], one["id"]))
    ]


def ended(made: Random, question: Question, *states: str) -> list[Row]:
    return [
        one
        for one in made.jobs
        if one["state"] in states
        and (question.since is None or one["finished_at"] >= question.since)
        and (question.until is None or one["finished_at"] < question.until)
    ]


def expected_failures(made: Random, question: Question) -> list[Any]:
    groups: dict[Any, list[Row]] = defaultdict(list)
    for one in ended(made, question, "failed"):
        groups[one["kind"], one["error_class"]].append(one)
    rows = []
    for key, jobs in groups.items():
        last = max(jobs, key=lambda one: (one["finished_at"], one["id"]))
        message = last["error_message"]
        rows.append((*key, len(jobs), last["finished_at"], message and message[:200]))
    return sorted(rows, key=lambda row: (-row[2], row[0].encode(), nulls_last(row[1])))


def expected_durations(made: Random, question: Question) -> list[Any]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for one in ended(made, question, "succeeded", "failed"):
        if one["claimed_at"] is not None:
            groups[one["kind"]].append(one)
    rows = []
    for kind, jobs in groups.items():
        queued = [max(0.0, (one["claimed_at"] - one["run_at"]).total_seconds()) for one in jobs]
        ran = [max(0.0, (one["finished_at"] - one["claimed_at"]).total_seconds()) for one in jobs]
        rows.append((kind, len(jobs), *(percentile(each, part) for each in (queued, ran) for part in PERCENTILES)))
    return sorted(rows, key=lambda row: (-row[1], row[0].encode()))


def percentile(values: list[float], part: float) -> float:
    """Between the two that are nearest, in proportion."""
    values = sorted(values)
    place = part * (len(values) - 1)
    low, high = values[math.floor(place)], values[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def expected_usage(made: Random, question: Question) -> list[Any]:
    def within(moment: datetime) -> bool:
        return (question.since is None or moment >= question.since) and (
            question.until is None or moment < question.until
        )

    batches: dict[Any, datetime] = {}
    for one in ended(made, question, "succeeded", "failed"):
        if one["claimed_at"] is not None:
            key = one["claimed_by"], one["claimed_at"]
            batches[key] = max(batches.get(key, one["finished_at"]), one["finished_at"])
    return [
        (
            len(ended(made, question, "succeeded", "failed", "cancelled")),
            len(ended(made, question, "failed")),
            sum((end - claimed).total_seconds() for (_, claimed), end in batches.items()),
            len([one for one in made.documents if within(one["created_at"])]),
            len([one for one in made.versions if within(one["created_at"])]),
            len(made.live),
            sum(one["source_bytes"] or 0 for one in made.live),
            sum(len(one["content"].encode()) for one in made.versions),
        )
    ]


EXPECTED: dict[str, Callable[[Random, Question], list[Any]]] = {
    "organization": expected_organization,
    "newest": expected_newest,
    "activity": expected_activity,
    "folders": expected_folders,
    "formats": expected_formats,
    "largest": expected_largest,
    "changed": expected_changed,
    "failures": expected_failures,
    "durations": expected_durations,
    "usage": expected_usage,
}


class Placed(Tenant):
    """An organization whose rows can be exchanged for others."""

    def __init__(self, slug: str, model: Model, cluster: str) -> None:
        self.slug = slug
        self.id = create_tenant(slug, model=model, cluster=cluster).organization_id

    def hold(self, made: Random) -> None:
        given_rows: dict[type[Base], list[Row]] = {
            Folder: made.folders,
            User: made.users,
            Document: made.documents,
            DocumentVersion: made.versions,
            Job: made.jobs,
        }
        with writing(self.id) as session:
            for old in (Document, Folder, User, Job):
                session.execute(delete(old).where(old.organization_id == self.id))
            for model, rows in given_rows.items():
                if rows:
                    session.execute(insert(model), [one | {"organization_id": self.id} for one in rows])

    def reported(self, question: Question) -> dict[str, list[Any]]:
        with reading(self.id, source="master") as session:
            return {
                name: [astuple(row) for row in compute(report, session, question).rows]
                for name, report in REPORTS.items()
            }


@pytest.fixture(scope="module", params=PLACES, ids=[str(model) for model, _ in PLACES])
def placed(request: pytest.FixtureRequest, clusters: None) -> Iterator[Placed]:
    model, cluster = request.param
    tenant = Placed(f"reports-{model}", model, cluster)
    yield tenant
    drop_tenant(tenant.slug)


def check(placed: Placed, made: Random, question: Question) -> None:
    placed.hold(made)
    reported = placed.reported(question)
    assert reported.keys() == EXPECTED.keys()
    for name, rows in reported.items():
        expected = EXPECTED[name](made, question)
        if name != "activity":
            expected = expected[: question.limit or REPORTS[name].limit]
        rounded = [tuple(pytest.approx(it) if isinstance(it, float) else it for it in row) for row in expected]
        assert rows == rounded, name


OF_FEW = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@settings(OF_FEW, max_examples=40)
@given(made=organizations(), question=questions)
def test_reports_say_what_a_plain_computation_says(placed: Placed, made: Random, question: Question) -> None:
    check(placed, made, question)


@pytest.mark.soak
@settings(OF_FEW, max_examples=2000)
@given(made=organizations(), question=questions)
def test_reports_say_what_a_plain_computation_says_of_thousands(
    placed: Placed, made: Random, question: Question
) -> None:
    check(placed, made, question)


def test_an_empty_organization_has_reports_as_well(placed: Placed) -> None:
    placed.hold(Random())
    reported = placed.reported(Question())
    assert {name for name, rows in reported.items() if rows} == {"organization", "folders", "usage"}
    assert reported["folders"] == [("/", 0, 0, 0, 0, 0)]


def test_a_report_that_takes_too_long_is_ended_by_the_server(placed: Placed) -> None:
    with reopened_database(report_timeout=0.05), reading(placed.id, source="master") as session:
        slow = find_report("organization")
        slow = type(slow)("slow", "", lambda session, asked: list(rows_of(session, "SELECT pg_sleep(5)", asked)), int)
        with pytest.raises(OperationalError, match="statement timeout"):
            compute(slow, session, Question())


def test_dear_reports_of_large_organizations_are_kept_and_say_how_old_they_are(
    placed: Placed, stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed.hold(Random())
    for number in range(3):
        placed.write(f"/in/{number}.txt", "text")
    dear = [report for report in REPORTS.values() if report.is_dear]

    def answers(*, live: bool = False, limit: int | None = None) -> list[Answer]:
        stack.wait_for_replicas()
        return [answer(report, placed.id, Question(limit=limit), live=live) for report in dear]

    def refresh(documents: int) -> None:
        monkeypatch.setenv("DOCWORKER_REPORT_KEEP_FROM", str(documents))
        in_force.cache_clear()
        with writing(SYSTEM_ORGANIZATION_ID) as session:
            enqueue(session, refresh_statistics)
        drain()

    refresh(4)
    assert not any(one.is_kept for one in answers()), "it is not large"
    refresh(3)
    before = answers(live=True)
    placed.write("/in/later.txt", "text")
    kept = answers()
    assert all(one.is_kept for one in kept)
    assert [one.rows for one in kept] == [one.rows for one in before]
    assert [one.rows for one in answers(live=True)] != [one.rows for one in before]
    assert not any(one.is_kept for report, one in zip(dear, answers(limit=1000), strict=True) if report.is_list)
    with writing(placed.id) as session:
        session.execute(update(KeptReport).values(computed_at=KeptReport.computed_at - timedelta(days=2)))
    assert not any(one.is_kept for one in answers()), "nobody has refreshed it"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"zone": "Mars/Olympus"}, "no time zone is called 'Mars/Olympus'"),
        ({"zone": "../UTC"}, "no time zone is called"),
        ({"since": datetime(2026, 11, 1)}, "give its offset as well"),  # noqa: DTZ001
        ({"since": MIDNIGHTS[1], "until": MIDNIGHTS[0]}, "is not after"),
        ({"limit": 0}, "at least one row"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked: Row, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        Question(**asked)


def test_a_report_that_is_misspelt_is_guessed() -> None:
    with pytest.raises(InvalidArgumentError, match="did you mean 'failures'"):
        find_report("failure")
    with pytest.raises(InvalidArgumentError, match="there are organization, activity"):
        find_report("xyz")
