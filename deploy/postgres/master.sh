#!/bin/sh
# Run once by the postgres image, when the master's data directory is new: docworker's roles, and the replicas' role.
set -eu

roles=${ROLES_SQL:-/deploy/roles.sql}

psql --no-psqlrc --quiet --username "${POSTGRES_USER:-postgres}" --dbname postgres \
    --set owner_password="$OWNER_PASSWORD" \
    --set worker_password="$WORKER_PASSWORD" \
    --set dispatcher_password="$DISPATCHER_PASSWORD" \
    --set replication_password="$REPLICATION_PASSWORD" \
    --file "$roles"

# "all" in the image's own line does not include replication.
echo 'host replication docworker_replication all scram-sha-256' >> "$PGDATA/pg_hba.conf"
