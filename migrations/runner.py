"""Upgrade and downgrade the schema from Python, as `docworker migrate` does."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from db.errors import DocworkerError


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


def downgrade(revision: str) -> None:
    command.downgrade(configuration(), revision)
