"""`docworker import` from the shell: with all processes, with some missing, and with bad files."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from docworker.db.documents.store import source_store
from docworker.worker.heartbeat import Heartbeat
from tests.support.commands import docworker
from tests.support.database import opened_database
from tests.support.processes import Processes
from tests.support.tenants import Tenant
from tests.support.waiting import eventually


@pytest.fixture
def tenant(opened: object) -> Tenant:
    return Tenant()


@pytest.fixture
def fresh_tenant(fresh_environment: dict[str, str]) -> Iterator[Tenant]:
    """In a ledger where no process has said that it lives."""
    with opened_database():
        yield Tenant()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    (root / "inner").mkdir(parents=True)
    (root / "a.txt").write_text("The first text.")
    (root / "inner" / "b.md").write_text("# Second\n\nIts text.")
    return root


def test_files_are_imported_and_processed_by_running_processes(
    tenant: Tenant, files: Path, processes: Processes
) -> None:
    (files / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing more")
    (files / "song.mp3").write_bytes(b"ID3\x03\0\0\0\0\x0f\x76")
    (files / "dangling.txt").symlink_to("nowhere")
    processes.start("dispatcher")
    processes.start("worker")
    answer = docworker("import", files, "-o", tenant.slug, "--json", "--timeout", 40)
    assert answer.exit_code == 1
    counts = {name: count for name, count in answer.json.items() if name != "files"}
    assert counts == {"processed": 2, "pending": 0, "unchanged": 0, "unsupported": 1, "failed": 2, "skipped": 0}
    outcomes = {one["path"]: (one["outcome"], one["reason"]) for one in answer.json["files"]}
    assert outcomes["/a.txt"] == ("processed", None)
    assert outcomes["/broken.pdf"][0] == "failed"
    assert outcomes["/dangling.txt"][1] == "a symbolic link that leads nowhere: No such file or directory"

    again = docworker("import", files, "-o", tenant.slug)
    assert again.exit_code == 1
    assert again.out.splitlines()[-1] == "0 processed, 4 unchanged, 1 failed"
    assert "/dangling.txt" in again.out


def test_of_an_import_into_another_store_than_the_workers_both_are_named(
    tenant: Tenant, files: Path, tmp_path: Path, processes: Processes
) -> None:
    processes.start("dispatcher")
    processes.start("worker")
    ours, theirs = tmp_path / "ours", source_store().place
    Path(theirs).mkdir(exist_ok=True)
    elsewhere = {"DOCWORKER_STORE": str(ours)}
    answer = docworker("import", files, "-o", tenant.slug, "--timeout", 40, environment=elsewhere)
    assert answer.exit_code == 1
    assert f"SourceMissingError: the source {tenant.id}/" in answer.out
    assert f"is not in {theirs}, where this process has its store" in answer.out
    assert f"this command keeps the files in {ours}, and the worker looked elsewhere" in answer.err
    eventually(lambda: theirs in {one.get("store") for one in docworker("status", "--json").json["processes"]})
    again = docworker("import", files, "-o", tenant.slug, "--timeout", 40)
    assert (again.exit_code, again.out, again.err) == (0, "2 processed, 0 failed\n", "")


def test_of_many_files_that_are_left_out_the_reasons_are_counted(tenant: Tenant, files: Path) -> None:
    for number in range(60):
        (files / f"sound{number:02}.ogg").write_bytes(b"OggS\0")
    (files / "dangling.txt").symlink_to("nowhere")
    answer = docworker("import", files, "-o", tenant.slug, "--no-wait")
    head, failed, unsupported = answer.out.splitlines()[:3]
    assert head.split() == ["files", "outcome", "why", "such", "as"]
    assert (failed.split()[:2], failed.split()[-1]) == (["1", "failed"], "/dangling.txt")
    assert (unsupported.split()[:2], unsupported.split()[-1]) == (["60", "unsupported"], "/sound00.ogg")
    assert answer.out.endswith("\n\n0 processed, 2 pending, 60 unsupported, 1 failed\n")
    assert "--json" in answer.err


def test_import_without_waiting_ends_at_once(tenant: Tenant, files: Path) -> None:
    answer = docworker("import", files, "-o", tenant.slug, "--no-wait")
    assert answer.exit_code == 0
    assert answer.out == "0 processed, 2 pending, 0 failed\n"


def test_folder_with_nothing_to_wait_for_is_done(tenant: Tenant, tmp_path: Path) -> None:
    assert docworker("import", tmp_path, "-o", tenant.slug).out == "0 processed, 0 failed\n"


def test_wait_that_takes_too_long_ends_with_an_error(tenant: Tenant, files: Path) -> None:
    answer = docworker("import", files, "-o", tenant.slug, "--timeout", 0.5)
    assert (answer.exit_code, answer.out) == (1, "0 processed, 2 pending, 0 failed\n")


def test_missing_dispatcher_is_told_and_ctrl_c_ends_the_wait(
    fresh_tenant: Tenant, files: Path, processes: Processes
) -> None:
    process = processes.start("import", str(files), "-o", fresh_tenant.slug)
    process.wait_for_log("2 jobs wait: no dispatcher lives")
    process.send(signal.SIGINT)
    assert process.wait(within_seconds=10) == 130
    assert "Traceback" not in process.log
    assert "interrupted: what has been imported stays" in process.log


def test_missing_worker_is_told_and_then_that_nobody_is_missing(
    fresh_tenant: Tenant, files: Path, processes: Processes
) -> None:
    Heartbeat("dispatcher", dict).tick()
    process = processes.start("import", str(files), "-o", fresh_tenant.slug)
    process.wait_for_log("2 jobs wait: no worker lives")
    Heartbeat("worker", dict).tick()
    process.wait_for_log("2 jobs wait: other jobs come before them, or they are paused")


def test_path_that_is_not_there_is_wrong_usage(tenant: Tenant, tmp_path: Path) -> None:
    answer = docworker("import", tmp_path / "nowhere", "-o", tenant.slug)
    assert answer.exit_code == 2
    assert "does not exist" in answer.err


def test_names_that_are_not_text_are_shown_and_do_not_break_json(tenant: Tenant, files: Path) -> None:
    Path(os.fsdecode(os.fsencode(files) + b"/caf\xe9.txt")).touch()
    (files / "Ünïcödé 文.txt").write_text("text")
    answer = docworker("import", files, "-o", tenant.slug, "--no-wait", "--json")
    assert {one["path"]: one["outcome"] for one in answer.json["files"]} == {
        "/a.txt": "pending",
        "/inner/b.md": "pending",
        "/Ünïcödé 文.txt": "pending",
        "/caf\\xe9.txt": "failed",
    }
    assert answer.exit_code == 1
