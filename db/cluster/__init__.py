"""One master and the replicas that follow it: connections, who is there, and which one to use."""

from docworker.db.cluster.engines import Cluster, Database, close_database, database, open_database

__all__ = ["Cluster", "Database", "close_database", "database", "open_database"]
