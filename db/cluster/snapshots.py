"""`SnapshotWatch`: who holds an old snapshot, so that dead rows cannot be removed: sessions, replication slots,
standbys by their feedback, prepared transactions.

Of a slot and of a standby the server tells which transaction they still see, not since when. `SnapshotWatch` remembers
how far the transactions were at each look, so it knows since when there are any that these do not see.
"""

import time
from collections import deque
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

HOLDERS = ("session", "slot", "standby", "prepared")


@dataclass(frozen=True)
class SnapshotHolder:
    """`holder` is one of HOLDERS, `who` names it, `remedy` is the command that lets go of its snapshot."""

    holder: str
    who: str
    state: str
    seconds: float
    remedy: str


# An open transaction that has written holds back what died since, also without a snapshot. VACUUM itself holds nothing
# back, and neither do sessions of other databases.
_HOLDERS = text("""
SELECT 'session' AS holder,
       format('pid %s, user %s, application %L, since %s', pid, usename, application_name, xact_start) AS who, state,
       CAST(extract(epoch FROM clock_timestamp() - xact_start) AS double precision) AS seconds,
       greatest(age(backend_xid), age(backend_xmin)) AS age,
       format('SELECT pg_terminate_backend(%s)', pid) AS remedy
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type NOT IN ('walsender', 'autovacuum worker')
  AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL) AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
  AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
UNION ALL
SELECT 'slot', slot_name, CASE WHEN active THEN 'used by pid ' || active_pid ELSE 'not in use' END, NULL, age(xmin),
       CASE WHEN active THEN 'on the standby: ALTER SYSTEM SET hot_standby_feedback = off; SELECT pg_reload_conf()'
            ELSE format('SELECT pg_drop_replication_slot(%L), unless its standby comes back', slot_name) END
FROM pg_replication_slots WHERE xmin IS NOT NULL
UNION ALL
SELECT 'standby', format('%L at %s, pid %s', application_name, coalesce(host(client_addr), 'a socket'), pid), state,
       NULL, age(backend_xmin),
       'on the standby: end the oldest query, or ALTER SYSTEM SET hot_standby_feedback = off; SELECT pg_reload_conf()'
FROM pg_stat_replication WHERE backend_xmin IS NOT NULL
UNION ALL
SELECT 'prepared', format('transaction %L, owner %s, since %s', gid, owner, prepared), 'prepared',
       CAST(extract(epoch FROM clock_timestamp() - prepared) AS double precision), age(transaction),
       format('ROLLBACK PREPARED %L', gid)
FROM pg_prepared_xacts WHERE database = current_database()
""")
_NEXT = text("""
SELECT CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all
""")


class SnapshotWatch:
    """`look` now and then; the first look knows nothing of the time before it."""

    MOST_LOOKS = 1000

    def __init__(self) -> None:
        self.sees_all = True
        """Whether the role may see other users' sessions and standbys; else only slots and prepared transactions."""
        self._looks: deque[tuple[float, int]] = deque()

    def look(self, session: Session) -> list[SnapshotHolder]:
        """Those who hold a snapshot just now, the oldest first."""
        now = time.monotonic()
        next_xid, self.sees_all = session.execute(_NEXT).one()
        found = [
            SnapshotHolder(
                row.holder,
                row.who,
                row.state or "",
                max(0.0, self._seconds(next_xid - row.age, now) if row.seconds is None else row.seconds),
                row.remedy,
            )
            for row in session.execute(_HOLDERS)
        ]
        if len(self._looks) >= self.MOST_LOOKS:  # every other one will do
            self._looks = deque(list(self._looks)[::2])
        self._looks.append((now, next_xid))
        return sorted(found, key=lambda one: one.seconds, reverse=True)

    def _seconds(self, xid: int, now: float) -> float:
        """Since when there have been transactions from this one on."""
        since = now
        for looked_at, next_xid in reversed(self._looks):
            if next_xid <= xid:
                break
            since = looked_at
        return now - since
