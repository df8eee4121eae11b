"""`Samples`: jobs that are followed from when they were sent until they end, for what they have cost. `ended` asks the
ledger how long they ran.

Where few are sent each is followed, so that what they cost is known exactly. Of many it is some, chosen by chance; each
stands for those of its organization and kind that were sent and not chosen.
"""

import random
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, islice
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from docworker.db.ledger.dispatching.planning import Limits
from docworker.db.ledger.message import Message, Part
from docworker.db.models.ledger.attempt import ATTEMPTS
from docworker.db.models.ledger.job import JOBS

_EVERY_SECONDS = 0.25
_READ_AT_ONCE = 64
_MOST_FOLLOWED = 256
_STANDS_FOR = 100
"""At most, for each of its own: those that nobody stands for have cost what they were charged."""
_MOST_REMEMBERED = 100_000


class Ended(NamedTuple):
    """Each of so many `jobs` has occupied a process for `seconds`, and was `charged` so many."""

    organization_id: UUID
    kind: str
    jobs: float
    seconds: float
    charged: float


@dataclass(frozen=True, slots=True)
class _Followed:
    organization_id: UUID
    kind: str
    job_id: UUID
    message_id: UUID
    jobs: float
    """For which it stands."""
    together: int
    """Jobs that run in a process at the same time, so that each costs a part of how long it runs."""
    charged: float
    sent_at: datetime | None
    """By the master's clock, or a moment before that."""
    followed_at: float


class _Sent(NamedTuple):
    """A part of a message: of each of its `units`, one job can be followed."""

    message: Message
    part: Part
    units: int
    jobs: int
    together: int

    @property
    def place(self) -> tuple[UUID, str]:
        return self.part.organization_id, self.message.kind


class Samples:
    """Of one ledger, in memory."""

    def __init__(self) -> None:
        self.followed: deque[_Followed] = deque()
        self._pending: dict[tuple[UUID, str], tuple[int, float]] = {}
        """How many jobs nobody stands for yet, and what they were charged."""
        self._read_at = float("-inf")

    def follow(
        self,
        messages: Sequence[Message],
        charges: Mapping[tuple[UUID, str], float],
        limits: Limits,
        sent_at: datetime | None,
    ) -> None:
        """These messages are sent, no sooner than `sent_at` by the master's clock; so much was charged for all jobs of
        an organization and a kind."""
        sent = [_sent(message, part, limits) for message in messages for part in message.parts]
        for one in sent:
            self._pend(one.place, one.units * one.jobs, 0.0)
        for place, charged in charges.items():
            self._pend(place, 0, charged)
        bounds = list(accumulate(one.units for one in sent))
        units = bounds[-1] if bounds else 0
        chosen: dict[tuple[UUID, str], list[tuple[_Sent, UUID]]] = {}
        for unit in random.sample(range(units), min(units, _MOST_FOLLOWED - len(self.followed))):
            one = sent[number := bisect_right(bounds, unit)]
            chosen.setdefault(one.place, []).append((one, one.part.job_ids[unit - bounds[number]]))
        for place, some in chosen.items():
            self._add(place, some, sent_at)

    def _pend(self, place: tuple[UUID, str], jobs: int, charged: float) -> None:
        pending = self._pending.pop(place, (0, 0.0))
        self._pending[place] = pending[0] + jobs, pending[1] + charged
        if len(self._pending) > _MOST_REMEMBERED:
            del self._pending[next(iter(self._pending))]

    def _add(self, place: tuple[UUID, str], some: Sequence[tuple[_Sent, UUID]], sent_at: datetime | None) -> None:
        jobs, charged = self._pending.pop(place)
        stands_for = min(jobs / sum(one.jobs for one, _ in some), _STANDS_FOR)
        now = time.monotonic()
        for one, job_id in some:
            self.followed.append(
                _Followed(
                    *place, job_id, one.message.id, one.jobs * stands_for, one.together, charged / jobs, sent_at, now
                )
            )

    def ended(self, session: Session) -> list[Ended]:
        """Which of those that have been followed longest are no longer under way; now and then, and not of all."""
        now = time.monotonic()
        if not self.followed or now - self._read_at < _EVERY_SECONDS:
            return []
        some = list(islice(self.followed, _READ_AT_ONCE))
        parameters = {
            "organizations": [one.organization_id for one in some],
            "ids": [one.job_id for one in some],
            "messages": [one.message_id for one in some],
            "sent_at": [one.sent_at for one in some],
        }
        rows = {number: (is_under_way, seconds) for number, is_under_way, seconds in session.execute(_RUN, parameters)}
        self._read_at = now
        found = []
        for number, one in enumerate(some, 1):
            self.followed.popleft()
            is_under_way, seconds = rows.get(number, (False, None))
            if is_under_way:
                self.followed.append(one)
            elif seconds is not None:
                occupied = min(max(seconds, 0.0), now - one.followed_at) / one.together
                found.append(Ended(one.organization_id, one.kind, one.jobs, occupied, one.charged))
        return found


def _sent(message: Message, part: Part, limits: Limits) -> _Sent:
    jobs = len(part.job_ids)
    if message.kind in limits.batch_kinds:
        return _Sent(message, part, 1, jobs, jobs)
    is_concurrent = message.kind in limits.concurrent_kinds
    return _Sent(message, part, jobs, 1, len(message.job_ids) if is_concurrent else 1)


# How long a job ran for that message: nothing where it was handed back. An attempt that ended otherwise is in the table
# of these; it began after the message was sent.
_RUN = text(f"""
SELECT followed.number, run.is_under_way, CAST(extract(epoch FROM run.lasted) AS double precision)
FROM unnest(CAST(:organizations AS uuid[]), CAST(:ids AS uuid[]), CAST(:messages AS uuid[]),
            CAST(:sent_at AS timestamptz[]))
     WITH ORDINALITY AS followed (organization_id, id, message_id, sent_at, number)
CROSS JOIN LATERAL (
    SELECT job.state IN ('dispatched', 'running') AND job.message_id IS NOT DISTINCT FROM followed.message_id
               AS is_under_way,
           CASE WHEN job.finished_at IS NOT NULL AND job.message_id IS NOT DISTINCT FROM followed.message_id
                THEN CASE WHEN job.claimed_at >= job.dispatched_at THEN job.finished_at - job.claimed_at
                          ELSE interval '0' END
                ELSE coalesce((
                    SELECT past.ended_at - past.claimed_at FROM {ATTEMPTS} AS past
                    WHERE past.organization_id = followed.organization_id AND past.job_id = followed.id
                      AND past.claimed_at >= followed.sent_at AND past.ended_at IS NOT NULL
                    ORDER BY past.position LIMIT 1
                ), interval '0') END AS lasted
    FROM {JOBS} AS job
    WHERE job.organization_id = followed.organization_id AND job.id = followed.id
) AS run
""")
