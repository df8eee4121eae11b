"""Schemas, tables, row-level security and grants of the ground floor.

The roles are made by whoever sets up the server; the owner role runs this.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from docworker.migrations.names import do, quoted

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


SCHEMAS = ("app", "auth", "ledger", "catalog")
# Those of an organization. In its own schema all of them lie side by side.
TABLES = (
    "organizations",
    "audit_log",
    "folders",
    "tags",
    "documents",
    "document_search",
    "document_tags",
    "document_versions",
)
EVERYTHING = "SELECT, INSERT, UPDATE, DELETE"
CURRENT_ORGANIZATION = "(SELECT nullif(current_setting('docworker.organization_id', true), '')::uuid)"

# One ringing transaction at a time: a NOTIFY in every commit would queue all commits behind one lock. Who finds the
# bell taken is found by the dispatcher, which keeps looking for a while after each ring.
RING = """
CREATE FUNCTION ledger.ring() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_try_advisory_xact_lock(hashtext('docworker'), hashtext('ledger.ring')) THEN
        PERFORM pg_notify('docworker_jobs', '');
    END IF;
    RETURN NULL;
END
$$
"""


# Texts are most of the data, and compressing them with pglz most of the price of a write: lz4 where the server was
# built with it, else none, for which they take about half as much room again.
COMPRESS = """
BEGIN
    IF (SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression') THEN
        ALTER TABLE {documents} ALTER COLUMN content SET COMPRESSION lz4;
        ALTER TABLE {versions} ALTER COLUMN content SET COMPRESSION lz4;
    ELSE
        ALTER TABLE {documents} ALTER COLUMN content SET STORAGE EXTERNAL;
        ALTER TABLE {versions} ALTER COLUMN content SET STORAGE EXTERNAL;
    END IF;
END
"""


def upgrade() -> None:
    for schema in SCHEMAS:
        op.execute(f"CREATE SCHEMA {schema}")
    create_documents(app="app", auth="auth")
    create_catalog_and_ledger()


def upgrade_tenant(schema: str) -> None:
    create_documents(app=schema, auth=schema)


def create_documents(*, app: str, auth: str) -> None:
    """Everything that holds what an organization has, but its jobs."""
    create_document_tables(app, auth)
    documents, versions = quoted(app, "documents"), quoted(app, "document_versions")
    op.execute(do(COMPRESS.format(documents=documents, versions=versions)))
    for schema in dict.fromkeys((app, auth)):
        op.execute(f"GRANT USAGE ON SCHEMA {quoted(schema)} TO docworker_worker")
    for schema, table in (*((app, table) for table in TABLES), (auth, "users")):
        # The log is append-only, and deleting an organization's documents leaves it alone.
        granted = "SELECT, INSERT" if table == "audit_log" else EVERYTHING
        op.execute(f"GRANT {granted} ON {quoted(schema, table)} TO docworker_worker")
        isolate(quoted(schema, table), "id" if table == "organizations" else "organization_id")


def create_catalog_and_ledger() -> None:
    create_catalog_and_ledger_tables()
    op.execute(RING)
    op.execute("CREATE TRIGGER ring AFTER INSERT ON ledger.jobs FOR EACH STATEMENT EXECUTE FUNCTION ledger.ring()")
    isolate("ledger.jobs", "organization_id")
    op.execute("CREATE POLICY every_job ON ledger.jobs TO docworker_dispatcher USING (true) WITH CHECK (true)")
    op.execute("GRANT USAGE ON SCHEMA ledger, catalog TO docworker_worker, docworker_dispatcher")
    op.execute(f"GRANT {EVERYTHING} ON ledger.jobs TO docworker_worker")
    op.execute("GRANT SELECT, INSERT ON catalog.placements TO docworker_worker")
    op.execute(f"GRANT {EVERYTHING} ON ALL TABLES IN SCHEMA ledger TO docworker_dispatcher")
    op.execute("GRANT SELECT ON catalog.placements TO docworker_dispatcher")


def isolate(table: str, organization: str) -> None:
    condition = f"{organization} = {CURRENT_ORGANIZATION}"
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_organization ON {table} USING ({condition}) WITH CHECK ({condition})")


def create_catalog_and_ledger_tables() -> None:
    op.create_table(
        "placements",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("schema_name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("state IN ('active', 'moving', 'suspended')", name=op.f("ck_placements_state")),
        sa.PrimaryKeyConstraint("organization_id", name=op.f("pk_placements")),
        sa.UniqueConstraint("slug", name=op.f("uq_placements_slug")),
        schema="catalog",
    )
    op.create_table(
        "jobs",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("arguments", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("run_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("unique_key", sa.Text(), nullable=True),
        sa.Column("attempt", sa.SmallInteger(), nullable=False),
        sa.Column("max_attempts", sa.SmallInteger(), nullable=False),
        sa.Column("faults", sa.SmallInteger(), nullable=False),
        sa.Column("alone", sa.Boolean(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=True),
        sa.Column("dispatches", sa.SmallInteger(), nullable=False),
        sa.Column("dispatched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dispatched_lsn", sa.BigInteger(), nullable=True),
        sa.Column("redispatch_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claim_token", sa.Uuid(), nullable=True),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("cursor", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("children", sa.Integer(), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_traceback", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'dispatched') = (redispatch_at IS NOT NULL)",
            name=op.f("ck_jobs_dispatched_is_due_again"),
        ),
        sa.CheckConstraint(
            "state <> 'running'"
            " OR (claim_token IS NOT NULL AND lease_expires_at IS NOT NULL AND run_until IS NOT NULL)",
            name=op.f("ck_jobs_running_is_leased"),
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'dispatched', 'running', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_jobs_state"),
        ),
        sa.CheckConstraint("attempt BETWEEN 0 AND max_attempts", name=op.f("ck_jobs_attempt")),
        sa.CheckConstraint("max_attempts >= 1", name=op.f("ck_jobs_max_attempts")),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name=op.f("ck_jobs_priority")),
        sa.PrimaryKeyConstraint("organization_id", "id", name=op.f("pk_jobs")),
        schema="ledger",
        postgresql_with={
            "fillfactor": "70",
            "autovacuum_vacuum_scale_factor": "0.0",
            "autovacuum_vacuum_threshold": "5000",
            "autovacuum_analyze_scale_factor": "0.0",
            "autovacuum_analyze_threshold": "20000",
            "autovacuum_vacuum_cost_delay": "0",
        },
    )
    op.create_index(
        "ix_jobs_dispatched",
        "jobs",
        ["redispatch_at"],
        unique=False,
        schema="ledger",
        postgresql_where="state = 'dispatched'",
    )
    op.create_index(
        "ix_jobs_finished",
        "jobs",
        ["organization_id", "finished_at"],
        unique=False,
        schema="ledger",
        postgresql_where="state IN ('succeeded', 'failed', 'cancelled')",
    )
    op.create_index(
        "ix_jobs_parent",
        "jobs",
        ["organization_id", "parent_id", "state"],
        unique=False,
        schema="ledger",
        postgresql_where="parent_id IS NOT NULL",
    )
    op.create_index(
        "ix_jobs_queued",
        "jobs",
        ["organization_id", "kind", "alone", "priority", "run_at", "id"],
        unique=False,
        schema="ledger",
        postgresql_where="state = 'queued'",
    )
    op.create_index(
        "ix_jobs_running",
        "jobs",
        ["lease_expires_at"],
        unique=False,
        schema="ledger",
        postgresql_where="state = 'running'",
    )
    op.create_index(
        "uq_jobs_organization_id_kind_unique_key",
        "jobs",
        ["organization_id", "kind", "unique_key"],
        unique=True,
        schema="ledger",
        postgresql_where="unique_key IS NOT NULL AND claimed_at IS NULL AND state IN ('queued', 'dispatched')",
    )
    op.create_table(
        "pauses",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("organization_id", "kind", name=op.f("pk_pauses")),
        schema="ledger",
    )
    op.create_table(
        "schedule_fires",
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "fired_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("schedule", "due_at", name=op.f("pk_schedule_fires")),
        schema="ledger",
    )


def create_document_tables(app: str, auth: str) -> None:
    op.create_table(
        "organizations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organizations")),
        sa.UniqueConstraint("slug", name=op.f("uq_organizations_slug")),
        schema=app,
    )
    op.create_table(
        "audit_log",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=True),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], [f"{app}.organizations.id"], name=op.f("fk_audit_log_organization_id")
        ),
        sa.PrimaryKeyConstraint("organization_id", "id", name=op.f("pk_audit_log")),
        schema=app,
    )
    op.create_index(
        op.f("ix_audit_log_organization_id_created_at"),
        "audit_log",
        ["organization_id", "created_at"],
        unique=False,
        schema=app,
    )
    op.create_table(
        "folders",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("parent_id <> id", name=op.f("ck_folders_not_its_own_parent")),
        sa.ForeignKeyConstraint(
            ["organization_id", "parent_id"],
            [f"{app}.folders.organization_id", f"{app}.folders.id"],
            name=op.f("fk_folders_organization_id_parent_id"),
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], [f"{app}.organizations.id"], name=op.f("fk_folders_organization_id")
        ),
        sa.PrimaryKeyConstraint("organization_id", "id", name=op.f("pk_folders")),
        schema=app,
    )
    op.create_index(
        "uq_folders_organization_id_parent_id_name",
        "folders",
        ["organization_id", "parent_id", "name"],
        unique=True,
        schema=app,
        postgresql_nulls_not_distinct=True,
        postgresql_where="deleted_at IS NULL",
    )
    op.create_table(
        "tags",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["organization_id"], [f"{app}.organizations.id"], name=op.f("fk_tags_organization_id")),
        sa.PrimaryKeyConstraint("organization_id", "id", name=op.f("pk_tags")),
        sa.UniqueConstraint("organization_id", "name", name=op.f("uq_tags_organization_id_name")),
        schema=app,
    )
    op.create_table(
        "users",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], [f"{app}.organizations.id"], name=op.f("fk_users_organization_id")
        ),
        sa.PrimaryKeyConstraint("organization_id", "id", name=op.f("pk_users")),
        schema=auth,
    )
    op.create_index(
        "uq_users_organization_id_email",
        "users",
        ["organization_id", sa.literal_column("lower(email)")],
        unique=True,
        schema=auth,
    )
    op.create_table(
        "documents",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("folder_id", sa.Uuid(), nullable=True),
        sa.Column("owner_id", sa.Uuid(), nullable=True),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("media_type", sa.Text(), nullable=True),
        sa.Column("source_key", sa.Text(), nullable=True),
        sa.Column("source_bytes", sa.BigInteger(), nullable=True),
        sa.Column("content", sa.Text(), nullable=True),
        sa.Column("content_sha256", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=True),
        sa.Column("latest_version", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'processed', 'failed', 'unsupported')", name=op.f("ck_documents_status")
        ),
        sa.CheckConstraint("latest_version >= 0", name=op.f("ck_documents_latest_version")),
        sa.ForeignKeyConstraint(
            ["organization_id", "folder_id"],
            [f"{app}.folders.organization_id", f"{app}.folders.id"],
            name=op.f("fk_documents_organization_id_folder_id"),
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "owner_id"],
            [f"{auth}.users.organization_id", f"{auth}.users.id"],
            name=op.f("fk_documents_organization_id_owner_id"),
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], [f"{app}.organizations.id"], name=op.f("fk_documents_organization_id")
        ),
        sa.PrimaryKeyConstraint("organization_id", "id", name=op.f("pk_documents")),
        schema=app,
    )
    op.create_index(
        "ix_documents_deleted",
        "documents",
        ["organization_id", "deleted_at"],
        unique=False,
        schema=app,
        postgresql_where="deleted_at IS NOT NULL",
    )
    op.create_index(
        "ix_documents_pending",
        "documents",
        ["organization_id", "id"],
        unique=False,
        schema=app,
        postgresql_where="status = 'pending' AND deleted_at IS NULL",
    )
    op.create_index(
        "uq_documents_organization_id_folder_id_filename",
        "documents",
        ["organization_id", "folder_id", "filename"],
        unique=True,
        schema=app,
        postgresql_nulls_not_distinct=True,
        postgresql_where="deleted_at IS NULL",
    )
    op.create_table(
        "document_search",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("document_id", sa.Uuid(), nullable=False),
        sa.Column("version_number", sa.Integer(), nullable=False),
        sa.Column("vector", postgresql.TSVECTOR(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "document_id"],
            [f"{app}.documents.organization_id", f"{app}.documents.id"],
            name=op.f("fk_document_search_organization_id_document_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("organization_id", "document_id", name=op.f("pk_document_search")),
        schema=app,
    )
    op.create_index(
        "ix_document_search_vector",
        "document_search",
        ["vector"],
        unique=False,
        schema=app,
        postgresql_using="gin",
    )
    op.create_table(
        "document_tags",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("document_id", sa.Uuid(), nullable=False),
        sa.Column("tag_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "document_id"],
            [f"{app}.documents.organization_id", f"{app}.documents.id"],
            name=op.f("fk_document_tags_organization_id_document_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "tag_id"],
            [f"{app}.tags.organization_id", f"{app}.tags.id"],
            name=op.f("fk_document_tags_organization_id_tag_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("organization_id", "document_id", "tag_id", name=op.f("pk_document_tags")),
        schema=app,
    )
    op.create_index(
        op.f("ix_document_tags_organization_id_tag_id"),
        "document_tags",
        ["organization_id", "tag_id"],
        unique=False,
        schema=app,
    )
    op.create_table(
        "document_versions",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("document_id", sa.Uuid(), nullable=False),
        sa.Column("version_number", sa.Integer(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("content_sha256", sa.Text(), nullable=False),
        sa.Column("facts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("version_number >= 1", name=op.f("ck_document_versions_version_number")),
        sa.ForeignKeyConstraint(
            ["organization_id", "document_id"],
            [f"{app}.documents.organization_id", f"{app}.documents.id"],
            name=op.f("fk_document_versions_organization_id_document_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("organization_id", "document_id", "version_number", name=op.f("pk_document_versions")),
        schema=app,
    )


def downgrade() -> None:
    for schema in reversed(SCHEMAS):
        op.execute(f"DROP SCHEMA {schema} CASCADE")


def downgrade_tenant(schema: str) -> None:
    op.execute(f"DROP TABLE {', '.join(quoted(schema, table) for table in (*TABLES, 'users'))}")
    op.execute(f"REVOKE USAGE ON SCHEMA {quoted(schema)} FROM docworker_worker")
