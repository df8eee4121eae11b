"""Jobs from the shell: put in, looked at, followed, taken part in; and what is said when that cannot be."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.ledger import control
from docworker.db.models import Job
from docworker.db.models.base import SYSTEM_ORGANIZATION_ID, new_id
from docworker.db.sessions import TenantSession, all_jobs_session, writing
from docworker.jobs.enqueue import enqueue_many
from docworker.jobs.kinds.documents import process_document
from docworker.jobs.testing import dispatch_due, drain, run
from docworker.worker.cli.options import actor
from docworker.worker.heartbeat import Heartbeat
from tests.support.commands import Answer, ask, docworker
from tests.support.database import opened_database
from tests.support.ledger import without_constraints
from tests.support.project import PROJECT
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

NOWHERE = "01980000-0000-7000-8000-000000000001"


@pytest.fixture
def tenant(environment: dict[str, str]) -> Tenant:
    """An organization in an otherwise empty ledger."""
    with opened_database():
        with all_jobs_session() as session:
            session.query(Job).delete()
        return Tenant()


@contextmanager
def the_ledger() -> Iterator[Any]:
    with opened_database(), all_jobs_session() as session:
        yield session


def job(job_id: object) -> Job:
    with the_ledger() as session:
        return ledger.get(session, UUID(str(job_id)))


def work() -> int:
    with opened_database():
        return drain()


def add_jobs(tenant: Tenant, *texts: str) -> list[UUID]:
    """A job for each of these texts."""
    with opened_database():
        ids = tenant.add(*texts)
        with writing(tenant.id) as session:
            return enqueue_many(session, process_document, [{"document_id": one} for one in ids])


def enqueue(tenant: Tenant, *arguments: object) -> Answer:
    return ask("enqueue", *arguments, "-o", tenant.slug)


def test_a_job_is_enqueued_and_its_id_printed(tenant: Tenant) -> None:
    document_id = new_id()
    answer = enqueue(tenant, "process_document", f"document_id={document_id}")
    made = job(answer.out.strip())
    assert (answer.exit_code, answer.err) == (0, "")
    assert (made.organization_id, made.kind, made.state) == (tenant.id, "process_document", "queued")
    assert made.arguments == {"document_id": str(document_id)}


def test_every_option_reaches_the_job(tenant: Tenant) -> None:
    job_id = new_id()
    answer = enqueue(
        tenant,
        "process_organization",
        "--priority",
        8,
        "--delay",
        "90m",
        "--max-attempts",
        2,
        "--id",
        job_id,
        "--json",
    )
    assert answer.json == {"id": str(job_id), "kind": "process_organization"}
    made = job(job_id)
    assert (made.priority, made.max_attempts) == (8, 2)
    assert abs(made.run_at - datetime.now(UTC) - timedelta(minutes=90)) < timedelta(minutes=1)


def test_values_are_json_where_they_are_json(tenant: Tenant) -> None:
    ids = [str(new_id()), str(new_id())]
    answer = enqueue(tenant, "index_documents", f"document_ids={json.dumps(ids)}")
    assert job(answer.out.strip()).arguments == {"document_ids": ids}


def test_equal_keys_fold(tenant: Tenant) -> None:
    answers = [enqueue(tenant, "process_organization", "--unique-key", "k") for _ in range(2)]
    assert answers[0].out == answers[1].out


def test_the_schedules_own_organization_can_be_named(tenant: Tenant) -> None:
    answer = ask("enqueue", "reconcile_documents", "-o", "system")
    assert job(answer.out.strip()).organization_id == SYSTEM_ORGANIZATION_ID
    assert [line[1] for line in ask("jobs", "list", "-o", "system").lines[1:]] == ["system"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["process_documnt"], "no kind is called 'process_documnt'; did you mean 'process_document'?"),
        (["xyz"], "no kind is called 'xyz'; there are "),
        (["process_document"], "process_document cannot take these arguments: document_id: Field required"),
        (["process_document", "document_id=7"], "document_id: UUID input should be a string"),
        (["process_document", "document_id"], "'document_id' is not KEY=VALUE"),
        (["process_document", "=7"], "'=7' is not KEY=VALUE"),
        (["process_document", "a=1", "a=2"], "'a' is given twice"),
        (["process_organization", "--delay", "soon"], "'soon' is not a duration: give a number and s, m, h or d"),
        (["process_organization", "--delay", "-5m"], "'-5m' is not a duration"),
        (["process_organization", "--delay", "999999999d"], "'999999999d' is too long: at most 36500d"),
        (["process_organization", "--id", NOWHERE, "--unique-key", "k"], "give an id or a unique_key, not both"),
    ],
)
def test_what_cannot_be_enqueued_is_told_in_one_line(tenant: Tenant, arguments: list[str], complaint: str) -> None:
    answer = enqueue(tenant, *arguments)
    assert (answer.exit_code, answer.out) == (1, "")
    assert answer.err.startswith("docworker: ")
    assert answer.err.count("\n") == 1
    assert complaint in answer.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["enqueue", "process_organization"],
        ["enqueue", "process_organization", "-o", "acme", "--priority", "10"],
        ["enqueue", "process_organization", "-o", "acme", "--id", "7"],
        ["jobs", "show", "7"],
        ["jobs", "list", "--state", "paused"],
        ["jobs", "list", "--limit", "0"],
        ["jobs", "retry"],
        ["jobs", "cancel"],
        ["jobs", "pause"],
        ["jobs", "resume"],
        ["jobs", "watch", NOWHERE, "--timeout", "-1"],
    ],
)
def test_wrong_usage_is_told_as_such(tenant: Tenant, arguments: list[str]) -> None:
    answer = ask(*arguments)
    assert (answer.exit_code, answer.out) == (2, "")
    assert "Usage: docworker" in answer.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["show", NOWHERE], f"no job {NOWHERE}: it never was"),
        (["watch", NOWHERE], f"no job {NOWHERE}: it never was"),
        (["cancel", NOWHERE], f"not live, not chosen by the filter, or not there: {NOWHERE}"),
        (["retry", NOWHERE], f"not failed or cancelled, not chosen by the filter, or not there: {NOWHERE}"),
        (["list", "-o", "nobody"], "no organization has the slug 'nobody'"),
        (["list", "--older-than", "2"], "'2' is not a duration"),
        (["pause", "--kind", "process_documnt"], "did you mean 'process_document'?"),
        (["resume", "--kind", "process_document"], "process_document is not paused"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(tenant: Tenant, arguments: list[str], complaint: str) -> None:
    answer = ask("jobs", *arguments)
    assert answer.exit_code == 1
    assert answer.err.startswith("docworker: ")
    assert answer.err.count("\n") == 1
    assert complaint in answer.err


def test_jobs_are_listed_latest_first_with_their_organization_and_error(tenant: Tenant) -> None:
    good, bad = add_jobs(tenant, "good", "  ")
    work()
    answer = ask("jobs", "list")
    assert answer.lines[0] == ["id", "organization", "kind", "state", "attempt", "enqueued", "due", "error"]
    rows = {line[0]: line[1:] for line in answer.lines[1:]}
    assert rows[str(good)][:4] == [tenant.slug, "process_document", "succeeded", "1/5"]
    assert " ".join(rows[str(bad)]).endswith("PipelineError: empty: the document holds no text")
    assert answer.lines[1][2] == "index_documents"


def test_filters_choose(tenant: Tenant) -> None:
    _good, bad = add_jobs(tenant, "good", "  ")
    with opened_database():
        other = Tenant()
    add_jobs(other, "theirs")
    work()

    def ids(*options: object) -> list[str]:
        return [one["id"] for one in ask("jobs", "list", "--json", *options).json]

    assert ids("--state", "failed") == [str(bad)]
    assert len(ids("--state", "failed", "--state", "succeeded", "-o", tenant.slug)) == 3
    assert len(ids("--kind", "process_document")) == 3
    assert ids("--kind", "process_document", "--older-than", "1h") == []
    assert len(ids("--limit", 2)) == 2
    assert ids("-o", other.slug, "--state", "failed") == []
    assert "the latest 2; there may be more" in ask("jobs", "list", "--limit", 2).err
    everything = ids("--all")
    goes_on: list[str] = []
    shown: list[str] = []
    for _ in everything:
        shown += ids("--limit", 1, *goes_on)
        goes_on = ["--after", shown[-1]]
    assert shown == everything
    assert ids("--after", everything[1]) == everything[2:]
    assert ids("--after", everything[-1]) == []
    assert ask("jobs", "list", "--after", UUID(int=0)).exit_code == 1


def test_show_tells_all_there_is_and_no_secret(tenant: Tenant) -> None:
    (bad,) = add_jobs(tenant, "  ")
    work()
    row, _, story = ask("jobs", "show", bad).out.partition("\n\n")
    shown = {name: " ".join(words) for name, *words in map(str.split, row.splitlines())}
    assert " failed " in story
    assert (shown["id"], shown["organization"], shown["state"]) == (str(bad), tenant.slug, "failed")
    assert json.loads(shown["arguments"]) == job(bad).arguments
    assert "claim_token" not in shown
    assert ask("jobs", "show", bad, "--json").json["error_message"] == "empty: the document holds no text"


def test_a_traceback_is_shown_below(tenant: Tenant) -> None:
    with opened_database(), writing(tenant.id) as session:
        (job_id,) = enqueue_many(session, process_document, [{"document_id": new_id()}])
    work()
    answer = ask("jobs", "show", job_id)
    assert "\n\nNotFoundError: document " in answer.out or "\n\ndocworker.db.errors.NotFoundError: " in answer.out


def test_failed_jobs_are_retried_by_id_and_by_filter(tenant: Tenant) -> None:
    first, second, third = add_jobs(tenant, " ", " ", " ")
    work()
    answer = ask("jobs", "retry", first)
    assert (answer.exit_code, answer.out) == (0, "1 job queued again\n")
    assert [job(one).state for one in (first, second)] == ["queued", "failed"]
    assert sorted(ask("jobs", "retry", "-o", tenant.slug, "--json").json) == sorted(map(str, (second, third)))
    assert {(job(one).state, job(one).attempt) for one in (first, second, third)} == {("queued", 0)}


def test_those_that_can_be_retried_are_though_others_cannot(tenant: Tenant) -> None:
    good, bad = add_jobs(tenant, "good", "  ")
    work()
    answer = ask("jobs", "retry", good, bad)
    assert (answer.exit_code, answer.out) == (1, "1 job queued again\n")
    assert answer.err.endswith(f"or not there: {good}\n")


def test_jobs_are_cancelled_by_id_filter_or_all(tenant: Tenant) -> None:
    jobs = add_jobs(tenant, *"abc")
    assert ask("jobs", "cancel", jobs[0]).out == "1 job cancelled\n"
    assert ask("jobs", "cancel", "--older-than", "1h").out == "0 jobs cancelled\n"
    assert ask("jobs", "cancel", "--all").out == "2 jobs cancelled\n"
    assert {job(one).state for one in jobs} == {"cancelled"}
    assert ask("jobs", "retry", "--all").out == "0 jobs queued again\n", "a cancelled job must be named"
    assert ask("jobs", "retry", *jobs).out == "3 jobs queued again\n"


def test_a_tree_is_cancelled_and_run_again_and_a_blocked_order_released(tenant: Tenant) -> None:
    first, second, blocked = add_jobs(tenant, "one", "two", "three")
    with opened_database(), writing(tenant.id) as session:
        (callback,) = enqueue_many(session, process_document, [{"document_id": new_id()}], after=[first])
        session.get_one(Job, (tenant.id, second)).parent_id = first
        held = session.get_one(Job, (tenant.id, blocked))
        held.state, held.order_key, held.order_position, held.blocks = "failed", "a", 1, True
    assert sorted(ask("jobs", "cancel", "--tree", first, "--json").json) == sorted(map(str, (first, second, callback)))
    assert ask("jobs", "retry", "--tree", first).out == "3 jobs queued again\n"
    assert [job(one).state for one in (first, second, callback)] == ["queued", "queued", "waiting"]
    assert "no filter and no --all with it" in ask("jobs", "cancel", "--tree", first, "--all").err
    assert ask("jobs", "release", blocked).out == "1 job released\n"
    assert "not holding up others" in ask("jobs", "release", blocked).err


def test_documents_of_cancelled_jobs_say_so_at_once(tenant: Tenant) -> None:
    first, second, twice = add_jobs(tenant, *"abc")
    ids = {one: UUID(job(one).arguments["document_id"]) for one in (first, second, twice)}
    with opened_database(), writing(tenant.id) as session:
        enqueue_many(session, process_document, [{"document_id": ids[twice]}])
    assert ask("jobs", "cancel", first, twice).exit_code == 0

    def states() -> list[tuple[str, str | None]]:
        with opened_database():
            found = [tenant.get(one) for one in ids.values()]
        return [(one.status, one.status_reason) for one in found]

    assert states() == [("failed", "its job was cancelled"), ("pending", None), ("pending", None)]
    assert ask("jobs", "cancel", "--all").exit_code == 0
    assert states() == [("failed", "its job was cancelled")] * 3


def many(tenant: Tenant, count: int, state: str = "queued") -> None:
    """Jobs of several organizations, the tenant's among them."""
    with the_ledger() as session:
        session.execute(
            text(
                "INSERT INTO ledger.jobs (organization_id, id, kind, arguments, state, priority, run_at, finished_at,"
                " attempt, max_attempts, faults, alone, dispatches)"
                " SELECT CASE number % 3 WHEN 0 THEN CAST(:ours AS uuid) ELSE CAST(lpad('7', 32, '0') AS uuid) END,"
                " gen_random_uuid(), 'process_document', '{}', :state, 5, clock_timestamp(),"
                " CASE WHEN :state = 'failed' THEN clock_timestamp() END, 0, 3, 0, false, 0"
                " FROM generate_series(1, :count) AS number"
            ),
            {"ours": tenant.id, "state": state, "count": count},
        )


