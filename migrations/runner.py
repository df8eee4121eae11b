"""`upgrade`, `downgrade`: the schema from Python, as `docworker migrate` does."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import text

from docworker.db.cluster.engines import owner_engine
from docworker.db.errors import DocworkerError
from docworker.db.settings import settings


def configuration() -> Config:
    """Alembic's configuration, wherever the package is installed."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def upgrade(revision: str = "head") -> None:
    """Raises DocworkerError where there is no way to this revision."""
    try:
        command.upgrade(configuration(), revision)
    except CommandError as error:
        raise DocworkerError(
            f"cannot migrate to {revision!r}: {error}; give a revision of migrations/versions/, "
            "and the release that the database was migrated to last, or a newer one"
        ) from error


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


def downgrade(revision: str) -> None:
    command.downgrade(configuration(), revision)
