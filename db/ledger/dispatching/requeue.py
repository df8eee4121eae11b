"""`promote`, `requeue_overdue`, `requeue_held_up`, `undispatch`: due jobs get into their lanes, and dispatched ones
back.

One row that the server refuses to change must neither keep the others from going on, nor the dispatcher.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.faults import Fault, classify
from docworker.db.ledger.claim import UNBEGUN
from docworker.db.ledger.dispatching.lanes import DUE_LATER, LANE, Came
from docworker.db.ledger.dispatching.planning import LaneKey
from docworker.db.ledger.dispatching.shortcuts import Shortcuts, entries_of
from docworker.db.ledger.dispatching.under_way import since_floor
from docworker.db.ledger.message import Message
from docworker.db.models.ledger.job import JOBS


def is_refused(error: Exception) -> bool:
    """Whether the server takes exception to what was written, rather than being in trouble itself."""
    return classify(error) in (Fault.BAD_INPUT, Fault.UNKNOWN)


class _Change:
    """What the dispatcher changes of the jobs of a certain state, a few thousand at a time and without those that the
    server has refused to change before: one such row must neither keep the others from going on, nor the dispatcher.
    They are found by `index`."""

    MOST, MOST_APART = 4000, 100

    def __init__(self, chosen: str, order: str, change: str, index: str) -> None:
        others = f"{chosen} AND id <> ALL(CAST(:without AS uuid[]))"
        which = f"SELECT ctid, id FROM {JOBS} AS job WHERE {others} ORDER BY {order} LIMIT :most"
        change = f"UPDATE {JOBS} AS job SET {change}"
        entries = entries_of(index)
        self._choose = text(which)
        self._change = text(f"""
            WITH before AS MATERIALIZED (
                SELECT clock_timestamp() AS clock, {entries} AS entries
            ), chosen AS MATERIALIZED ({which} FOR NO KEY UPDATE SKIP LOCKED), changed AS (
                {change} FROM chosen WHERE job.ctid = chosen.ctid RETURNING {LANE}, run_at
            )
            SELECT {LANE}, run_at, clock, {entries} - entries AS passed FROM before LEFT JOIN changed ON true
        """)
        self._change_one = text(f"{change} WHERE ctid = CAST(:ctid AS tid) AND {chosen}")

    def make(self, session: Session, without: Collection[UUID], **parameters: Any) -> tuple[Came, datetime, int]:
        """Returns the jobs that were changed, the master's time before that, and how many dead entries lay on the way;
        raises what the server refuses."""
        rows = session.execute(self._change, {"without": list(without), "most": self.MOST, **parameters}).all()
        changed = [(LaneKey(*row[:4]), row.run_at) for row in rows if row.organization_id is not None]
        return changed, rows[0].clock, max(row.passed for row in rows) - len(changed)

    def make_apart(self, session: Session, without: Collection[UUID], **parameters: Any) -> dict[UUID, Exception]:
        """One by one, and only the first ones; returns the jobs that the server refuses to change, and why."""
        refused: dict[UUID, Exception] = {}
        choice = {"without": list(without), "most": self.MOST_APART, **parameters}
        for ctid, job_id in session.execute(self._choose, choice).all():
            try:
                with session.begin_nested():
                    session.execute(self._change_one, {"ctid": ctid, **parameters})
            except Exception as error:
                if not is_refused(error):
                    raise
                refused[job_id] = error
        return refused


PROMOTE = _Change(
    f"{DUE_LATER} AND run_at >= coalesce(CAST(:since AS timestamptz), '-infinity')",
    "run_at",
    "later = false, state = CASE WHEN limit_key IS NULL THEN state ELSE 'waiting' END",
    "ix_jobs_later",
)
"""Jobs whose time has come get into their lanes, or stand in line for their keys."""
_PROMOTED_LATE = timedelta(seconds=2)
"""So late one may commit that is due, where walking them all is dear."""


WAITS_AT_MOST_SECONDS = 3600
"""So long a message is believed to wait at the broker. What waits there is counted, not read: messages whose jobs are
over by now could hide for ever that another one was lost."""

DISPATCHED = "state = 'dispatched' AND redispatch_at >= coalesce(CAST(:dispatched AS timestamptz), '-infinity')"
# The broker's queue is first in, first out: of the messages that nobody has claimed, the newest are those that still
# wait there, as many as it holds.
REQUEUE_OVERDUE = _Change(
    f"""{DISPATCHED} AND redispatch_at <= (SELECT clock_timestamp())
       AND NOT coalesce(message_id = ANY(ARRAY(
           SELECT message_id FROM {JOBS}
           WHERE {DISPATCHED} AND dispatched_at > clock_timestamp() - :waits_at_most * interval '1 second'
           GROUP BY message_id ORDER BY max(dispatched_at) DESC LIMIT :waiting)), false)""",
    "organization_id, id",
    "state = 'queued', redispatch_at = NULL, message_id = NULL",
    "ix_jobs_dispatched",
)
"""`dispatched -> queued` for jobs whose message nobody has claimed in time. `waiting` messages are still at the broker.
Those wait for their turn behind slow work, and are not overdue."""

# The jobs of a message run one after another. What comes behind a slow one is for others to run.
REQUEUE_HELD_UP = _Change(
    f"""{DISPATCHED} AND message_id = ANY(ARRAY(
           SELECT message_id FROM {JOBS}
           WHERE state = 'running' AND lease_expires_at >= coalesce(CAST(:running AS timestamptz), '-infinity')
             AND claimed_at < clock_timestamp() - :held_up_after * interval '1 second'))""",
    "organization_id, id",
    UNBEGUN,
    "ix_jobs_dispatched",
)
"""`dispatched -> queued` for the jobs of messages whose current job has been running for long."""

HELD_UP_AFTER_SECONDS = 1.0


def promote(session: Session, without: Collection[UUID] = (), shortcuts: Shortcuts | None = None) -> set[UUID]:
    """PROMOTE; returns the organizations."""
    shortcuts = shortcuts or Shortcuts()
    since = shortcuts.later.begin()
    came, clock, dead = PROMOTE.make(session, without, since=since)
    seen_until = clock if len(came) < PROMOTE.MOST else max(run_at for _, run_at in came)
    shortcuts.later.ended(min(seen_until, clock - _PROMOTED_LATE), clock=clock, dead=dead)
    shortcuts.lanes.came(came)
    return {lane.organization_id for lane, _ in came}


def requeue_overdue(
    session: Session, *, waiting: int = 0, without: Collection[UUID] = (), shortcuts: Shortcuts | None = None
) -> int:
    """REQUEUE_OVERDUE; returns how many."""
    return _requeue(REQUEUE_OVERDUE, session, without, shortcuts, waiting=waiting, waits_at_most=WAITS_AT_MOST_SECONDS)


def requeue_held_up(session: Session, without: Collection[UUID] = (), shortcuts: Shortcuts | None = None) -> int:
    """REQUEUE_HELD_UP; returns how many."""
    return _requeue(REQUEUE_HELD_UP, session, without, shortcuts, held_up_after=HELD_UP_AFTER_SECONDS)


def _requeue(
    change: _Change, session: Session, without: Collection[UUID], shortcuts: Shortcuts | None, **parameters: Any
) -> int:
    shortcuts = shortcuts or Shortcuts()
    came, _, _ = change.make(session, without, **since_floor(shortcuts.under_way.known), **parameters)
    shortcuts.lanes.came(came)
    return len(came)


def find_refused(session: Session, *, waiting: int, without: Collection[UUID]) -> dict[UUID, Exception]:
    """After one of these was refused: make the changes one by one, the first ones at least, and return the jobs that
    the server does not let change, and why."""
    whole = since_floor(None)
    return (
        PROMOTE.make_apart(session, without, since=None)
        | REQUEUE_OVERDUE.make_apart(session, without, waiting=waiting, waits_at_most=WAITS_AT_MOST_SECONDS, **whole)
        | REQUEUE_HELD_UP.make_apart(session, without, held_up_after=HELD_UP_AFTER_SECONDS, **whole)
    )


_UNDISPATCH = text(f"""
WITH unsent AS MATERIALIZED (
    SELECT ctid FROM {JOBS}
    WHERE message_id = ANY(:message_ids) AND {DISPATCHED}
    ORDER BY organization_id, id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {JOBS} AS job SET {UNBEGUN} FROM unsent
WHERE job.ctid = unsent.ctid
RETURNING {LANE}, run_at
""")


def undispatch(session: Session, messages: Sequence[Message], shortcuts: Shortcuts | None = None) -> None:
    """`dispatched -> queued` for messages that the broker did not take."""
    shortcuts = shortcuts or Shortcuts()
    parameters = {"message_ids": [message.id for message in messages], **since_floor(shortcuts.under_way.known)}
    rows = session.execute(_UNDISPATCH, parameters).all()
    shortcuts.lanes.came((LaneKey(*row[:4]), row.run_at) for row in rows)
