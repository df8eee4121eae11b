"""`policy_faults`: what in the catalogs of a database would let one organization see another's rows, or learn of them.

Row-level security is the boundary in every model, also in a schema or a database of its own: a wrong placement then
shows nothing instead of others' rows. Any role may ask.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from docworker.db.catalog import TENANT_SCHEMAS
from docworker.db.models import Placement
from docworker.db.models.ledger.job import PAUSES, SUSPENSIONS, WEIGHTS
from docworker.db.models.ledger.key import KEY_LIMITS
from docworker.db.models.ledger.limit import LIMITS, RATES_SPENT
from docworker.db.models.ledger.schedule import SCHEDULES

WORKERS = ("docworker_worker", "docworker_dispatcher", "docworker_producer")
_WITHOUT_TENANT = (str(Placement.__table__), PAUSES, SUSPENSIONS, WEIGHTS, SCHEDULES, LIMITS, RATES_SPENT, KEY_LIMITS)
"""Tables that name organizations and are no organization's to use; the ledger's are the dispatcher's alone."""

# What a table is isolated by: its organization_id, or the id of the organizations themselves.
_TABLES = """
tables AS (
    SELECT class.oid, class.relname, namespace.nspname, class.relrowsecurity, class.relforcerowsecurity, class.relacl,
           pg_catalog.format('%s.%s', namespace.nspname, class.relname) AS name,
           own.attnum AS own, own.attname AS own_name
    FROM pg_catalog.pg_class AS class JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    JOIN pg_catalog.pg_attribute AS own ON own.attrelid = class.oid AND NOT own.attisdropped
     AND own.attname = CASE WHEN class.relname = 'organizations' THEN 'id' ELSE 'organization_id' END
    WHERE class.relkind IN ('r', 'p') AND namespace.nspname = ANY(:schemas)
      AND pg_catalog.format('%s.%s', namespace.nspname, class.relname) <> ALL(:without_tenant)
)
"""
_CHECKS = {
    "row-level security is off, or not forced for the owner: ALTER TABLE … ENABLE, and FORCE, ROW LEVEL SECURITY": """
        SELECT name FROM tables WHERE NOT (relrowsecurity AND relforcerowsecurity)
    """,
    "no policy admits an organization to its own rows": """
        SELECT name FROM tables WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = tables.oid)
    """,
    "a policy admits others than the transaction's organization": """
        SELECT pg_catalog.format('%s (policy %s)', name, polname)
        FROM tables JOIN pg_catalog.pg_policy AS policy ON policy.polrelid = tables.oid
        WHERE polpermissive AND (0 = ANY(polroles) OR 'docworker_worker'::regrole = ANY(polroles))
          AND (coalesce(pg_catalog.pg_get_expr(polqual, polrelid), '') <> pg_catalog.format(:condition, own_name)
            OR coalesce(pg_catalog.pg_get_expr(polwithcheck, polrelid), pg_catalog.pg_get_expr(polqual, polrelid), '')
               <> pg_catalog.format(:condition, own_name))
    """,
    "a unique key does not begin with the organization: a conflict would tell of another's row": """
        SELECT pg_catalog.format('%s (%s)', name, key.relname)
        FROM tables JOIN pg_catalog.pg_index AS index ON index.indrelid = tables.oid
        JOIN pg_catalog.pg_class AS key ON key.oid = index.indexrelid
        WHERE indisunique AND indkey[0] <> own AND tables.relname <> 'organizations'
    """,
    "a foreign key does not begin with the organization: it could refer to another's row": """
        SELECT pg_catalog.format('%s (%s)', name, conname)
        FROM tables JOIN pg_catalog.pg_constraint AS reference ON reference.conrelid = tables.oid
        WHERE contype = 'f' AND conkey[1] <> own
    """,
    "everybody may use it: REVOKE ALL … FROM PUBLIC": """
        SELECT name FROM tables, pg_catalog.aclexplode(relacl) AS granted WHERE granted.grantee = 0
        UNION ALL
        SELECT pg_catalog.format('schema %s', nspname)
        FROM pg_catalog.pg_namespace, pg_catalog.aclexplode(nspacl) AS granted
        WHERE granted.grantee = 0 AND nspname = ANY(:schemas)
    """,
    "a role that runs jobs owns it, and could turn its policies off": """
        SELECT name FROM tables JOIN pg_catalog.pg_class AS class ON class.oid = tables.oid
        WHERE pg_catalog.pg_get_userbyid(class.relowner) = ANY(:workers)
    """,
    "the role bypasses row-level security, or is a superuser": """
        SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY(:workers) AND (rolsuper OR rolbypassrls)
    """,
    "the role is a member of one that owns tables here": """
        SELECT DISTINCT pg_catalog.format('%s (of %s)', worker.rolname, pg_catalog.pg_get_userbyid(class.relowner))
        FROM tables JOIN pg_catalog.pg_class AS class ON class.oid = tables.oid,
             pg_catalog.pg_roles AS worker
        WHERE worker.rolname = ANY(:workers) AND pg_catalog.pg_has_role(worker.oid, class.relowner, 'MEMBER')
    """,
    "producers may do more than enqueue: REVOKE it": """
        SELECT pg_catalog.format('%s (%s)', name, privilege_type)
        FROM tables, pg_catalog.aclexplode(relacl) AS granted
        WHERE granted.grantee = pg_catalog.to_regrole('docworker_producer')
        UNION ALL
        SELECT pg_catalog.format('docworker_producer (of %s)', role.rolname)
        FROM pg_catalog.pg_auth_members AS member JOIN pg_catalog.pg_roles AS role ON role.oid = member.roleid
        WHERE member.member = pg_catalog.to_regrole('docworker_producer')
    """,
    "a function runs with its owner's rights and may be called by everybody, or finds names on the caller's path": """
        SELECT function.oid::regprocedure::text
        FROM pg_catalog.pg_proc AS function
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = function.pronamespace
        WHERE namespace.nspname = ANY(:schemas) AND function.prosecdef AND function.prorettype <> 'trigger'::regtype
          AND (NOT 'search_path=pg_catalog, pg_temp' = ANY(coalesce(function.proconfig, '{}'))
            OR function.proacl IS NULL
            OR EXISTS (SELECT FROM pg_catalog.aclexplode(function.proacl) AS granted WHERE granted.grantee = 0))
    """,
}
_CONDITION = (
    "(%s = ( SELECT (NULLIF(current_setting('docworker.organization_id'::text, true), ''::text))::uuid AS \"nullif\"))"
)
_SCHEMAS = ("ledger", "catalog")


def policy_faults(connection: Connection | Session, schemas: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Tables, indexes, constraints and roles, each with what is wrong with it. `schemas` are those of single
    organizations in this database."""
    known = {
        "schemas": [*TENANT_SCHEMAS, *_SCHEMAS, *schemas],
        "without_tenant": list(_WITHOUT_TENANT),
        "workers": list(WORKERS),
        "condition": _CONDITION,
    }
    for fault, query in _CHECKS.items():
        statement = text(f"WITH {_TABLES} {query}")
        wanted = {name: value for name, value in known.items() if f":{name}" in statement.text}
        for subject in connection.execute(statement, wanted).scalars():
            yield str(subject), fault
