"""The roles and the database that the local stack gives to docworker; what they may do is for the migrations."""

from psycopg import sql

from docworker.worker.local.servers.postgres import PostgresServer

DATABASE = "docworker"
OWNER = "docworker_owner"
WORKER = "docworker_worker"
DISPATCHER = "docworker_dispatcher"
PRODUCER = "docworker_producer"
ROLES = (OWNER, WORKER, DISPATCHER)
"""Those that log in. The producers' is granted to the roles of other programs."""


def ensure_roles(master: PostgresServer, passwords: dict[str, str]) -> None:
    """Make the roles, with these passwords, and the database of the owner; what is there already stays."""
    with master.connect() as connection:
        present = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
        for role in ROLES:
            verb = sql.SQL("ALTER" if role in present else "CREATE")
            connection.execute(
                sql.SQL("{} ROLE {} LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD {}").format(
                    verb, sql.Identifier(role), sql.Literal(passwords[role])
                )
            )
        if PRODUCER not in present:
            connection.execute(f"CREATE ROLE {PRODUCER} NOLOGIN NOSUPERUSER NOBYPASSRLS")
        # For databases of single organizations: to make them, and to drop one that processes are connected to.
        connection.execute(sql.SQL("ALTER ROLE {} CREATEDB").format(sql.Identifier(OWNER)))
        connection.execute(f"GRANT pg_signal_backend TO {OWNER}")
        # For the replicas' lag, which pg_stat_wal_receiver hides from ordinary roles.
        connection.execute(f"GRANT pg_read_all_stats TO {WORKER}, {DISPATCHER}")
        if not connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).rowcount:
            create_database(master, DATABASE)


def create_database(master: PostgresServer, name: str, *, template: str = "template1") -> None:
    """Make a database of the owner, as a copy of `template`, to which nobody may be connected."""
    with master.connect() as connection:
        connection.execute(
            # Copying files costs a third of writing every page to the WAL, here and on the replicas.
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} STRATEGY FILE_COPY").format(
                sql.Identifier(name), sql.Identifier(OWNER), sql.Identifier(template)
            )
        )


def drop_database(master: PostgresServer, name: str) -> None:
    """Drop a database and end the sessions in it; none by that name is fine."""
    with master.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
