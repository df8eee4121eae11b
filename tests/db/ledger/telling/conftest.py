"""Jobs that have failed."""

from collections.abc import Callable
from uuid import UUID

import pytest

from docworker.db import ledger
from docworker.db.sessions import writing
from tests.support.ledger import LedgerSteps

Fail = Callable[..., list[UUID]]


@pytest.fixture
def fail(steps: LedgerSteps) -> Fail:
    """Makes so many jobs of a kind and has them fail for a reason."""

    def failed(reason: str, count: int = 1, *, kind: str = "test_kind", of: LedgerSteps = steps) -> list[UUID]:
        of.kind = kind
        claimed = of.run(count, kind=kind)
        with writing(of.organization_id) as session:
            for one in claimed:
                assert ledger.fail(session, one, ledger.Failure(reason, f"why {one.id}"))
        return [one.id for one in claimed]

    return failed
