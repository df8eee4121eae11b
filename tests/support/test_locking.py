"""What the linter of migrations notices, and that ours are as it wants them."""

import pytest

from tests.support.locking import complaints, findings

HARMLESS = "SET lock_timeout = '5s';\n"


def test_our_migrations_hold_no_lock_for_long() -> None:
    assert findings() == []


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("ALTER TABLE app.documents ADD COLUMN language text NOT NULL", "adding-required-field"),
        ("CREATE INDEX ix_documents_title ON app.documents (title)", "require-concurrent-index-creation"),
        ("ALTER TABLE app.documents ADD CONSTRAINT c CHECK (version > 0)", "constraint-missing-not-valid"),
        ("ALTER TABLE app.documents ALTER COLUMN version TYPE bigint", "changing-column-type"),
        ("DROP INDEX app.ix_documents_pending", "require-concurrent-index-deletion"),
    ],
)
def test_a_statement_that_stops_everybody_is_noticed(statement: str, rule: str) -> None:
    assert rule in [name for name, _ in complaints(f"{HARMLESS}{statement};")]


def test_statements_that_let_others_work_pass() -> None:
    column = "ALTER TABLE app.documents ADD COLUMN language text"
    index = "CREATE INDEX CONCURRENTLY ix_documents_title ON app.documents (title)"
    assert complaints(f"{HARMLESS}{column};\n{index};") == []
