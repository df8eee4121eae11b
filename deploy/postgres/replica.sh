#!/bin/sh
# The entry point of a replica: copies the master into an empty data directory, then runs PostgreSQL as its standby.
# Needs MASTER_HOST, SLOT (a name of its own for each replica) and PGPASSWORD, of the role docworker_replication.
set -eu

PGDATA=${PGDATA:-/var/lib/postgresql/data}
unfinished=$PGDATA.new
master="host=$MASTER_HOST port=${MASTER_PORT:-5432} user=docworker_replication application_name=$SLOT"

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # The slot of a replica whose data is gone; without one, there is nothing to drop. The new one keeps the log from now
    # on: made by pg_basebackup, it may come after the checkpoint of another replica's copy has removed what this one needs.
    psql --no-psqlrc --quiet --output /dev/null "$master dbname=postgres" --set slot="$SLOT" <<'SQL'
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = :'slot' AND NOT active;
SELECT pg_create_physical_replication_slot(:'slot', true);
SQL
    rm -rf "$unfinished"
    pg_basebackup --dbname "$master" --pgdata "$unfinished" --wal-method stream --checkpoint fast \
        --slot "$SLOT" --write-recovery-conf
    # Renamed when complete: a copy that was cut short is made again.
    rm -rf "$PGDATA"
    mv "$unfinished" "$PGDATA"
fi

exec postgres -D "$PGDATA" -c wal_log_hints=on -c max_slot_wal_keep_size=1GB "$@"
