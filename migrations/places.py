"""`migrate_all`: home, then every cluster's own database, then each schema and database of an organization.

Only what is behind is touched, so who was interrupted goes on where he was. The catalog is told how it went with each.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import chain
from multiprocessing import connection as pipes
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, func, inspect, select, text, update
from sqlalchemy.exc import DBAPIError

from docworker.db.catalog import SHARED_SCHEMA
from docworker.db.errors import NotFoundError
from docworker.db.faults import Fault, classify
from docworker.db.models import Placement, PlacementState
from docworker.db.retrying import again
from docworker.db.settings import HOME, settings
from docworker.migrations.names import quoted
from docworker.migrations.runner import lineage, upgrade
from docworker.migrations.target import Target

ONE_MIGRATOR_OF_ALL = 0x646F6378  # any number that nobody else uses as an advisory lock
LOCK_ATTEMPTS = 5
"""How often a migration is tried that waits for somebody's lock for longer than `lock_timeout`."""
SCHEMAS_AT_ONCE = 500
"""Version tables asked for by one statement: it holds a lock on each, and a server has some thousands."""
DATABASES_AT_ONCE = 8

_VERSIONED = text("""
SELECT nspname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace AS n ON n.oid = relnamespace
WHERE relname = 'alembic_version' AND relkind = 'r' AND nspname = ANY (:schemas)
""")


class Place(NamedTuple):
    """What is migrated after home. Without an organization it is the database of a cluster."""

    target: Target
    name: str
    """The organization's slug, or the cluster's name."""
    organization_id: UUID | None = None
    state: str = PlacementState.ACTIVE
    recorded: tuple[str | None, str | None] = (None, None)
    """Revision and error as the catalog has them."""

    @property
    def is_cluster(self) -> bool:
        return self.organization_id is None

    @property
    def is_moving(self) -> bool:
        return self.state in (PlacementState.LEAVING, PlacementState.MOVING)

    @property
    def database(self) -> Target:
        return self.target._replace(schema=None)


class Result(NamedTuple):
    """Where a place is, and if it is not where it should be, why."""

    place: Place
    revision: str | None
    error: str | None = None
    was_tried: bool = True


def revision_of_home() -> str | None:
    return _revisions_in(Target(), ["public"]).get("public")


def behind(revision: str = "head", only: Collection[str] = ()) -> list[Result]:
    """All that is not at this revision yet, or cannot be asked; touches nothing. Raises NotFoundError for a slug that
    is not in the catalog."""
    goal = Goal.of(revision)
    home = Result(Place(Target(), HOME), revision_of_home())
    return [one for one in map(goal.judged, [home, *_survey(_places(only))]) if not goal.is_reached(one)]


def migrate_all(
    revision: str = "head",
    *,
    jobs: int = 4,
    only: Collection[str] = (),
    on_found: Callable[[int], None] = lambda _count: None,
) -> Iterator[Result]:
    """Yields what became of each place that was behind, or could not be asked, after `on_found` was told how many.

    One place of each kind goes first; where it fails, no other is touched. Where a later one fails, the others go on,
    but for those in a cluster whose own database failed. Raises what `upgrade` raises for home.
    """
    goal = Goal.of(revision)
    with _one_migrator() as home:
        _patiently(Target(), goal.revision)
        found = [goal.judged(result) for result in _survey(_places(only))]
        _record(home, [one for one in found if goal.is_reached(one)])
        unfinished = [one for one in found if not goal.is_reached(one)]
        on_found(len(unfinished))
        refused = [one for one in unfinished if one.error is not None]
        ready = [one.place for one in unfinished if one.error is None]
        for result in chain(refused, _migrate(ready, goal.revision, jobs)):
            if result.was_tried:
                _record(home, [result])
            yield result


