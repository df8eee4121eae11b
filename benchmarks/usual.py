"""The usual way, as a good engineer writes it who has read the tutorials of Celery and SQLAlchemy.

One message a document; engines made after the fork; one session to read from the replica, one to write to the master;
optimistic locking by `version_id_col`; `autoretry_for` on a conflict. Same tables, same roles, same step.
"""

from typing import Any
from uuid import UUID

from celery import Celery, signals
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.orm.exc import StaleDataError

from benchmarks.normalizing import normalize
from db.models import Document, DocumentStatus, DocumentVersion
from db.settings import settings
from jobs.processing import Unprocessed

app = Celery("usual", broker=settings().broker_url)
app.conf.task_default_queue = "usual"
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True

ReadSession = sessionmaker[Session](expire_on_commit=False)
WriteSession = sessionmaker[Session](expire_on_commit=False)


@signals.worker_process_init.connect
def make_engines(**_: Any) -> None:
    """Engines of this process's own; sessions are bound to them for its life."""
    known = settings()
    replica = known.replica_urls[0].replace("postgresql://", "postgresql+psycopg://")
    master = known.master_url.replace("postgresql://", "postgresql+psycopg://")
    ReadSession.configure(bind=create_engine(replica, pool_pre_ping=True))
    WriteSession.configure(bind=create_engine(master, pool_pre_ping=True))


@event.listens_for(Session, "after_begin")
def set_organization(session: Session, _transaction: object, connection: Any) -> None:
    """The tables are under row-level security for both sides."""
    if "organization_id" in session.info:
        connection.execute(
            text("SELECT set_config('docworker.organization_id', :id, true)"),
            {"id": str(session.info["organization_id"])},
        )


@app.task(autoretry_for=(StaleDataError,), retry_backoff=True, max_retries=5)
def process_document(organization_id: str, document_id: str) -> None:
    """Read, normalize, write a version."""
    key = (UUID(organization_id), UUID(document_id))
    with ReadSession(info={"organization_id": organization_id}) as session:
        document = session.get_one(Document, key)
    new = normalize(Unprocessed(key[1], document.version, "", None, None, document.content), None)
    with WriteSession(info={"organization_id": organization_id}) as session, session.begin():
        session.add(document)
        document.content, document.content_sha256 = new.content, new.content_sha256
        document.status = DocumentStatus.PROCESSED
        document.latest_version += 1
        session.flush()
        session.add(
            DocumentVersion(
                organization_id=key[0],
                document_id=key[1],
                version_number=document.latest_version,
                content=new.content,
                content_sha256=new.content_sha256,
                pipeline=new.pipeline,
            )
        )
