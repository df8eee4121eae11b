"""The worked example of docs/migrations.md, in a copy of the project that has its revisions: the next releases."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from docworker.db.models.base import new_id
from docworker.db.models.revision import is_known
from docworker.migrations.runner import head
from tests.support.locking import complaints
from tests.support.places import add_placements, make_schema, recorded, revisions
from tests.support.project import PACKAGED, PROJECT

HEAD = head()
EXPAND, CONTRACT, *_ = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "migrations.md").read_text(), re.DOTALL)

WRITE = """
import sys
from uuid import UUID
from sqlalchemy import select
from docworker.db.cluster import open_database
from docworker.db.models import Document, Organization
from docworker.db.sessions import writing

open_database()
for given in sys.argv[1:]:
    organization_id = UUID(given)
    with writing(organization_id) as session:
        if session.get(Organization, organization_id) is None:
            session.add(Organization(id=organization_id, slug=given, name=given))
            session.flush()
        count = len(session.scalars(select(Document.id)).all())
        session.add(Document(organization_id=organization_id, filename=f"{count}.txt"))
        print(count + 1)
"""
FILL = """
import sys
from uuid import UUID
from sqlalchemy import text
from docworker.db.cluster import open_database
from docworker.db.sessions import writing

open_database()
for given, schema in (one.split("=") for one in sys.argv[1:]):
    with writing(UUID(given)) as session:
        session.execute(text(f"UPDATE {schema}.documents SET language = 'und' WHERE language IS NULL"))
"""


class Release:
    """A copy of the project with a further revision."""

    def __init__(self, directory: Path, *revisions: tuple[str, str], known: tuple[str, ...]) -> None:
        directory.mkdir()
        for name in PACKAGED:
            if (PROJECT / name).is_dir():
                shutil.copytree(PROJECT / name, directory / name, symlinks=True)
            else:
                shutil.copy(PROJECT / name, directory / name)
        for number, code in revisions:
            (directory / "migrations" / "versions" / f"{number}_example.py").write_text(code)
        listing = directory / "db" / "models" / "revision.py"
        changed = re.sub(r"(?m)^KNOWN_REVISIONS = .*$", f"KNOWN_REVISIONS = {known}", listing.read_text())
        listing.write_text(changed)
        self.directory = directory

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.directory)}
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=self.directory,
        )

    def docworker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "docworker.worker.cli", *arguments)


def test_the_example_of_the_documentation_works_with_organizations_a_revision_apart(
    fresh_environment: dict[str, str], tmp_path: Path
) -> None:
    ids = {slug: new_id() for slug in ("first", "second")}
    schemas = [make_schema(f"tenant_{slug}", HEAD) for slug in ids]
    for slug, one in ids.items():
        add_placements({"slug": slug, "organization_id": one, "schema": f"tenant_{slug}", "revision": HEAD})
    organizations = [str(one) for one in ids.values()]
    filled = [f"{one}=tenant_{slug}" for slug, one in ids.items()]
    expanding = EXPAND.replace('"0042"', repr(HEAD))
    expand = Release(tmp_path / "expand", ("0043", expanding), known=(HEAD, "0043"))

    assert complaints(expand.docworker("migrate", "--sql").stdout) == []
    done = expand.docworker("migrate", "--only", "first")
    assert done.returncode == 0, done.stderr
    assert revisions([*schemas, "public"]) == ["0043", HEAD, "0043"]
    written = expand.python("-c", WRITE, *organizations)
    assert written.stdout.split() == ["1", "1"], written.stderr
    assert is_known(recorded()["second"].revision)
    assert not is_known(recorded()["first"].revision), "the release before does not touch it"
    assert expand.docworker("migrate", "--check").returncode == 1
    assert expand.docworker("migrate").returncode == 0
    assert expand.docworker("migrate", "--check").returncode == 0

    contract = Release(tmp_path / "contract", ("0043", expanding), ("0044", CONTRACT), known=("0043", "0044"))
    assert complaints(contract.docworker("migrate", "--sql").stdout) == []
    early = contract.docworker("migrate")
    assert early.returncode == 1
    assert 'check constraint "ck_documents_language"' in early.stdout
    assert contract.python("-c", FILL, *filled).returncode == 0
    assert contract.docworker("migrate").returncode == 0
    assert revisions([*schemas, "public"]) == ["0044"] * 3
