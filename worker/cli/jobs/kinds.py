"""`known_kind`: a kind of job by its name, among those that a worker would know."""

from difflib import get_close_matches

from docworker.db.errors import InvalidArgumentError
from docworker.jobs.kind import Kind
from docworker.jobs.task import known_kinds
from docworker.worker.app import celery_app


def known_kind(name: str) -> Kind:
    """The kind of this name; raises InvalidArgumentError with those that there are."""
    kinds = known_kinds(celery_app())
    if name not in kinds:
        near = get_close_matches(name, kinds, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(kinds))}"
        raise InvalidArgumentError(f"no kind is called {name!r}; {hint}")
    return kinds[name]
