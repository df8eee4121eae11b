"""`User`: users of an organization."""

from sqlalchemy import Index, func
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base, TenantOwned, Timestamped, organization_foreign_key


class User(TenantOwned, Timestamped, Base):
    """Somebody of an organization who may own documents."""

    __tablename__ = "users"

    email: Mapped[str]
    display_name: Mapped[str]
    is_active: Mapped[bool] = mapped_column(default=True)

    __table_args__ = (organization_foreign_key(), {"schema": "auth"})


Index("uq_users_organization_id_email", User.organization_id, func.lower(User.email), unique=True)
