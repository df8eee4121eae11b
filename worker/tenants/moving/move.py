"""`Move`: one run of a move of an organization.

1. The target is recorded, then made.
2. Its rows are copied in rounds (`db.tenants.copying`) until a round is short.
3. Its lanes pause, and the leases of running jobs end.
4. The catalog says that it is leaving: within `catalog_ttl` nobody remembers where it is (`db.sessions.fence`).
5. Its lock is taken, which waits for transactions that write, and the catalog says that it is moving: nobody writes.
6. The last round copies what is left, and the jobs that are not over; replicas of the target get there.
7. The catalog has the new place. The old copy is kept for a while, without jobs.

Killed before the last step, it is served where it was, or, once it is `moving`, waits; the next run goes on. What fails
before the last step is taken back to where it was by the run itself.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
from sqlalchemy import Connection, func, or_, select
from sqlalchemy.exc import DBAPIError

from docworker.db.catalog import SHARED_SCHEMA, Place, place_in
from docworker.db.errors import DocworkerError, InvalidArgumentError
from docworker.db.governor import Governor
from docworker.db.ledger.ring import place_of_ring
from docworker.db.models import Placement, PlacementState
from docworker.db.settings import settings
from docworker.db.tenants.copying import CopiesDifferError, Copying, Round, owner_connection
from docworker.worker.tenants.making import make_place
from docworker.worker.tenants.moving.leftovers import (
    clear,
    finish_arrived,
    resume,
    suspend,
    update_of,
)
from docworker.worker.tenants.moving.servers import (
    await_replicas,
    check_no_copies_are_made,
    check_revision,
    server_of,
    watched,
)
from docworker.worker.tenants.moving.wanted import ARRIVED, COPYING, Moved, Progress, Wanted
from docworker.worker.tenants.moving.write_stop import LOCK_SECONDS, WriteStop
from docworker.worker.tenants.owner import owning, placement_of
from docworker.worker.tenants.places import Model, model_of, recorded_place, share_ledger
from docworker.worker.tenants.states import refuse_older_snapshots

MOST_ROUNDS = 10
SHORT_ROUND_ROWS, SHORT_ROUND_SECONDS = 500, 0.3
REPLICAS_SECONDS = 30.0
REPLICAS_SECONDS_OF_STOP = 2.0

_FROM_THE_BEGINNING = {"since": None, "jobs_since": None, "begun_since": None, "copy_anew": True}


class Move:
    """`run()` once, while nobody else moves it (`only_one_for`)."""

    def __init__(self, placement: Placement, target: Place, wanted: Wanted, progress: Progress) -> None:
        self._placement = placement
        self._id = placement.organization_id
        self._source, self._target = place_in(placement), target
        self._same_ledger = share_ledger(self._source, self._target)
        self._wanted = wanted
        self._progress = progress
        self._run = uuid4().hex
        self._moved = Moved(placement.slug, self._source, target)
        self._contexts = ExitStack()

    def run(self) -> Moved:
        began = time.monotonic()
        with self._contexts:
            self._home: Connection = self._contexts.enter_context(owning(autocommit=True))
            source = self._contexts.enter_context(owner_connection(self._source))
            check_revision(source, self._source)
            fencing = self._contexts.enter_context(owner_connection(self._source))
            self._stop = WriteStop(self._placement, fencing, self._progress.say)
            target_cluster = self._contexts.enter_context(owner_connection(self._target._replace(database=None)))
            check_revision(target_cluster, self._target._replace(schema=SHARED_SCHEMA, database=None))
            self._move = self._begin(server_of(source))
            try:
                self._at_target = self._prepare_target()
                self._copying = Copying(
                    self._id,
                    (self._source, source),
                    (self._target, self._at_target),
                )
                self._check_empty()
                self._copy()
                self._leave()
            except BaseException as error:
                if isinstance(error, CopiesDifferError):
                    self._move |= _FROM_THE_BEGINNING
                self._take_back()
                raise
            self._settle()
        self._moved.seconds = time.monotonic() - began
        return self._moved

    def _begin(self, server: str) -> dict[str, Any]:
        """Record the move, or take it over from a run that was cut off."""
        move = self._placement.move or {
            **self._target._asdict(),
            "phase": COPYING,
            "since": None,
            "jobs_since": None,
            "begun_since": None,
            "is_new": True,
            "copy_anew": False,
            "server": server,
            "started_at": datetime.now(UTC).isoformat(),
        }
        previous = self._placement.previous
        if self._placement.move is None and previous is not None:
            is_known = previous["server"] == server
            move |= {"is_new": False, "copy_anew": not is_known, "since": previous["since"] if is_known else None}
        if move["server"] != server:  # what its transactions are called, they were not called before the failover
            move |= {"server": server, **_FROM_THE_BEGINNING}
        self._check_free()
        move |= {"run": self._run, "keep_seconds": self._wanted.keep_seconds}
        self._home.execute(update_of(self._placement).values(move=move, state=PlacementState.ACTIVE))
        resume(self._placement, self._source)
        return move

    def _check_free(self) -> None:
        """No other organization is there, was, or is on its way to it."""
        if model_of(self._target) is Model.SHARED:
            return
        others = self._home.execute(
            select(
                Placement.slug,
                Placement.cluster,
                Placement.database,
                Placement.schema,
                Placement.move,
                Placement.previous,
            ).where(
                Placement.organization_id != self._id,
                or_(
                    Placement.cluster == self._target.cluster,
                    Placement.move.is_not(None),
                    Placement.previous.is_not(None),
                ),
            )
        )
        for slug, cluster, name, schema, move, previous in others:
            places = [Place(cluster, schema, name), *(recorded_place(one) for one in (move, previous) if one)]
            if self._target in places:
                raise InvalidArgumentError(
                    f"the {model_of(self._target)} {self._target.database or self._target.schema!r} on "
                    f"{self._target.cluster} belongs to the organization {slug!r}: choose another name with "
                    "--place-name"
                )

    def _record(self, values: dict[str, Any] | None = None, **changed: Any) -> None:
        """How far the move is, and these values, in the catalog. Raises DocworkerError where another has taken over."""
        self._move |= changed
        mine = Placement.move["run"].astext == self._run
        statement = update_of(self._placement).where(mine).values(move=self._move, **(values or {}))
        if self._home.execute(statement).rowcount != 1:
            raise DocworkerError(
                f"another command has taken over the move of {self._placement.slug!r}: see `docworker tenants show`"
            )

    def _prepare_target(self) -> psycopg.Connection[Any]:
        self._progress.say("making the place")
        if self._move["copy_anew"]:
            clear(self._placement, self._target)
        self._revision = make_place(self._target, self._id)
        if not self._same_ledger:
            suspend(self._placement, self._target)
        connection = self._contexts.enter_context(owner_connection(self._target))
        check_no_copies_are_made(connection, self._target)
        return connection

    def _check_empty(self) -> None:
        """Nothing is there that this move has not copied."""
        if self._move["is_new"] and not self._copying.is_empty():
            raise InvalidArgumentError(
                f"there are rows of the organization {self._placement.slug!r} ({self._id}) on {self._target.cluster} "
                "already, and the catalog does not know why: look at them, and delete them or choose another place"
            )
        self._record(is_new=False, copy_anew=False)

    # Copying.

    def _copy(self) -> None:
        """Until a round is short, and then once more with a comparison of everything."""
        self._progress.say("copying")
        self._progress.found(self._copying.count())
        if self._move["begun_since"] is None:
            self._record(begun_since=self._copying.horizon_of_source())
        governor = Governor(watched(self._at_target, self._target), on_wait=self._say_wait)

        def pace(rows: int) -> None:
            self._progress.copied(rows)
            governor.wait()

        for _ in range(MOST_ROUNDS):
            done = self._round(on_rows=pace)
            if done.rows <= SHORT_ROUND_ROWS or done.seconds <= SHORT_ROUND_SECONDS:
                break
        if model_of(self._target) is not Model.SHARED:
            self._progress.say("analyzing")
            self._copying.analyze()
        self._progress.say("comparing")
        self._round(compare=True)
        await_replicas(self._at_target, self._target, REPLICAS_SECONDS)

    def _say_wait(self, reason: str | None) -> None:
        self._progress.say("copying" if reason is None else f"waiting ({reason})")

    def _round(self, *, compare: bool = False, on_rows: Callable[[int], None] = lambda _: None) -> Round:
        move = self._move
        done = self._copying.run(move["since"], move["jobs_since"], compare=compare, on_rows=on_rows)
        # A first round that was cut off has read what it copied before its last snapshot.
        since = done.horizon if move["since"] is not None else move["begun_since"]
        jobs_since = done.horizon if move["jobs_since"] is not None else move["begun_since"]
        self._record(since=since, jobs_since=jobs_since)
        self._moved.add(done)
        return done

    # The switch.

    def _leave(self) -> None:
        deadline = time.monotonic() + self._wanted.wait_seconds
        suspend(self._placement, self._source)
        while True:
            self._stop.await_running(self._wanted.wait_seconds, deadline)
            self._record({"state": PlacementState.LEAVING})
            time.sleep(settings().catalog_ttl * 1.05 + 0.05)
            self._round()
            began = self._stop.begin()
            if not self._stop.running():
                break
            self._stop.give_up()  # they were claimed since, from a message that was on its way
        with owning(self._source) as there:
            there.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")  # others wait for us
            refuse_older_snapshots(there, self._source, self._id)
        self._record({"state": PlacementState.MOVING})
        self._stop.check()
        self._switch()
        self._moved.write_stop_seconds = time.monotonic() - began
        self._stop.end()

    def _switch(self) -> None:
        self._progress.say("the last round")
        if not self._same_ledger:
            self._stop.delete_live_jobs()
        done = self._copying.run(self._move["since"], self._move["jobs_since"], with_live_jobs=True)
        self._moved.add(done)
        await_replicas(self._at_target, self._target, REPLICAS_SECONDS_OF_STOP)
        until = datetime.now(UTC) + timedelta(seconds=self._wanted.keep_seconds)
        previous = {
            **self._source._asdict(),
            "until": until.isoformat(timespec="seconds"),
            "since": self._copying.horizon_of_target(),
            "server": server_of(self._at_target),
        }
        there = {
            **self._target._asdict(),
            "state": PlacementState.ACTIVE,
            "revision": self._revision,
            "migration_error": None,
            "previous": previous,
        }
        self._record(there, phase=ARRIVED)

    def _settle(self) -> None:
        """After the switch: what a kill here leaves to do, the next run finishes."""
        self._progress.say("resuming the jobs")
        finished = finish_arrived(placement_of(self._placement.slug))
        self._moved.kept_until = finished.kept_until
        if self._target.database is not None:
            ring = place_of_ring(self._target.cluster, self._target.database)
            self._home.execute(select(func.pg_notify("docworker_jobs", ring)))

    def _take_back(self) -> None:
        """Have it served where it was, unless it has arrived. Where a server does not answer the next run does so, and
        what went wrong before is what is told."""
        with suppress(psycopg.Error):
            self._stop.give_up()
        with suppress(DBAPIError):
            values = {"state": PlacementState.ACTIVE, "move": self._move | {"phase": COPYING}}
            mine = Placement.move["run"].astext == self._run
            waiting = Placement.move["phase"].astext == COPYING
            with owning() as home:
                is_taken_back = (
                    home.execute(update_of(self._placement).where(mine, waiting).values(values)).rowcount == 1
                )
            if is_taken_back:
                resume(self._placement, self._source)
