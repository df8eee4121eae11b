"""`ApiToken`: what a caller of the HTTP API shows. What is done with it: `db.tokens`."""

from datetime import datetime

from sqlalchemy import ARRAY, CheckConstraint, Index, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from docworker.db.models.base import Base, TenantOwned


class ApiToken(TenantOwned, Base):
    """A token of one organization, of which only the SHA-256 is kept, in hexadecimal digits.

    It is good until `expires_at`, if that is set, and unless `revoked_at` is. `last_used_at` is exact to an hour.
    """

    __tablename__ = "api_tokens"

    name: Mapped[str]
    sha256: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (
        CheckConstraint("char_length(name) BETWEEN 1 AND 200 AND char_length(sha256) = 64", name="texts"),
        CheckConstraint("cardinality(scopes) BETWEEN 1 AND 20", name="scopes"),
        Index("ix_api_tokens_organization_id_sha256", "organization_id", "sha256"),
        {"schema": "ledger"},
    )


API_TOKENS = str(ApiToken.__table__)
"""The table's name, for what names it in text."""
