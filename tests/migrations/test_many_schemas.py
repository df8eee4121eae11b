"""A thousand schemas from the first revision to the newest, where three fail; a second run does those."""

import time

import click
import pytest
from psycopg import sql

from docworker.migrations.places import behind, migrate_all
from docworker.migrations.runner import head
from tests.support.places import add_placements, execute, make_schema, recorded, revisions

COUNT = 1000


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_thousand_schemas_are_migrated_and_three_that_fail_by_the_next_run(
    fresh_environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"tenant_{number:04}" for number in range(COUNT)]
    begun = time.monotonic()
    for name in names:
        make_schema(name, "0001")
    add_placements(*({"slug": name, "schema": name} for name in names))
    made = time.monotonic()
    broken = [names[number] for number in (100, 500, 900)]
    for name in broken:
        execute(sql.SQL("ALTER TABLE {} RENAME TO away").format(sql.Identifier(name, "documents")))
    first = list(migrate_all())
    migrated = time.monotonic()
    assert sorted(one.place.name for one in first if one.error) == broken
    assert len(first) == COUNT
    assert {slug for slug, row in recorded().items() if row.revision != head() or row.migration_error} == {*broken}
    for name in broken:
        execute(sql.SQL("ALTER TABLE {} RENAME TO documents").format(sql.Identifier(name, "away")))
    second = list(migrate_all())
    assert [(one.place.name, one.error) for one in second if one.error] == []
    assert sorted(one.place.name for one in second) == broken
    assert set(revisions(names)) == {head()}
    started = time.monotonic()
    assert list(migrate_all()) == behind() == []
    ended = time.monotonic()
    seconds = {"made": made - begun, "migrated": migrated - made, "nothing to do": ended - started}
    with capsys.disabled():
        click.echo(", ".join(f"{what} in {took:.1f} s" for what, took in seconds.items()))