def counted() -> dict[str, int]:
    with the_ledger() as session:
        rows = ledger.count_by_state(session, ledger.Filter())
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + row.jobs
    return counts


def test_many_are_changed_in_chunks(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docworker.db.ledger.bulk.CHUNK", 100)
    monkeypatch.setattr("docworker.db.ledger.bulk.CHUNKS_OF_A_LOOK", 2)
    many(tenant, 950)
    many(tenant, 350, "failed")
    assert ask("jobs", "cancel", "--all").out == "950 jobs cancelled\n"
    assert counted() == {"cancelled": 950, "failed": 350}
    assert len(ask("jobs", "retry", "--all", "--json").json) == 350
    assert counted() == {"cancelled": 950, "queued": 350}


@pytest.mark.parametrize("interrupted_after", [0, 3])
def test_an_interrupted_change_leaves_whole_chunks_and_says_how_many(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch, interrupted_after: int
) -> None:
    monkeypatch.setattr("docworker.db.ledger.bulk.CHUNK", 100)
    many(tenant, 950)
    chunks = 0

    def change_keys(*arguments: Any, **options: Any) -> Any:
        nonlocal chunks
        changed = control.change_keys(*arguments, **options)
        if chunks == interrupted_after:
            raise KeyboardInterrupt  # within a chunk: it has not been committed
        chunks += 1
        return changed

    monkeypatch.setattr("docworker.db.ledger.bulk.change_keys", change_keys)
    answer = ask("jobs", "cancel", "--all")
    assert (answer.exit_code, answer.out) == (130, "")
    assert answer.err == f"interrupted: {100 * interrupted_after} jobs cancelled; run it again for the rest\n"
    assert counted().get("cancelled", 0) == 100 * interrupted_after
    monkeypatch.undo()
    assert ask("jobs", "cancel", "--all").out == f"{950 - 100 * interrupted_after} jobs cancelled\n"


def test_a_job_that_a_producer_holds_is_waited_for_at_the_end(tenant: Tenant) -> None:
    held, *_ = add_jobs(tenant, *"abc")
    with opened_database(), ThreadPoolExecutor(1) as pool:
        with all_jobs_session() as holder:
            holder.execute(text("SELECT FROM ledger.jobs WHERE id = :id FOR UPDATE"), {"id": held})
            answer = pool.submit(docworker, "jobs", "cancel", "--all")
            eventually(
                lambda: counted_in(holder) == {"cancelled": 2, "queued": 1}, within_seconds=30, what="the others"
            )
        assert answer.result().out == "3 jobs cancelled\n"


def counted_in(session: TenantSession) -> dict[str, int]:
    return {row.state: row.jobs for row in ledger.count_by_state(session, ledger.Filter())}


def test_a_job_that_is_held_for_too_long_is_named_and_the_others_are_done(tenant: Tenant) -> None:
    held, *_ = add_jobs(tenant, *"abc")
    with opened_database(), all_jobs_session() as holder:
        holder.execute(text("SELECT FROM ledger.jobs WHERE id = :id FOR UPDATE"), {"id": held})
        answer = docworker("jobs", "cancel", "--all", environment={"DOCWORKER_LOCK_TIMEOUT": "0.3"})
        assert (answer.exit_code, answer.out) == (1, "")
        assert (
            f"2 jobs are done; up to 1 are held by other transactions for too long, the first of them {held}"
            in answer.err
        )
        assert counted_in(holder) == {"cancelled": 2, "queued": 1}


def test_a_long_list_has_one_header_and_every_job(tenant: Tenant) -> None:
    many(tenant, 2500)
    with the_ledger() as session:
        session.execute(text("UPDATE ledger.jobs SET error_class = 'E', error_message = repeat('e', 10000)"))
    lines = ask("jobs", "list", "--limit", 10_000).lines
    assert len(lines) == 2501
    assert sum(line[0] == "id" for line in lines) == 1
    listed = ask("jobs", "list", "--limit", 10_000, "--json").json
    assert {one["id"] for one in listed} == {line[0] for line in lines[1:]}
    assert not {"arguments", "result", "error_traceback"} & listed[0].keys()
    assert len(listed[0]["error_message"]) == 1000
    assert ask("jobs", "list", "--state", "running", "--json").json == []


def test_a_job_that_docworker_would_not_have_written_is_shown_with_the_others(tenant: Tenant) -> None:
    odd, good = add_jobs(tenant, *"ab")
    deep = "[" * 3000 + "]" * 3000
    with without_constraints():
        show_odd(odd, good, deep)


def show_odd(odd: UUID, good: UUID, deep: str) -> None:
    with the_ledger() as session:
        session.execute(
            text(
                "UPDATE ledger.jobs SET run_at = '-infinity', created_at = '0044-03-15 BC',"
                " cursor = CAST(:deep AS jsonb), error_class = 'E', error_message = E'\\n', kind = E'\\x01odd'"
                " WHERE id = :id"
            ),
            {"id": odd, "deep": deep},
        )
    assert {line[0] for line in ask("jobs", "list").lines[1:]} == {str(odd), str(good)}
    assert len(ask("jobs", "list", "--json").json) == 2
    shown = {line[0]: " ".join(line[1:]) for line in ask("jobs", "show", odd).lines}
    assert shown["cursor"].startswith("cannot be read: ")
    assert ask("jobs", "show", odd, "--json").json["id"] == str(odd)
    assert ask("jobs", "watch", odd, "--timeout", 0).exit_code == 1


def test_a_pause_holds_until_it_is_taken_back(tenant: Tenant) -> None:
    (job_id,) = add_jobs(tenant, "text")
    place = ("--kind", "process_document", "-o", tenant.slug)
    assert ask("jobs", "pause", *place).out == f"paused process_document of {tenant.slug}\n"
    assert ask("jobs", "pause", *place).exit_code == 0, "twice is once"
    header, shown = ask("jobs", "paused").lines
    assert header == ["organization", "kind", "since", "by"]
    assert (shown[:2], shown[-1]) == ([tenant.slug, "process_document"], actor())
    assert f"paused for its organization by {actor()}, since" in ask("jobs", "why", job_id).out
    assert work() == 0
    assert ask("jobs", "resume", "--kind", "process_document").exit_code == 1, "another pause"
    assert ask("jobs", "resume", *place).out == f"resumed process_document of {tenant.slug}\n"
    assert work() == 2
    assert job(job_id).state == "succeeded"


def test_a_kind_or_an_organization_is_paused_as_a_whole(tenant: Tenant) -> None:
    add_jobs(tenant, "text")
    assert ask("jobs", "pause", "-o", tenant.slug).out == f"paused all kinds of {tenant.slug}\n"
    assert ask("jobs", "pause", "--kind", "process_document").out == "paused process_document\n"
    assert [(one["organization"], one["kind"]) for one in ask("jobs", "paused", "--json").json] == [
        (None, "process_document"),
        (tenant.slug, None),
    ]
    ask("jobs", "resume", "-o", tenant.slug)
    assert work() == 0
    ask("jobs", "resume", "--kind", "process_document")
    assert work() == 2


def test_a_kind_that_only_a_worker_elsewhere_knows_is_paused_limited_and_let_go_when_its_package_is_gone(
    tenant: Tenant,
) -> None:
    refused = ask("jobs", "pause", "--kind", "acme.letters")
    assert (refused.exit_code, "no kind is called 'acme.letters'" in refused.err) == (1, True)
    with opened_database():
        worker = Heartbeat("worker", lambda: {"kinds": ["acme.letters"]})
        worker.tick()
    assert ask("jobs", "pause", "--kind", "acme.letters").out == "paused acme.letters\n"
    assert ask("limits", "set", "--kind", "acme.letters", "--running", 1).exit_code == 0
    assert "did you mean 'acme.letters'?" in ask("jobs", "pause", "--kind", "acme.leters").err
    with opened_database():
        worker.leave()
    assert ask("jobs", "resume", "--kind", "acme.letters").out == "resumed acme.letters\n"
    assert ask("limits", "remove", "--kind", "acme.letters").exit_code == 0


def fan_out(tenant: Tenant, *texts: str) -> str:
    with opened_database():
        tenant.add(*texts)
    return enqueue(tenant, "process_organization").out.strip()


def test_watch_tells_how_a_fan_outs_children_ended(tenant: Tenant) -> None:
    parent = fan_out(tenant, "a", "b")
    work()
    answer = ask("jobs", "watch", parent)
    assert (answer.exit_code, answer.out, answer.err) == (0, "2 succeeded\n", "")
    found = ask("jobs", "watch", parent, "--json").json
    assert (found["children"], found["done"], found["states"], found["ended"]) == (2, 2, {"succeeded": 2}, True)


def test_watch_fails_when_a_child_did(tenant: Tenant) -> None:
    parent = fan_out(tenant, "a", "  ")
    work()
    assert ask("jobs", "watch", parent).out == "1 failed, 1 succeeded\n"
    assert ask("jobs", "watch", parent).exit_code == 1
    (failed,) = ask("jobs", "list", "--parent", parent, "--state", "failed", "--json").json
    assert failed["error_class"] == "PipelineError"


def test_watch_follows_a_job_without_children_to_its_own_end(tenant: Tenant) -> None:
    answer = enqueue(tenant, "process_folder", f"folder_id={NOWHERE}")
    job_id = answer.out.strip()
    work()
    watched = ask("jobs", "watch", job_id)
    assert watched.exit_code == 1
    assert watched.out.startswith(f"process_folder failed (no folder {NOWHERE} in this organization")


def test_watch_gives_up_in_time(tenant: Tenant) -> None:
    parent = fan_out(tenant, "a")
    answer = ask("jobs", "watch", parent, "--timeout", 0)
    assert (answer.exit_code, answer.out) == (1, "")
    assert answer.err == f"docworker: job {parent} has not ended within 0 s: process_organization queued\n"


def test_watch_goes_on_until_the_last_child_has_ended(tenant: Tenant) -> None:
    parent = fan_out(tenant, "a", "b")
    watching = subprocess.Popen(
        [sys.executable, "-m", "docworker.worker.cli", "jobs", "watch", parent],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with opened_database():
            run(dispatch_due())
            eventually(lambda: _sessions("docworker jobs") > 0, what="it watches", within_seconds=20)
            assert watching.poll() is None, "the parent has ended, its children have not"
            drain()
        out, err = watching.communicate(timeout=20)
    finally:
        watching.kill()
    assert (watching.returncode, out) == (0, "2 succeeded\n"), err


def _sessions(application_name: str) -> int:
    with all_jobs_session() as session:
        counted = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")
        return int(session.scalar(counted, {"name": application_name}) or 0)


def test_an_old_version_is_restored(tenant: Tenant) -> None:
    with opened_database():
        document_id = tenant.write("/a/b.txt", "first", "second")
    answer = ask("restore", "/a/b.txt", 1, "-o", tenant.slug)
    assert (answer.exit_code, answer.err) == (0, "")
    assert answer.out == "/a/b.txt: the text of version 1 is version 3 now\n"
    with opened_database():
        assert [one.content for one in tenant.versions(document_id)] == ["first", "second", "first"]
    again = ask("restore", document_id, 1, "-o", tenant.slug, "--json")
    assert again.json == {
        "document_id": str(document_id),
        "path": "/a/b.txt",
        "restored": 1,
        "written": "unchanged",
        "version_number": 3,
    }
    assert ask("restore", document_id, 1, "-o", tenant.slug).out == (
        "/a/b.txt: nothing to do, version 3 has that text already\n"
    )
    assert work() == 1, "it is indexed"


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("/a.txt", "7"), 1, "has no version 7: its latest is 1"),
        (("/pending.txt", "1"), 1, "has no versions: it is pending"),
        (("/nothing.txt", "1"), 1, "this organization has no document '/nothing.txt'"),
        (("/a.txt", "0"), 2, "0 is not in the range 1<=x<=2147483647"),
        (("/a.txt",), 2, "say which VERSION is to be the newest, or --from-source"),
        (("/a.txt", "1", "--from-source"), 2, "say which VERSION is to be the newest, or --from-source"),
    ],
)
def test_what_cannot_be_restored_is_told(tenant: Tenant, arguments: Any, code: int, complaint: str) -> None:
    with opened_database():
        tenant.write("/a.txt", "first")
        tenant.write("/pending.txt")
    answer = ask("restore", *arguments, "-o", tenant.slug)
    assert (answer.exit_code, answer.out) == (code, "")
    assert complaint in answer.err


