"""`known_kind`: a kind of job by its name, that a worker would know here; `demand_kind`: that any process knows."""

from collections.abc import Collection
from difflib import get_close_matches

from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger.telling.processes import processes
from docworker.db.sessions import all_jobs_session
from docworker.jobs.kind import Kind
from docworker.jobs.task import known_kinds
from docworker.worker.app import celery_app


def known_kind(name: str) -> Kind:
    """The kind of this name; raises InvalidArgumentError with those that there are."""
    kinds = known_kinds(celery_app())
    if name not in kinds:
        raise _unknown(name, kinds)
    return kinds[name]


def demand_kind(name: str) -> None:
    """With the database open. Raises InvalidArgumentError unless a worker would know the kind here, or a process that
    lives knows it: its package need not be where the command is given."""
    here = known_kinds(celery_app())
    if name in here:
        return
    with all_jobs_session() as session:
        elsewhere = {kind for one in processes(session) if one.lives for kind in one.kinds}
    if name not in elsewhere:
        raise _unknown(name, elsewhere.union(here))


def _unknown(name: str, kinds: Collection[str]) -> InvalidArgumentError:
    near = get_close_matches(name, kinds, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(kinds))}"
    return InvalidArgumentError(f"no kind is called {name!r}; {hint}")
