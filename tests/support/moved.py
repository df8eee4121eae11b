"""An organization with rows of every kind, which is moved."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Text, cast, func, insert, select, text

from docworker.db.catalog import SHARED_SCHEMA, TENANT_SCHEMAS, Place, place_in
from docworker.db.models import (
    ApiToken,
    AuditEntry,
    Backlog,
    Document,
    DocumentAttachment,
    DocumentContributor,
    DocumentTag,
    Folder,
    Gate,
    GateMember,
    Job,
    JobState,
    KeptReport,
    KeyLimit,
    KeyRateSpent,
    Limit,
    PastAttempt,
    Pause,
    RateSpent,
    Suspension,
    Tag,
    User,
    WebhookEndpoint,
    Weight,
)
from docworker.db.models.base import new_id
from docworker.db.sessions import writing
from docworker.db.tenants.copying import ledger_tables, owned_tables
from docworker.db.tenants.tables import owner_column
from docworker.worker.tenants.creating import create_tenant
from docworker.worker.tenants.owner import become, owning, placement_of
from docworker.worker.tenants.places import Model
from tests.support.tenants import Tenant

EAST = Place("east", "app")


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def waits_for_a_lock(place: Place, *, sessions: int = 1) -> bool:
    """Whether so many sessions of the place's database do, or more."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with owning(place) as owner:
        return int(owner.scalar(text(waiting)) or 0) >= sessions


class MovedTenant(Tenant):
    def __init__(self, model: Model = Model.SHARED, cluster: str = "home") -> None:
        self.slug = f"mover-{new_id().hex[-12:]}"
        self.id, _, _ = create_tenant(self.slug, model=model, cluster=cluster)

    @property
    def place(self) -> Place:
        return place_in(placement_of(self.slug))

    def fill(self) -> None:
        """Rows of every kind: a tree whose children come before their parents, odd texts, jobs in every state."""
        user = User(organization_id=self.id, id=new_id(), email="A@b.example", display_name="tab\there \\N ü")
        tag = Tag(organization_id=self.id, id=new_id(), name="tag")
        above, below = (Folder(organization_id=self.id, id=new_id(), name=name) for name in ("above", "below"))
        above, below = sorted((above, below), key=lambda one: one.id, reverse=True)
        with writing(self.id) as session:
            session.add_all([user, tag, above])
            session.flush()
            below.parent_id = above.id
            session.add(below)
            session.add(
                AuditEntry(organization_id=self.id, actor="me", action="x", subject="y", details={"a": [1, "é"]})
            )
        document_id = self.write("/some/where/a.txt", "one", "two\nlines\twith \\ and ü", title="T")
        pending_id = self.write("/pending.txt")
        self.add("unprocessed")
        with writing(self.id) as session:
            session.add(DocumentTag(organization_id=self.id, document_id=document_id, tag_id=tag.id))
            session.add(
                DocumentContributor(organization_id=self.id, document_id=document_id, user_id=user.id, role="author")
            )
            session.get_one(Document, (self.id, document_id)).owner_id = user.id
            attached = {"organization_id": self.id, "document_id": document_id, "name": "a.pdf", "number": 1}
            session.add(DocumentAttachment(**attached, attachment_id=pending_id, sha256="0" * 64))
            job = {"kind": "x", "max_attempts": 3, "organization_id": self.id}
            session.add(Job(**job, state=JobState.SUCCEEDED, result={"n": 1}, attempt=1, dispatched_lsn=2**60))
            session.add(Job(**job, state=JobState.FAILED, error_message="why", faults=2, attempt=3))
            session.add(
                Job(**job, state=JobState.DISPATCHED, message_id=new_id(), dispatched_lsn=2**60, redispatch_at=soon())
            )
            past = {"organization_id": self.id, "job_id": new_id(), "claim_token": new_id(), "position": 1}
            session.add(PastAttempt(**past, attempt=1, outcome="retried", log=[{"seconds": 1.5, "message": "é"}]))
            session.add(Job(**job, traceparent="00-", unique_key="k", cursor={"at": 7}, children=2, priority=1))
            session.add(Job(**job, later=True, run_at=soon()))
            session.add(Job(**job, state=JobState.WAITING, limit_key="a"))
            waits, awaited = new_id(), new_id()
            session.add(Job(**job, id=awaited, later=True, run_at=soon(), awaited=True))
            session.add(Job(**job, id=waits, state=JobState.WAITING, gated=True))
            session.add(Gate(organization_id=self.id, id=waits, opens_when="any", pending=1, failed=1))
            session.add(GateMember(organization_id=self.id, gate_id=waits, job_id=awaited, is_tree=True))
            session.add(WebhookEndpoint(organization_id=self.id, id=new_id(), url="https://é.example", secret="whsec_"))
            session.add(ApiToken(organization_id=self.id, name="é", sha256="0" * 64, scopes=["a", 'b,"']))
            session.add(
                KeptReport(organization_id=self.id, name="newest", rows=[[1, "é"]], computed_at=soon(), seconds=0.5)
            )
        with owning(self.place) as owner:
            owner.execute(insert(Pause).values(organization_id=self.id, kind="x"))
            owner.execute(insert(Weight).values(organization_id=self.id, weight=3))
            owner.execute(insert(Limit).values(organization_id=self.id, kind="x", max_running=3))
            owner.execute(insert(KeyLimit).values(organization_id=self.id, limit_key="a", max_running=2))
            owner.execute(insert(RateSpent).values(organization_id=self.id, kind="x", spent_until=soon()))
            become(owner, self.id)
            owner.execute(insert(Backlog).values(organization_id=self.id, most=1000))
            spent = {"organization_id": self.id, "limit_key": "b", "spent_until": soon(), "look_at": soon()}
            owner.execute(insert(KeyRateSpent).values(spent))

    def fill_late(self) -> None:
        """More of it, of which no key is there yet."""
        with writing(self.id) as session:
            session.add(Tag(organization_id=self.id, id=new_id(), name="late"))
            session.add(User(organization_id=self.id, id=new_id(), email="late@b.example", display_name="late"))
        self.write("/late/a.txt", "late")

    def rows(self, place: Place | None = None) -> dict[str, list[str]]:
        """All there is of it at a place, by table."""
        place = place or self.place
        found = {}
        schemas = {} if place.schema == SHARED_SCHEMA else dict.fromkeys(TENANT_SCHEMAS, place.schema)
        with owning(place) as owner:
            become(owner, self.id)
            there = owner.execution_options(schema_translate_map=schemas)
            for table in [*owned_tables(), *ledger_tables()]:
                columns = [one for one in table.c if one.name != "dispatched_lsn"]
                texts = [func.coalesce(cast(one, Text), "-") for one in columns]
                query = select(func.concat_ws("|", *texts)).where(owner_column(table) == self.id)
                found[table.name] = sorted(there.scalars(query))
        return found

    def is_suspended(self, place: Place) -> bool:
        with owning(place) as owner:
            return bool(owner.scalar(select(func.count()).where(Suspension.organization_id == self.id)))
