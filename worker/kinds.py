"""`known_kind`: a kind of job by its name, that a worker would know here; `demand_kind`: that any process knows."""

from collections.abc import Collection
from difflib import get_close_matches

from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger.telling.processes import processes
from docworker.db.sessions import all_jobs_session
from docworker.jobs.kind import Kind


def known_kind(name: str) -> Kind:
    """The kind of this name; raises InvalidArgumentError with those that there are."""
    kinds = _known_here()
    if name not in kinds:
        raise _unknown(name, kinds)
    return kinds[name]


def demand_kind(name: str) -> None:
    """With the database open. Raises InvalidArgumentError unless a worker would know the kind here, or a process that
    lives knows it: its package need not be where the command is given."""
    here = _known_here()
    if name in here:
        return
    with all_jobs_session() as session:
        elsewhere = {kind for one in processes(session) if one.lives for kind in one.kinds}
    if name not in elsewhere:
        raise _unknown(name, elsewhere.union(here))


def _known_here() -> dict[str, Kind]:
    # Here, because most commands about jobs need neither Celery nor the pipeline: they start in three quarters of the
    # time.
    from docworker.jobs.task import known_kinds  # noqa: PLC0415
    from docworker.worker.app import celery_app  # noqa: PLC0415

    return known_kinds(celery_app())


def _unknown(name: str, kinds: Collection[str]) -> InvalidArgumentError:
    near = get_close_matches(name, kinds, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(kinds))}"
    return InvalidArgumentError(f"no kind is called {name!r}; {hint}")
