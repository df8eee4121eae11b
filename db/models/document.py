"""`Document`: the state of one text, and where its source bytes are. What was made of it is in `db.models.version`."""

from collections.abc import MutableMapping
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Optional
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ColumnElement, Index, and_, func, select, text
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import Mapped, column_property, mapped_column, object_session, relationship
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.exc import DetachedInstanceError

from docworker.db.models.base import Base, TenantOwned, Timestamped, organization_foreign_key, tenant_foreign_key
from docworker.db.models.folder import DOCUMENT_IN_FOLDER
from docworker.db.models.tag import DOCUMENT_OF_ROW, TAG_OF_ROW
from docworker.db.models.user import DOCUMENT_OF_OWNER
from docworker.db.models.version import DocumentVersion

if TYPE_CHECKING:
    from docworker.db.models.contributor import DocumentContributor
    from docworker.db.models.folder import Folder
    from docworker.db.models.tag import Tag
    from docworker.db.models.user import User


class DocumentStatus(StrEnum):
    """How far processing has come with a document."""

    PENDING = "pending"
    PROCESSED = "processed"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"


class Document(TenantOwned, Timestamped, Base):
    """`version` counts every change of the row and guards it; `latest_version` counts the texts kept.

    `rejected_by` is the signature of the processors that have found the present source, or text, bad.

    `content` is the present text. It is stored once: in the latest version, or in `unprocessed_content` from when an
    application sets it to when it is processed.
    """

    __tablename__ = "documents"

    folder_id: Mapped[UUID | None]
    owner_id: Mapped[UUID | None]
    filename: Mapped[str]
    title: Mapped[str | None]
    media_type: Mapped[str | None]
    source_key: Mapped[str | None]
    source_bytes: Mapped[int | None] = mapped_column(BigInteger)
    unprocessed_content: Mapped[str | None] = mapped_column("content")
    content_sha256: Mapped[str | None]
    status: Mapped[str] = mapped_column(default=DocumentStatus.PENDING)
    status_reason: Mapped[str | None]
    rejected_by: Mapped[str | None]
    latest_version: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column()
    deleted_at: Mapped[datetime | None]
    if TYPE_CHECKING:
        _latest_content: Mapped[str | None]

    folder: Mapped[Optional["Folder"]] = relationship(
        back_populates="documents",
        primaryjoin=DOCUMENT_IN_FOLDER,
        lazy="raise",
    )
    owner: Mapped[Optional["User"]] = relationship(
        back_populates="documents",
        primaryjoin=DOCUMENT_OF_OWNER,
        lazy="raise",
    )
    versions: Mapped[list[DocumentVersion]] = relationship(
        back_populates="document",
        order_by=DocumentVersion.version_number.desc(),
        lazy="raise",
        viewonly=True,
    )
    present_version: Mapped[DocumentVersion | None] = relationship(
        primaryjoin="and_(foreign(Document.organization_id) == remote(DocumentVersion.organization_id),"
        " foreign(Document.id) == remote(DocumentVersion.document_id),"
        " foreign(Document.latest_version) == remote(DocumentVersion.version_number))",
        lazy="raise",
        viewonly=True,
    )
    tags: Mapped[list["Tag"]] = relationship(
        secondary="app.document_tags",
        primaryjoin=DOCUMENT_OF_ROW,
        secondaryjoin=TAG_OF_ROW,
        back_populates="documents",
        order_by="Tag.name",
        lazy="raise",
        passive_deletes=True,
    )
    contributors: Mapped[list["DocumentContributor"]] = relationship(
        back_populates="document",
        order_by="DocumentContributor.role",
        lazy="raise",
        cascade="save-update, merge, delete, delete-orphan",
        passive_deletes=True,
    )

    @hybrid_property
    def content(self) -> str | None:
        """The present text; None when there is none yet. To set it does not make a version: processing does."""
        if self.unprocessed_content is not None or not self.latest_version:
            return self.unprocessed_content
        if self._latest_content is None:
            self._read_latest_content()
        return self._latest_content

    def _read_latest_content(self) -> None:
        """A row that was locked after a wait is newer than what its statement sees of other tables."""
        session = object_session(self)
        if session is None:
            raise DetachedInstanceError(
                f"the text of document {self.id} was written while its row was waited for: read `content` before the "
                "session is closed"
            )
        session.refresh(self, ["_latest_content"])

    @content.inplace.setter
    def _set_content(self, text: str | None) -> None:
        loaded = self.__dict__
        if loaded.get("unprocessed_content") is None and loaded.get("_latest_content") == text:
            return  # nothing changes, as with any attribute that is set to what it is
        self.unprocessed_content, self.rejected_by = text, None

    @content.inplace.expression
    @classmethod
    def _content_expression(cls) -> ColumnElement[str | None]:
        either: ColumnElement[str | None] = func.coalesce(cls.unprocessed_content, cls._latest_content)
        return either.label("content")

    @content.inplace.update_expression
    @classmethod
    def _update_content(cls, value: Any) -> list[tuple[Any, Any]]:
        return [(cls.unprocessed_content, value), (cls.rejected_by, None)]

    @content.inplace.bulk_dml
    @classmethod
    def _insert_content(cls, mapping: MutableMapping[str, Any], value: Any) -> None:
        mapping["unprocessed_content"] = value

    @hybrid_property
    def is_live(self) -> bool:
        """Whether nobody has deleted it."""
        return self.deleted_at is None

    @is_live.inplace.expression
    @classmethod
    def _is_live_expression(cls) -> ColumnElement[bool]:
        return cls.deleted_at.is_(None)

    @hybrid_method
    def is_stale(self, signature: str) -> bool:
        """Whether its text was made by processors other than those of this signature, which
        `Pipeline.signature` gives. Needs `present_version`."""
        present = self.present_version
        return present is not None and present.pipeline != signature

    @is_stale.inplace.expression  # type: ignore[attr-defined, untyped-decorator]
    @classmethod
    def _is_stale_expression(cls, signature: str) -> ColumnElement[bool]:
        return cls.present_version.has(DocumentVersion.pipeline != signature)

    @hybrid_method
    def is_known_bad(self, signature: str) -> bool:
        """Whether the processors of this signature have failed on it as it is: they would fail again."""
        return self.status == DocumentStatus.FAILED and self.rejected_by == signature

    @is_known_bad.inplace.expression  # type: ignore[attr-defined, untyped-decorator]
    @classmethod
    def _is_known_bad_expression(cls, signature: str) -> ColumnElement[bool]:
        return and_(cls.status == DocumentStatus.FAILED, cls.rejected_by.is_not_distinct_from(signature))

    def keep_content(self, text: str) -> None:
        """Have the latest version hold the text, which the caller writes."""
        self.unprocessed_content = None
        set_committed_value(self, "_latest_content", text)

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - the name and shape SQLAlchemy reads
    __table_args__ = (
        organization_foreign_key(),
        tenant_foreign_key("folder_id", "app.folders"),
        tenant_foreign_key("owner_id", "auth.users"),
        CheckConstraint("status IN ('pending', 'processed', 'failed', 'unsupported')", name="status"),
        CheckConstraint("latest_version >= 0", name="latest_version"),
        Index(
            "uq_documents_organization_id_folder_id_filename",
            "organization_id",
            "folder_id",
            "filename",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where="deleted_at IS NULL",
        ),
        Index(
            "ix_documents_pending",
            "organization_id",
            "id",
            postgresql_where="status = 'pending' AND deleted_at IS NULL",
        ),
        Index("ix_documents_deleted", "organization_id", "deleted_at", postgresql_where="deleted_at IS NOT NULL"),
        # Room on the page for an update that is to leave the indexes alone (HOT).
        {"schema": "app", "postgresql_with": {"fillfactor": 60}},
    )