class Goal(NamedTuple):
    """The revision that all are brought to; `known` are those of this release, oldest first."""

    revision: str
    known: list[str]

    @classmethod
    def of(cls, revision: str) -> "Goal":
        return cls(lineage(revision)[-1], lineage())

    def is_reached(self, result: Result) -> bool:
        """Who is further already is there as well."""
        return result.error is None and not self._is_behind(result)

    def judged(self, result: Result) -> Result:
        """With the reason, where there is no way from where it is."""
        if result.revision is not None and result.revision not in self.known:
            unknown = (
                f"this release does not know its revision {result.revision}: use the release that brought it there"
            )
            return result._replace(error=unknown, was_tried=False)
        if result.error is None and result.place.is_moving and self._is_behind(result):
            return result._replace(error="it is being moved: run this again when it has arrived", was_tried=False)
        return result

    def _is_behind(self, result: Result) -> bool:
        return result.revision is None or self.known.index(result.revision) < self.known.index(self.revision)


def _migrate(places: Sequence[Place], wanted: str, jobs: int) -> Iterator[Result]:
    """Clusters, then organizations."""
    touched: list[Place] = []
    failed: dict[str, str | None] = {}
    for is_cluster in (True, False):
        stage = [place for place in places if place.is_cluster == is_cluster and place.target.cluster not in failed]
        first = _one_of_each_kind(stage)
        for canary in first:
            touched.append(canary)
            result = _attempt(canary, wanted)
            yield result
            if result.error is not None:
                yield from (
                    _left(place, f"{canary.name} was tried first, and failed")
                    for place in places
                    if place not in touched
                )
                return
        for result in _in_parallel([place for place in stage if place not in first], wanted, jobs):
            touched.append(result.place)
            if result.error is not None and is_cluster:
                failed[result.place.target.cluster] = result.error
            yield result
    yield from (
        _left(place, "its cluster's own database comes first, and failed") for place in places if place not in touched
    )


def _one_of_each_kind(places: Iterable[Place]) -> list[Place]:
    """Rather one that has not failed before."""
    first: dict[bool, Place] = {}
    for place in sorted(places, key=lambda place: place.recorded[1] is not None):
        first.setdefault(place.target.schema is None, place)
    return list(first.values())


def _left(place: Place, reason: str) -> Result:
    return Result(place, place.recorded[0], f"not tried: {reason}", was_tried=False)


# In processes, because Alembic keeps its context in global variables.


def _in_parallel(places: Sequence[Place], wanted: str, jobs: int) -> Iterator[Result]:
    if not places:
        return
    spawning = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(places)), mp_context=spawning, initializer=_end_with_parent)
    try:
        futures = {pool.submit(_attempt, place, wanted): place for place in places}
        for future in as_completed(futures):
            error = future.exception()
            yield future.result() if error is None else Result(futures[future], None, _reason(error))
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A parent that is killed tells nobody, and the pool's processes would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        pipes.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _attempt(place: Place, wanted: str) -> Result:
    try:
        _patiently(place.target, wanted)
    except Exception as error:  # noqa: BLE001 - told to whoever migrates
        return Result(place, _revision_after_failure(place), _reason(error))
    return Result(place, wanted)


def _patiently(target: Target, wanted: str) -> None:
    """What was done before somebody's lock was in the way stays done."""
    retrying = again(
        retry_on=lambda error: classify(error) is Fault.SERIALIZATION, times=LOCK_ATTEMPTS, first_pause_seconds=0.5
    )
    retrying(upgrade, wanted, cluster=target.cluster, database=target.database, schema=target.schema)


def _revision_after_failure(place: Place) -> str | None:
    """Migrations before the one that failed are committed."""
    try:
        return _revisions_in(place.database, [place.target.schema or "public"]).get(place.target.schema or "public")
    except Exception:  # noqa: BLE001 - then it is not known, and why is in the first error
        return place.recorded[0]


