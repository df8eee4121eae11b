"""A master that refuses the ends of attempts, as one does whose disk has no room for them, or whatever changes certain
jobs; and takes all else."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from docworker.db.catalog import Place
from docworker.worker.tenants.owner import owning

_ENDS = "OLD.state = 'running' AND NEW.state IN ('queued', 'failed', 'succeeded')"
_RESCUED = "NEW.error_class IS NOT DISTINCT FROM 'LeaseExpired'"
_A_RETRY = "pg_catalog.strpos(pg_catalog.current_query(), 'used_up') > 0"


@contextmanager
def refusing_ends(*, but: str = "false", retries: bool = False) -> Iterator[None]:
    """Within the block. Rescues pass, and `but`: a condition of NEW and OLD. With `retries`, what retries a job, also
    where it changes none because the job is somebody else's by now."""
    rows = f"FOR EACH ROW WHEN ({_ENDS} AND NOT ({_RESCUED}) AND NOT ({but}))"
    with _refusing(f"FOR EACH STATEMENT WHEN ({_A_RETRY})" if retries else rows):
        yield


@contextmanager
def refusing_claims() -> Iterator[None]:
    """Within the block."""
    with _refusing("FOR EACH ROW WHEN (NEW.state = 'running' AND OLD.state = 'dispatched')"):
        yield


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    with owning() as owner:
        owner.exec_driver_sql(
            "CREATE FUNCTION ledger.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"
        )
        owner.exec_driver_sql(
            f"CREATE TRIGGER refuse BEFORE UPDATE ON ledger.jobs {what} EXECUTE FUNCTION ledger.refuse()"
        )
    try:
        yield
    finally:
        with owning() as owner:
            owner.exec_driver_sql("DROP FUNCTION ledger.refuse() CASCADE")


@contextmanager
def refusing_jobs(but: str, *, place: Place | None = None) -> Iterator[None]:
    """Within the block, at home unless a place is named. As by a constraint that rows have come to break: a job of
    which `but` does not hold cannot be changed, unless that makes it hold."""
    with owning(place) as owner:
        owner.execute(text(f"ALTER TABLE ledger.jobs ADD CONSTRAINT refused CHECK ({but}) NOT VALID"))
    try:
        yield
    finally:
        with owning(place) as owner:
            owner.execute(text("ALTER TABLE ledger.jobs DROP CONSTRAINT refused"))