def test_another_organizations_document_cannot_be_restored(tenant: Tenant) -> None:
    with opened_database():
        document_id = tenant.write("/a.txt", "first", "second")
        other = Tenant()
    answer = ask("restore", document_id, 1, "-o", other.slug)
    assert answer.exit_code == 1
    assert "has no document" in answer.err


def test_no_help_line_is_cut_short(tenant: Tenant) -> None:
    assert "..." not in ask("jobs", "--help").out.partition("Commands:")[2]


def test_organizations_are_weighed(tenant: Tenant) -> None:
    assert ask("weights", "set", tenant.slug, 3).out == f"{tenant.slug} has the weight 3\n"
    assert [tenant.slug, "3"] in ask("weights", "list").lines
    ask("weights", "set", tenant.slug, 0.5)
    assert {"organization": tenant.slug, "weight": 0.5} in ask("weights", "list", "--json").json
    assert "from 0.01 to 100" in ask("weights", "set", tenant.slug, 0).err
    assert ask("weights", "remove", tenant.slug).out == f"{tenant.slug} has the weight 1, like all\n"
    assert ask("weights", "remove", tenant.slug).exit_code == 1
    log = [one for one in ask("audit", "list", "-o", tenant.slug, "--json").json if "weighed" in one["action"]]
    done = [one["details"].get("weight") for one in log if "failed" not in one["details"]]
    assert sorted(done, key=str) == [0.5, 3, None]
