"""`WriteStop`: for a moment nobody writes for an organization. It begins when no job runs and ends with a transaction
that holds the organization's lock alone (`db.sessions.fence`)."""

import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql
from psycopg.errors import LockNotAvailable
from sqlalchemy import func, select

from docworker.db.catalog import place_in
from docworker.db.errors import DocworkerError
from docworker.db.models import Job, JobState, Placement
from docworker.db.models.ledger.attempt import ATTEMPTS
from docworker.db.models.ledger.job import JOBS, LIVE_STATES
from docworker.db.sessions.fence import lock_key
from docworker.worker.tenants.owner import become, owning

LOCK_SECONDS, LOCK_ATTEMPTS = 1.0, 10
"""So long writers may be made to wait behind a transaction that does not end, and how often."""
_POLL_SECONDS = 0.05


class WriteStop:
    """Of one organization, at the place where it is; `connection` is the owner's there, for this alone. `say` is told
    what is waited for."""

    def __init__(self, placement: Placement, connection: psycopg.Connection[Any], say: Callable[[str], None]) -> None:
        self._slug, self._id = placement.slug, placement.organization_id
        self._place = place_in(placement)
        self._connection = connection
        self._say = say

    def await_running(self, wait_seconds: float, deadline: float) -> None:
        """Raises DocworkerError, which names `wait_seconds`, where jobs run after `deadline` (monotonic)."""
        while running := self.running():
            kinds = ", ".join(f"{count} {kind}" for kind, count in running.items())
            self._say(f"waiting for running jobs: {kinds}")
            if time.monotonic() > deadline:
                raise DocworkerError(
                    f"jobs of {self._slug!r} still run after {wait_seconds:g} s ({kinds}): move "
                    "it when they have ended, cancel them, or wait longer with --wait; it is served where it was"
                )
            time.sleep(_POLL_SECONDS)

    def running(self) -> dict[str, int]:
        """How many jobs run, by kind."""
        with owning(self._place) as there:
            become(there, self._id)
            rows = there.execute(
                select(Job.kind, func.count())
                .where(Job.organization_id == self._id, Job.state == JobState.RUNNING)
                .group_by(Job.kind)
            )
            return {row[0]: row[1] for row in rows}

    def begin(self) -> float:
        """Begin a transaction that holds the organization's lock alone; since when (monotonic) others wait for it.
        Raises DocworkerError where transactions that write do not end."""
        self._say("waiting for open transactions")
        for attempt in range(LOCK_ATTEMPTS):
            time.sleep(attempt * LOCK_SECONDS / 2)
            self._connection.execute("BEGIN")
            self._connection.execute(f"SET LOCAL lock_timeout = {int(LOCK_SECONDS * 1000)}")
            began = time.monotonic()
            try:
                self._connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", [lock_key(self._id)])
            except LockNotAvailable:
                self._connection.execute("ROLLBACK")
            else:
                return began
        raise DocworkerError(
            f"transactions that write for {self._slug!r} do not end ({self._holders()}): end them, or move "
            "it later; it is served where it was"
        )

    def _holders(self) -> str:
        rows = self._connection.execute(
            "SELECT format('%%s, process %%s of PostgreSQL', application_name, pid)"
            " FROM pg_catalog.pg_locks JOIN pg_catalog.pg_stat_activity AS who USING (pid)"
            " WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32 | objid::bigint) = %s",
            [lock_key(self._id)],
        ).fetchall()
        return "; ".join(str(row[0]) for row in rows) or "they have just ended"

    def delete_live_jobs(self) -> None:
        """In the transaction that ends after the switch. Until then they are there to be copied, and locked: a claim
        that was sent to the old place passes over them, and who cancels one waits and finds it gone."""
        self._connection.execute("SELECT pg_catalog.set_config('docworker.organization_id', %s, true)", [str(self._id)])
        self._connection.execute(
            sql.SQL(
                "WITH live AS (DELETE FROM {jobs} WHERE organization_id = %s AND state = ANY(%s) RETURNING id)"
                " DELETE FROM {attempts} WHERE organization_id = %s AND job_id IN (SELECT id FROM live)"
            ).format(jobs=sql.Identifier(*JOBS.split(".")), attempts=sql.Identifier(*ATTEMPTS.split("."))),
            [self._id, [*LIVE_STATES], self._id],
        )

    def check(self) -> None:
        """Raises psycopg.Error unless the lock has been held until now, so that nobody has begun to write."""
        self._connection.execute("SELECT 1")

    def end(self) -> None:
        self._connection.execute("COMMIT")

    def give_up(self) -> None:
        """Roll back; does nothing where it has not begun."""
        self._connection.execute("ROLLBACK")
