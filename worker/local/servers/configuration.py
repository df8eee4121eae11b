"""What every PostgreSQL server of the local stack is told, as the text of its configuration files."""

from collections.abc import Mapping

from docworker.worker.local.servers.server import HOST

SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # no sockets: no path too long for one, nothing left of one
    "password_encryption": "scram-sha-256",
    "max_connections": "100",
    "shared_buffers": "128MB",
    # Not in /dev/shm, which is small in containers and keeps what a killed server had there.
    "dynamic_shared_memory_type": "mmap",
    "shared_preload_libraries": "pg_stat_statements",
    "wal_level": "replica",
    "wal_log_hints": "on",  # for pg_rewind
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_slot_wal_keep_size": "1GB",  # a replica that is gone for long must not fill the disk
    "hot_standby": "on",
    "hot_standby_feedback": "off",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "200ms",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# Full pages are written all the same: pg_rewind insists on them.
NOT_DURABLE: Mapping[str, str] = {"fsync": "off", "max_wal_size": "256MB"}
ACCESS = f"""\
host all         all {HOST}/32 scram-sha-256
host replication all {HOST}/32 scram-sha-256
"""


def configuration(settings: Mapping[str, str], *, durable: bool) -> str:
    """The text of postgresql.conf: the settings of all servers, and these, which win over them."""
    together = {**SETTINGS, **({} if durable else NOT_DURABLE), **settings}
    return "".join(f"{name} = '{_escaped(value)}'\n" for name, value in together.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")
