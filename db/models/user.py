"""`User`: users of an organization."""

from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Index, func
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column, relationship

from docworker.db.models.base import Base, TenantOwned, Timestamped, organization_foreign_key

if TYPE_CHECKING:
    from docworker.db.models.contributor import DocumentContributor
    from docworker.db.models.document import Document
    from docworker.db.models.organization import Organization

DOCUMENT_OF_OWNER = "and_(foreign(Document.owner_id) == User.id, Document.organization_id == User.organization_id)"
CONTRIBUTION_OF_USER = (
    "and_(foreign(DocumentContributor.user_id) == User.id, DocumentContributor.organization_id == User.organization_id)"
)


class User(TenantOwned, Timestamped, Base):
    """Somebody of an organization who may own documents."""

    __tablename__ = "users"

    email: Mapped[str]
    given_display_name: Mapped[str] = mapped_column("display_name", default="")
    is_active: Mapped[bool] = mapped_column(default=True)

    organization: Mapped["Organization"] = relationship(back_populates="users", lazy="raise")
    documents: Mapped[list["Document"]] = relationship(
        back_populates="owner",
        primaryjoin=DOCUMENT_OF_OWNER,
        order_by="Document.filename",
        lazy="raise",
        passive_deletes="all",
    )
    contributions: Mapped[list["DocumentContributor"]] = relationship(
        back_populates="user",
        primaryjoin=CONTRIBUTION_OF_USER,
        lazy="raise",
        passive_deletes="all",
    )

    @hybrid_property
    def display_name(self) -> str:
        """The name that was given, or else the email address."""
        return self.given_display_name or self.email

    @display_name.inplace.setter
    def _set_display_name(self, name: str) -> None:
        self.given_display_name = name

    @display_name.inplace.expression
    @classmethod
    def _display_name_expression(cls) -> ColumnElement[str]:
        name: ColumnElement[str] = func.coalesce(func.nullif(cls.given_display_name, ""), cls.email)
        return name.label("display_name")

    __table_args__ = (organization_foreign_key(), {"schema": "auth"})


Index("uq_users_organization_id_email", User.organization_id, func.lower(User.email), unique=True)
