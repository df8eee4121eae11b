"""`Target`: what a migration brings to a revision, a database or the schema of one organization in it."""

from typing import NamedTuple

from sqlalchemy import Engine

from docworker.db.cluster.engines import owner_engine
from docworker.db.settings import HOME, settings


class Target(NamedTuple):
    """Without a database the cluster's own one is meant; without a schema the database with all of its own."""

    cluster: str = HOME
    database: str | None = None
    schema: str | None = None

    def engine(self) -> Engine:
        """Connects as the owner. Raises ConfigurationError where no setting says how."""
        return owner_engine(settings(), self.cluster, self.database)

    def __str__(self) -> str:
        database = self.cluster if self.database is None else f"{self.cluster}, database {self.database}"
        return database if self.schema is None else f"{database}, schema {self.schema}"