def _reason(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return " ".join(str(cause).split()) or type(error).__name__


# Where everything is.


def _places(only: Collection[str]) -> list[Place]:
    """Clusters, then organizations by slug. With slugs, only those and their clusters."""
    with Target().engine().connect() as connection:
        organizations = _organizations(connection) if _knows_places(connection) else {}
    for slug in only:
        if slug not in organizations:
            raise NotFoundError(f"the catalog knows no organization {slug!r}: see `docworker tenants list`")
    chosen = [place for slug, place in organizations.items() if not only or slug in only]
    clusters = {place.target.cluster for place in chosen} if only else {*settings().cluster_names}
    own = [Place(Target(cluster), cluster) for cluster in settings().cluster_names if cluster in clusters - {HOME}]
    return [*own, *(place for place in chosen if _is_of_its_own(place))]


def _knows_places(connection: Connection) -> bool:
    """Before the migration that brought them, every organization shares the tables of home."""
    schema, table = Placement.__table__.schema, Placement.__tablename__
    inspector = inspect(connection)
    columns = inspector.get_columns(table, schema=schema) if inspector.has_table(table, schema=schema) else []
    return any(column["name"] == "database_name" for column in columns)


def _organizations(connection: Connection) -> dict[str, Place]:
    """Those that somebody is making or dropping are left to him."""
    rows = connection.execute(
        select(
            Placement.organization_id,
            Placement.slug,
            Placement.cluster,
            Placement.database,
            Placement.schema,
            Placement.state,
            Placement.revision,
            Placement.migration_error,
        )
        .where(Placement.state.not_in([PlacementState.CREATING, PlacementState.IMPORTING, PlacementState.DROPPING]))
        .order_by(Placement.slug)
    )
    found = {}
    for organization_id, slug, cluster, database, schema, state, revision, error in rows:
        target = Target(cluster, database, None if schema == SHARED_SCHEMA else schema)
        found[slug] = Place(target, slug, organization_id, state, (revision, error))
    return found


def _is_of_its_own(place: Place) -> bool:
    return place.target.database is not None or place.target.schema is not None


def _survey(places: Sequence[Place]) -> list[Result]:
    """Asks each database once, and several at the same time."""
    schemas: dict[Target, list[str]] = {}
    for place in places:
        schemas.setdefault(place.database, []).append(place.target.schema or "public")
    with ThreadPoolExecutor(DATABASES_AT_ONCE) as pool:
        answers = dict(zip(schemas, pool.map(_ask, schemas, schemas.values()), strict=True))
    return [_found(place, answers[place.database]) for place in places]


def _ask(database: Target, schemas: list[str]) -> dict[str, str | None] | str:
    try:
        return _revisions_in(database, schemas)
    except Exception as error:  # noqa: BLE001 - told of each place in it
        return _reason(error)


def _found(place: Place, answer: dict[str, str | None] | str) -> Result:
    if isinstance(answer, str):
        return Result(place, place.recorded[0], answer)
    return Result(place, answer.get(place.target.schema or "public"))


def _revisions_in(database: Target, schemas: Sequence[str]) -> dict[str, str | None]:
    """The revisions of these schemas of a database, of those that have one; public has that of the database."""
    found: dict[str, str | None] = {}
    engine = database.engine()
    with engine.connect() as connection:
        versioned = connection.scalars(_VERSIONED, {"schemas": list(schemas)}).all()
        for start in range(0, len(versioned), SCHEMAS_AT_ONCE):
            names = versioned[start : start + SCHEMAS_AT_ONCE]
            connection.rollback()
            asked = " UNION ALL ".join(
                f"SELECT {number}, max(version_num) FROM {quoted(name, 'alembic_version')}"  # noqa: S608
                for number, name in enumerate(names)
            )
            found |= {names[number]: revision for number, revision in connection.execute(text(asked))}
    engine.dispose()
    return found


# What the catalog is told.


@contextmanager
def _one_migrator() -> Iterator[Connection]:
    """A connection to home that commits each statement and holds the turn; whoever comes second waits for it."""
    engine = Target().engine()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.scalar(select(func.pg_catalog.pg_try_advisory_lock(ONE_MIGRATOR_OF_ALL))):
            time.sleep(0.1)
        yield connection
    engine.dispose()


def _record(home: Connection, results: Iterable[Result]) -> None:
    """In the catalog, where it says something else."""
    for result in results:
        place, now = result.place, (result.revision, result.error)
        if place.organization_id is not None and place.recorded != now:
            home.execute(
                update(Placement)
                .where(Placement.organization_id == place.organization_id)
                .values(revision=result.revision, migration_error=result.error)
            )
