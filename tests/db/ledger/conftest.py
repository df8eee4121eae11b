"""An organization in an empty ledger."""

import pytest
from sqlalchemy import text

from docworker.db.cluster import Database
from docworker.db.sessions import all_jobs_session
from tests.support.ledger import LedgerSteps


@pytest.fixture
def steps(opened: Database) -> LedgerSteps:
    """The only organization in the ledger, as the test begins."""
    with all_jobs_session() as session:
        session.execute(text("DELETE FROM ledger.jobs"))
        session.execute(text("DELETE FROM ledger.pauses"))
    return LedgerSteps()
