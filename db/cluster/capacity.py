"""`check_connections`: whether the settings' pools fit what the master admits, before the pools run into it."""

from docworker.db.errors import ConfigurationError
from docworker.db.settings import HOME, Settings

LIMITS = (
    "SELECT pg_catalog.current_setting('max_connections')::pg_catalog.int4,"
    " pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int4,"
    " coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::pg_catalog.int4,"
    " (SELECT pg_catalog.count(*) FROM pg_catalog.pg_database"
    "  WHERE pg_catalog.shobj_description(oid, 'pg_database') LIKE 'docworker %')"
)
"""Asked of a master; the second and third are kept for others than us. The last one is the number of databases of
single organizations on it, by the mark that they are made with."""

_KEEPER, _KEEPER_OF_A_DATABASE = 2, 1
"""Of each worker: the process that renews its leases, and says that it lives."""
_MONITOR = 1


def _connections_of_a_child(settings: Settings, cluster: str) -> int:
    """The most connections that one worker process makes to the master."""
    monitor = _MONITOR if settings.addresses(cluster).replica_urls else 0
    return settings.pool_size + settings.max_overflow + monitor


def check_connections(
    settings: Settings,
    *,
    max_connections: int,
    superuser_reserved: int = 0,
    reserved: int = 0,
    tenant_databases: int = 0,
    cluster: str = HOME,
) -> None:
    """Raises ConfigurationError, with the arithmetic, when all processes of a worker together could ask for too many
    on the master of this cluster, in its own database and in those of single organizations."""
    children = settings.worker_processes if settings.worker_pool == "prefork" else 1
    each = _connections_of_a_child(settings, cluster)
    open_databases = min(settings.databases_open, tenant_databases)
    of_databases = (children + _KEEPER_OF_A_DATABASE) * open_databases
    admitted = max_connections - superuser_reserved - reserved
    needed = children * each + _KEEPER + of_databases
    if needed <= admitted:
        return
    monitor = f" + monitor {_MONITOR}" if settings.addresses(cluster).replica_urls else ""
    databases, lower = "", "DOCWORKER_WORKER_PROCESSES, DOCWORKER_POOL_SIZE or DOCWORKER_MAX_OVERFLOW"
    if open_databases:
        databases = f" + ({children} processes + keeper) x databases of organizations {open_databases}"
        lower = f"DOCWORKER_DATABASES_OPEN, {lower}"
    raise ConfigurationError(
        f"the worker may need {children} processes x (pool_size {settings.pool_size} + max_overflow "
        f"{settings.max_overflow}{monitor}) + keeper {_KEEPER}{databases} = {needed} connections to the master of "
        f"{cluster}, which admits max_connections {max_connections} - superuser_reserved_connections "
        f"{superuser_reserved} - reserved_connections {reserved} = {admitted}: lower {lower}, raise max_connections, "
        "or put PgBouncer between"
    )
