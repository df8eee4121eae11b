#!/bin/sh
# The entry point of a pooler: one server in transaction mode, for the roles of processes; migrations and LISTEN go past it.
# Needs SERVER, WORKER_PASSWORD and DISPATCHER_PASSWORD (letters and digits), and a directory that it may write.
set -eu
umask 077

directory=${PGBOUNCER_DIRECTORY:-/run/pgbouncer}

printf '"%s" "%s"\n' docworker_worker "$WORKER_PASSWORD" docworker_dispatcher "$DISPATCHER_PASSWORD" \
    > "$directory/userlist.txt"

cat > "$directory/pgbouncer.ini" <<EOF
[databases]
docworker = host=$SERVER port=${SERVER_PORT:-5432}

[pgbouncer]
listen_addr = ${LISTEN_HOST:-0.0.0.0}
listen_port = ${LISTEN_PORT:-6432}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $directory/userlist.txt
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
# Longer than any statement of docworker's (DOCWORKER_STATEMENT_TIMEOUT): who waits for a connection is told by its own pool.
query_wait_timeout = 60
EOF

exec pgbouncer "$directory/pgbouncer.ini"
