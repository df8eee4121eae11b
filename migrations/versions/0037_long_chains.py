"""A chain of jobs may be as long as it likes: what its condition cancels, or takes up again, is told on in steps.

Each job that ends so tells the next one, in a trigger of a trigger, and behind some hundred of these the server had no
stack left: the first job of a long chain could not fail. Behind some of them it is told at the end of the transaction,
where that begins anew. The release before neither needs nor minds it.
"""

from alembic import op

from docworker.migrations.functions import replace_in

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

ENDS = "('succeeded', 'failed', 'cancelled')"
HAS_ENDED_OR_LIVES_AGAIN = f"NEW.awaited AND OLD.state <> NEW.state AND (NEW.state IN {ENDS} OR OLD.state IN {ENDS})"
DEEPEST = 30
TOLD = "    FOR member IN\n"
TOLD_IF_IT_IS_SO_STILL = f"""    IF TG_NAME = 'tell_gates_late' AND NOT EXISTS (
        SELECT FROM ledger.jobs
        WHERE organization_id = NEW.organization_id AND id = NEW.id AND state || '' = NEW.state) THEN
        RETURN NULL;
    END IF;
{TOLD}"""


def upgrade() -> None:
    replace_in("ledger.tell_gates()", TOLD, TOLD_IF_IT_IS_SO_STILL)
    at_once(f"{HAS_ENDED_OR_LIVES_AGAIN} AND pg_trigger_depth() <= {DEEPEST}")
    op.execute(
        "CREATE CONSTRAINT TRIGGER tell_gates_late AFTER UPDATE OF state ON ledger.jobs"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        f" WHEN ({HAS_ENDED_OR_LIVES_AGAIN} AND pg_trigger_depth() > {DEEPEST})"
        " EXECUTE FUNCTION ledger.tell_gates()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER tell_gates_late ON ledger.jobs")
    at_once(HAS_ENDED_OR_LIVES_AGAIN)
    replace_in("ledger.tell_gates()", TOLD_IF_IT_IS_SO_STILL, TOLD)


def at_once(when: str) -> None:
    op.execute(
        "CREATE OR REPLACE TRIGGER tell_gates AFTER UPDATE OF state ON ledger.jobs FOR EACH ROW"
        f" WHEN ({when}) EXECUTE FUNCTION ledger.tell_gates()"
    )
