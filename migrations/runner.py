"""Upgrade and downgrade the schema from Python, as `docworker migrate` does."""

from pathlib import Path

from alembic import command
from alembic.config import Config


def configuration() -> Config:
    """Alembic's configuration, wherever the package is installed."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def upgrade(revision: str = "head") -> None:
    command.upgrade(configuration(), revision)


def downgrade(revision: str) -> None:
    command.downgrade(configuration(), revision)
