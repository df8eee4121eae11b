"""The audit log has an end: entries older than what is asked for, and than a month, are pruned by a function.

Workers may neither change nor delete what is there; the function runs with the rights of the tables' owner, and takes
the entries of the transaction's organization alone. What is done to organizations and to jobs of several of them stands
in a log of the installation, which is in use at home. The release before knows neither.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from docworker.migrations.names import literal, quoted

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

ARGUMENTS = "older_than_days double precision, most integer"
BODY = """
DECLARE
    gone integer;
BEGIN
    IF NOT older_than_days >= 30 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'entries of the audit log are kept for at least 30 days';
    END IF;
    WITH chosen AS (
        SELECT id FROM {log}
        WHERE {condition} created_at < clock_timestamp() - make_interval(secs => older_than_days * 86400)
        ORDER BY created_at LIMIT most FOR UPDATE SKIP LOCKED
    )
    DELETE FROM {log} AS log USING chosen WHERE {condition} log.id = chosen.id;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
"""
OF_ORGANIZATION = "organization_id = nullif(current_setting('docworker.organization_id', true), '')::uuid AND"


def upgrade() -> None:
    op.create_table(
        "audit_log",
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
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
        schema="catalog",
    )
    op.create_index(op.f("ix_audit_log_created_at"), "audit_log", ["created_at"], schema="catalog")
    op.execute("GRANT INSERT ON catalog.audit_log TO docworker_worker")
    create_prune("catalog", "")
    upgrade_tenant("app")


def upgrade_tenant(schema: str) -> None:
    create_prune(schema, OF_ORGANIZATION)


def create_prune(schema: str, condition: str) -> None:
    function = f"{quoted(schema, 'prune_audit_log')}"
    body = BODY.format(log=quoted(schema, "audit_log"), condition=condition)
    op.execute(
        f"CREATE FUNCTION {function}({ARGUMENTS}) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER"
        f" SET search_path = pg_catalog, pg_temp AS {literal(body)}"
    )
    op.execute(f"REVOKE ALL ON FUNCTION {function}({ARGUMENTS}) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {function}({ARGUMENTS}) TO docworker_worker")


def downgrade() -> None:
    downgrade_tenant("app")
    downgrade_tenant("catalog")
    op.drop_table("audit_log", schema="catalog")


def downgrade_tenant(schema: str) -> None:
    op.execute(f"DROP FUNCTION {quoted(schema, 'prune_audit_log')}({ARGUMENTS})")
