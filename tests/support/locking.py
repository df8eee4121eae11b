"""Finds migrations that would hold a lock on a table for as long as it takes to read it, by squawk.

It reads the SQL that each revision runs in a database and in the schema of an organization. Run as
`python -m tests.support.locking`; what is found and right all the same stands in EXEMPT with its reason.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from docworker.migrations.runner import lineage, sql

SQUAWK = Path(sys.executable).parent / "squawk"
OLDEST_SERVER = "15"

NOT_ASKED = (
    "prefer-bigint-over-int",  # taste: these count versions and attempts
    "prefer-bigint-over-smallint",
    "prefer-text-field",  # Alembic's own table
    "require-statement-timeout",  # an index is built for as long as that takes; lock_timeout is what others need
    "ban-drop-constraint",  # no lock that lasts: a constraint is dropped and made anew to be NOT VALID first
    "prefer-robust-stmts",  # what was half made is dropped first, which is more: IF NOT EXISTS would keep it
)
_FEW_ROWS = "the catalog has a row for each organization, and only operators write it"
EXEMPT = {
    ("0007", "constraint-missing-not-valid"): _FEW_ROWS,
    ("0007", "require-concurrent-index-creation"): _FEW_ROWS,
    ("0010", "constraint-missing-not-valid"): _FEW_ROWS,
    ("0011", "constraint-missing-not-valid"): _FEW_ROWS,
    ("0034", "ban-drop-not-null"): "the release before takes a limit of a key without a number for none",
    ("0012", "ban-drop-not-null"): "the release before reads no vector of what it has not indexed itself",
}


def complaints(statements: str) -> list[tuple[str, str]]:
    """The rule and the message of each; raises CalledProcessError for what is no SQL of PostgreSQL."""
    with TemporaryDirectory() as directory:
        path = Path(directory, "migration.sql")
        path.write_text(statements)
        options = ["--reporter=json", f"--pg-version={OLDEST_SERVER}", f"--exclude={','.join(NOT_ASKED)}"]
        done = subprocess.run([SQUAWK, *options, path], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise subprocess.CalledProcessError(done.returncode, SQUAWK, done.stdout, done.stderr)
    return [(one["rule_name"], one["message"]) for one in json.loads(done.stdout)]


def findings() -> list[str]:
    """One line for each statement that is neither harmless nor exempt, and for each exemption that nothing needs."""
    found: dict[str, None] = {}
    used = set()
    revisions = lineage()
    for before, revision in zip(["base", *revisions], revisions, strict=False):
        for where, schema in (("a database", None), ("a schema", "tenant")):
            for rule, message in complaints(sql(before, revision, schema=schema)):
                if (revision, rule) in EXEMPT:
                    used.add((revision, rule))
                else:
                    found[f"{revision} in {where}: {rule}: {message}"] = None
    unneeded = [f"{revision}: no longer needs its exemption: {rule}" for revision, rule in EXEMPT.keys() - used]
    return [*found, *unneeded]


if __name__ == "__main__":
    sys.exit("\n".join(findings()) or None)
