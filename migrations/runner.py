"""`upgrade`, `downgrade`: one database, or the schema of one organization, from Python; `docworker migrate` does all.

There is one lineage. A revision changes a database by `upgrade()`, and the schema of an organization, which holds the
tables of `app` and `auth` side by side and a version table of its own, by `upgrade_tenant(schema)`, if it has one.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import text

from docworker.db.cluster.engines import owner_engine
from docworker.db.errors import DocworkerError
from docworker.db.settings import HOME, settings
from docworker.migrations.target import Target


def configuration() -> Config:
    """Alembic's configuration, wherever the package is installed."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def head() -> str:
    """The newest revision."""
    return lineage()[-1]


def lineage(revision: str = "head") -> list[str]:
    """The revisions up to this one, oldest first. Raises DocworkerError for one that is not there."""
    try:
        script = ScriptDirectory.from_config(configuration())
        return [one.revision for one in script.iterate_revisions(revision, "base")][::-1]
    except (CommandError, RevisionError) as error:
        raise DocworkerError(f"there is no revision {revision!r}: {error}; see migrations/versions/") from error


def upgrade(
    revision: str = "head", *, cluster: str = HOME, database: str | None = None, schema: str | None = None
) -> None:
    """Bring a database, or the schema of an organization in it, to this revision; both are there already.

    Raises DocworkerError where there is no way to this revision, NotFoundError where there is no such schema.
    """
    target = Target(cluster, database, schema)
    try:
        _run(target, revision, "upgrade")
    except (CommandError, RevisionError) as error:
        raise DocworkerError(
            f"cannot migrate {target} to {revision!r}: {error}; give a revision of migrations/versions/, "
            "and the release that it was migrated to last, or a newer one"
        ) from error


def downgrade(revision: str, *, cluster: str = HOME, database: str | None = None, schema: str | None = None) -> None:
    """The way back; see `upgrade`."""
    _run(Target(cluster, database, schema), revision, "downgrade")


def sql(start: str, end: str = "head", *, schema: str | None = None) -> str:
    """What `upgrade` executes from one revision to another. Asks no server, so what depends on rows is left out."""
    output = io.StringIO()
    _run(Target(schema=schema), end, "upgrade", start=start, output=output)
    return output.getvalue()


def _run(
    target: Target, revision: str, direction: str, *, start: str | None = None, output: io.StringIO | None = None
) -> None:
    """As `alembic.command` does, but in the schema of an organization each step is what a revision has for those."""
    config = configuration()
    config.attributes["target"] = target
    config.output_buffer = output or config.output_buffer
    script = ScriptDirectory.from_config(config)
    find = script._upgrade_revs if direction == "upgrade" else script._downgrade_revs

    def steps(current: Any, _context: Any) -> Iterable[Any]:
        found = find(revision, current)
        if target.schema is not None:
            for step in found:
                step.migration_fn = getattr(step.revision.module, f"{direction}_tenant", _nothing)
        return found

    as_sql = output is not None
    with EnvironmentContext(config, script, fn=steps, as_sql=as_sql, starting_rev=start, destination_rev=revision):
        script.run_env()


def _nothing(schema: str) -> None:
    """A revision that changes no table of organizations."""


_MAY_SEE = text("SELECT pg_has_role('docworker_dispatcher', 'pg_read_all_stats', 'USAGE')")
_MAY_GRANT = text("SELECT pg_has_role('pg_read_all_stats', 'MEMBER WITH ADMIN OPTION')")
_GRANT = text("GRANT pg_read_all_stats TO docworker_dispatcher")


def let_dispatcher_see_snapshots() -> bool:
    """Whether the dispatcher's role may see who holds old snapshots; granted here, where the owner's role may."""
    engine = owner_engine(settings())
    with engine.begin() as connection:
        sees = bool(connection.scalar(_MAY_SEE))
        if not sees and connection.scalar(_MAY_GRANT):
            connection.execute(_GRANT)
            sees = True
    engine.dispose()
    return sees
