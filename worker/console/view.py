"""`View`: one request to a page: who asks, what is asked for, sessions on the ledger, and links."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request

from docworker.db.errors import InvalidArgumentError
from docworker.db.ledger.telling.processes import ProcessState, processes
from docworker.db.sessions import TenantSession, all_jobs_session, read_all_jobs
from docworker.db.settings import HOME
from docworker.db.tenants.ledgers import LedgerPlace, ledgers, ledgers_of
from docworker.db.tenants.organizations import owner_of, owners_of
from docworker.worker.console.access import Login, Role

T = TypeVar("T")

MOST_PARAMETER = 500
SEES_DOCUMENTS = Role.OPERATOR
"""Who sees documents, if anybody does."""


@dataclass(frozen=True)
class Options:
    """How the console was started: whether it hides what jobs were given and have returned, and whether it has pages of
    organizations' documents."""

    hides_arguments: bool = False
    shows_documents: bool = False


@dataclass
class View:
    """What a page is asked for. `form` has what was sent by POST; `say` is what the next page tells. What was read may
    be as old as `behind_seconds`."""

    request: Request
    login: Login
    options: Options
    form: Mapping[str, str] = field(default_factory=dict)
    say: str | None = None
    behind_seconds: float = 0.0

    @property
    def actor(self) -> str:
        """Who the audit log says it was: the role, and the beginning of the session's name."""
        return f"console:{self.login.role}-{self.login.id[:6]}"

    @property
    def sees_documents(self) -> bool:
        """Whether who asks may see documents, where there are pages of them: what links to these asks that."""
        return self.options.shows_documents and self.login.role.may(SEES_DOCUMENTS)

    def path(self, name: str) -> str:
        """A parameter of the path."""
        return str(self.request.path_params[name])

    def path_id(self, name: str, noun: str) -> UUID:
        """As `path`, the id of something that is called so."""
        return _id_of(self.path(name), f" of a {noun}")

    def asked(self, name: str) -> str | None:
        """A parameter of the address, or of the form; None where it is not given or empty. Raises InvalidArgumentError
        for one that is too long."""
        value = self.form.get(name) or self.request.query_params.get(name) or None
        if value is not None and len(value) > MOST_PARAMETER:
            raise InvalidArgumentError(f"{name} is longer than {MOST_PARAMETER} characters")
        return value

    def asked_id(self, name: str) -> UUID | None:
        """As `asked`, an id."""
        value = self.asked(name)
        return None if value is None else _id_of(value)

    def asked_number(self, name: str, *, most: int = 2**31 - 1) -> int | None:
        """As `asked`, a number from 0 to `most`."""
        value = self.asked(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit()) or int(value) > most:
            raise InvalidArgumentError(f"{name}: {value[:50]!r} is no number from 0 to {most}")
        return int(value)

    def organization(self) -> UUID | None:
        """That of the parameter `organization`, a slug. Raises NotFoundError."""
        slug = self.asked("organization")
        return None if slug is None else owner_of(slug)

    def slugs(self, ids: Collection[UUID]) -> dict[UUID, str]:
        """What organizations are called, their ids where that is not known."""
        known = owners_of(set(ids))
        return {one: known.get(one, str(one)) for one in ids}

    @cached_property
    def ledger(self) -> LedgerPlace:
        """The one that is looked at: home's, unless the address names another one, which the catalog is asked for."""
        name = self.asked("ledger")
        if name is None:
            return LedgerPlace(HOME)
        cluster, _, database_name = name.partition("/")
        place = LedgerPlace(cluster, database_name or None)
        if place not in self.ledgers():
            raise InvalidArgumentError(f"there is no ledger {name!r}")
        return place

    @staticmethod
    def ledger_of(organization_id: UUID) -> str | None:
        """What the address has as `ledger` for the jobs of this organization; None for home's."""
        (place,) = ledgers_of(organization_id)
        return None if place == LedgerPlace(HOME) else "/".join(one for one in place if one is not None)

    def ledgers(self) -> Collection[LedgerPlace]:
        """All there are: one, where no organization has a database or a cluster of its own."""
        return ledgers()

    @contextmanager
    def session(self) -> Iterator[TenantSession]:
        """The dispatcher's session on the ledger that is looked at, on its master: for what is changed, and for what is
        looked at before that."""
        place = self.ledger
        with all_jobs_session(place.cluster, place.database) as session:
            yield session

    def read(self, load: Callable[[TenantSession], T]) -> T:
        """What `load` finds in the ledger that is looked at: on a replica that has all that this browser has seen and
        done, else on the master. `load` may run up to three times, so it only loads."""
        place = self.ledger

        def load_and_remember(session: TenantSession) -> T:
            found = load(session)
            session.remember_read()
            self.behind_seconds = session.behind_seconds
            return found

        return read_all_jobs(load_and_remember, place.cluster, place.database)

    @contextmanager
    def home(self) -> Iterator[TenantSession]:
        """The dispatcher's session on home's ledger, which knows the schedules, on its master."""
        with all_jobs_session() as session:
            yield session

    def processes(self) -> Sequence[ProcessState]:
        """As home's master knows them: who has not been heard of by a replica would look dead."""
        return read_all_jobs(processes, source="master")

    def to(self, path: str, **query: object) -> str:
        """An address in the console, on the same ledger unless another one is given; parameters that are None are left
        out."""
        asked = {**query, "ledger": query.get("ledger", self.asked("ledger"))}
        given = {name: str(value) for name, value in asked.items() if value is not None}
        return str(self.request.scope.get("root_path", "")) + path + (f"?{urlencode(given)}" if given else "")

    def said(self, text: str, path: str, **query: object) -> str:
        """As `to`, and the page there says this."""
        self.say = text
        return self.to(path, **query)


def _id_of(text: str, of_what: str = "") -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidArgumentError(f"{text[:100]!r} is no id{of_what}") from None
