"""What `pip install` puts in place: one name, beside a program that has a `db`, `jobs` and `worker` of its own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.support.project import PACKAGED, PROJECT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the project."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGED:
        if (PROJECT / name).is_dir():
            shutil.copytree(
                PROJECT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        else:
            shutil.copy(PROJECT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", target, source)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel in it, and the libraries that it needs."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment), "platbase": str(environment)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # Their place alone: what makes this project's own folder importable there is not looked at.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin" / "python"


def run(*command: str | Path, directory: Path | None = None, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(
        command, cwd=directory, env=clean | environment, capture_output=True, text=True, check=False, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_one_name_at_its_top(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {"docworker", "docworker-0.1.0.dist-info"}
    needed = ["py.typed", "__init__.pyi", "db/__init__.pyi", "migrations/script.py.mako", "worker/local/exec_as.py"]
    assert {f"docworker/{name}" for name in needed} <= set(names)


PROGRAM = '''
"""A service with modules of its own, which are called as ours are in our repository."""
import db
import jobs.mail
import worker
from docworker import create_organization, enqueue, open_database, process_document, writing
from docworker import Document, new_id

assert (db.NAME, jobs.mail.NAME, worker.NAME) == ("their db", "their mail", "their worker")
open_database(application_name="their service")
organization_id = create_organization("initech")
with writing(organization_id) as session:
    document = Document(id=new_id(), organization_id=organization_id, filename="a.txt", content="text")
    session.add(document)
    enqueue(session, process_document, document_id=document.id)
print("enqueued")
'''


def test_it_lives_beside_a_program_with_modules_of_the_same_names(
    installed: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "db.py").write_text("NAME = 'their db'\n")
    for package, module, name in (("jobs", "mail", "their mail"), ("worker", "__init__", "their worker")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
        (tmp_path / package / f"{module}.py").write_text(f"NAME = {name!r}\n")
    (tmp_path / "service.py").write_text(PROGRAM)

    assert run(installed, "service.py", directory=tmp_path) == "enqueued\n"
    listed = run(installed, "-m", "docworker.worker.cli", "jobs", "list", "--json", directory=tmp_path)
    assert '"kind": "process_document"' in listed
    found = run(installed, "-c", "import docworker.db.ledger as it; print(it.__file__)", directory=tmp_path)
    assert found.startswith(str(installed.parents[1]))


TYPED = """
from uuid import UUID

from sqlalchemy.orm import Session

from docworker import Arguments, Attempt, Batch, JobWatch, batch_job, enqueue, job, open_database, reading, writing
from docworker import Document, NotFoundError, Settings, WalPosition, process_document, read


class Counting(Arguments):
    document_id: UUID


@batch_job(arguments=Counting)
def count_many(batch: Batch[Counting]) -> None:
    for attempt in batch.starting():
        attempt.finish(lambda session: {"words": words_of(session, attempt.arguments.document_id)})


@job(max_attempts=3)
def count(attempt: Attempt, document_id: UUID) -> None:
    words: int = attempt.read(lambda session: words_of(session, document_id))
    attempt.finish(lambda _: {"words": words})


def words_of(session: Session, document_id: UUID) -> int:
    document = session.get(Document, (UUID(int=1), document_id))
    if document is None:
        raise NotFoundError(str(document_id))
    return len((document.content or "").split())


def main(organization_id: UUID, document_id: UUID) -> int:
    open_database(Settings(), application_name="typed")
    with writing(organization_id) as session:
        job_id: UUID = enqueue(session, process_document, document_id=document_id)
        position: WalPosition = session.commit_with_position()
    with reading(organization_id, position=position) as session:
        words_of(session, document_id)
    return read(organization_id, lambda session: words_of(session, document_id)) + JobWatch(
        organization_id, [job_id]
    ).look().live
"""


def test_a_package_that_uses_the_public_names_passes_strict_type_checks(installed: Path, tmp_path: Path) -> None:
    """And one that takes an int for a str does not, or it would not be our types that are checked."""
    (tmp_path / "typed.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text(TYPED.replace("-> int:\n    open_database", "-> str:\n    open_database"))
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", installed, "--no-incremental")
    checked = subprocess.run(
        [*mypy, "typed.py", "wrong.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=150
    )
    *errors, summary = checked.stdout.splitlines()
    assert [one.split(":")[0] for one in errors] == ["wrong.py"], checked.stdout
    assert 'expected "str"' in errors[0]
    assert "Found 1 error in 1 file" in summary


@pytest.mark.parametrize(
    "module", ["docworker", "docworker.db", "docworker.jobs", "docworker.jobs.pipeline", "docworker.aio"]
)
def test_each_public_name_is_there_and_documented(module: str) -> None:
    program = (
        f"import {module} as it\n"
        "undocumented = [n for n in it.__all__ if not (getattr(it, n).__doc__ or '').strip()]\n"
        "assert not undocumented, undocumented\n"
        "assert set(it.__all__) <= set(dir(it))"
    )
    run(sys.executable, "-c", program, directory=PROJECT)
