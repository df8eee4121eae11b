"""A session that is open for too long is named while it is open, with replicas or without."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from docworker.db.sessions import writing
from docworker.worker.local.stack import LocalStack
from tests.support.replicas import OpenDatabase
from tests.support.tenants import entered
from tests.support.waiting import eventually

HERE = Path(__file__).name


@pytest.mark.parametrize("overrides", [{}, {"replica_urls": ""}], ids=["with replicas", "without"])
def test_a_session_open_for_long_is_named_while_it_is_open(
    servers: LocalStack, open_on: OpenDatabase, overrides: dict[str, str]
) -> None:
    open_on(servers, long_session=0.1, **overrides)
    with capture_logs() as logs:

        def ours() -> list[MutableMapping[str, Any]]:
            return [log for log in logs if log["event"] == "session.long" and HERE in log["opened_at"]]

        with writing(entered()):
            (entry,) = eventually(ours)
            assert entry["open_seconds"] >= 0.1
        assert ours() == [entry], "once, though it was still open at the next look and when it was closed"