Document._latest_content = column_property(
    select(DocumentVersion.content)
    .where(
        DocumentVersion.organization_id == Document.organization_id,
        DocumentVersion.document_id == Document.id,
        DocumentVersion.version_number == Document.latest_version,
    )
    .correlate_except(DocumentVersion)
    .scalar_subquery(),
    expire_on_flush=False,
)


class DocumentSearch(Base):
    """The full-text index of a document, kept apart so that writing a version never pays for it.

    Filled by the job `index_documents`: `terms` (see `db.documents.search.terms`) are of the version `terms_version`,
    `language` is that of their stems, and `is_partial` says that some words are not among them. `vector` is the release
    before its own.
    """

    __tablename__ = "document_search"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    document_id: Mapped[UUID] = mapped_column(primary_key=True)
    version_number: Mapped[int]
    vector: Mapped[str | None] = mapped_column(TSVECTOR)
    terms: Mapped[str | None] = mapped_column(TSVECTOR)
    terms_version: Mapped[int | None]
    language: Mapped[str | None]
    is_partial: Mapped[bool] = mapped_column(server_default=text("false"))

    __table_args__ = (
        tenant_foreign_key("document_id", "app.documents", on_delete="CASCADE"),
        Index("ix_document_search_terms", "terms", postgresql_using="gin"),
        Index(
            "ix_document_search_sample",
            "terms",
            postgresql_using="gin",
            postgresql_where="get_byte(uuid_send(document_id), 15) < 16",
        ),
        Index("ix_document_search_organization_id_language", "organization_id", "language"),
        Index(
            "ix_document_search_unindexed",
            "organization_id",
            "document_id",
            postgresql_where="terms_version IS DISTINCT FROM version_number",
        ),
        {"schema": "app"},
    )
