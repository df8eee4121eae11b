"""Nobody who starts trusts the first address: after a failover the old master may be back there, taking writes."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from docworker.db.cluster import close_database, open_database
from docworker.db.cluster.discovery import MasterDiscovery
from docworker.db.cluster.engines import owner_engine
from docworker.db.cluster.servers import Timelines
from docworker.db.errors import ConfigurationError, NotFoundError, StaleMasterError
from docworker.db.faults import Fault, classify
from docworker.db.models import Organization
from docworker.db.sessions import aio, all_jobs_session, position_after, reading, writing
from docworker.db.settings import HOME, settings
from docworker.worker.dispatcher.listener import Listener
from docworker.worker.local.servers.postgres import PostgresServer
from docworker.worker.local.stack import LocalStack
from tests.support.faults import environment_of_any_master, failover, freeze, promote, thaw
from tests.support.stack import OwnStack, applied, temporary_stack
from tests.support.tenants import entered
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(120)


class Returned:
    """A stack whose old master is back, writable on its old timeline, first in every address."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack
        self.environment = environment_of_any_master(stack)
        self.old: PostgresServer = failover(stack)
        self.old.start()
        assert not self.old.is_in_recovery()
        environment = environment_of_any_master(stack)
        old, new = (f"127.0.0.1:{server.port}" for server in (self.old, stack.master))
        for name in ("OWNER", "MASTER", "DISPATCHER"):
            address = environment[f"DOCWORKER_{name}_URL"]
            assert new in address
            head, _, tail = address.partition("@")
            self.environment[f"DOCWORKER_{name}_URL"] = f"{head}@{old},{new}/{tail.partition('/')[2]}"
        self.environment["DOCWORKER_REPLICA_URLS"] = ""

    def forget(self) -> None:
        """What this process has seen is forgotten, as if it had just started."""
        from docworker.db.cluster import servers

        for place in range(len(servers._SHARED)):
            servers._SHARED[place] = 0


@pytest.fixture(scope="module")
def returned() -> Iterator[Returned]:
    with temporary_stack(replicas=2) as stack:
        with applied(stack.environment()):
            from docworker.migrations.runner import upgrade

            upgrade()
        stack.wait_for_replicas()
        yield Returned(stack)


@pytest.fixture
def afresh(returned: Returned) -> Iterator[Returned]:
    """The settings name the old master first, and this process knows nothing."""
    returned.forget()
    with applied(returned.environment):
        yield returned
        close_database()


def timeline_of(session: Any) -> str:
    found: str = session.scalar(text("SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"))
    return found


def write() -> str:
    with writing(entered()) as session:
        session.add(Organization(id=session.organization_id, slug=str(session.organization_id), name="x"))
        return timeline_of(session)


def unless_stale(ask: Callable[[], str]) -> str | None:
    """What `ask` says, or None where it met the old master: refused there, or at the new one not knowing what was
    written at the old one a moment ago."""
    try:
        return ask()
    except (StaleMasterError, NotFoundError):
        return None


def oversee() -> str:
    with all_jobs_session() as session:
        return timeline_of(session)


def read_on_master() -> str:
    with reading(entered(), source="master") as session:
        return timeline_of(session)


def write_async() -> str:
    async def test() -> str:
        await aio.open_database(settings())
        try:
            async with aio.writing(entered()) as session:
                return await session.run_sync(timeline_of)
        finally:
            await aio.close_database()

    return asyncio.run(test())


def migrate() -> str:
    with owner_engine(settings()).connect() as connection:
        return timeline_of(connection)


def ask_position() -> str:
    return f"{position_after(open_database(settings()).cluster(HOME)).timeline:08X}"


STARTING: dict[str, Callable[[], str]] = {
    "worker": write,
    "dispatcher-and-beat": oversee,
    "reader": read_on_master,
    "async-producer": write_async,
    "migrate": migrate,
    "position": ask_position,
}


@pytest.mark.parametrize("start", STARTING.values(), ids=STARTING.keys())
def test_who_has_seen_nothing_goes_to_the_new_master(afresh: Returned, start: Callable[[], str]) -> None:
    open_database(settings(), application_name="tests")
    assert start() == "00000002"


def test_listener_listens_at_the_new_master(afresh: Returned) -> None:
    listener = Listener(settings())
    try:
        assert listener.open()
        afresh.stack.master.execute("NOTIFY docworker_jobs", database="docworker")
        assert listener.wait(10)
    finally:
        listener.close()


def test_replica_tells_the_timeline_where_the_address_names_the_old_master_alone(afresh: Returned) -> None:
    stack = afresh.stack
    replica_urls = stack.environment()["DOCWORKER_REPLICA_URLS"]
    old = afresh.environment["DOCWORKER_MASTER_URL"].replace(f",127.0.0.1:{stack.master.port}", "")
    with applied(afresh.environment | {"DOCWORKER_MASTER_URL": old, "DOCWORKER_REPLICA_URLS": replica_urls}):
        open_database(settings(), application_name="tests")
        with pytest.raises(StaleMasterError, match="on timeline 1, but timeline 2 was seen") as caught:
            write()
        assert classify(caught.value) is Fault.DEMOTED


def test_one_who_heard_of_the_new_timeline_refuses_the_old_master_alone(afresh: Returned) -> None:
    """From a message, or from the processes it was forked with."""
    old = afresh.environment["DOCWORKER_MASTER_URL"].replace(f",127.0.0.1:{afresh.stack.master.port}", "")
    with applied(afresh.environment | {"DOCWORKER_MASTER_URL": old}):
        database = open_database(settings(), application_name="tests")
        system = afresh.old.execute("SELECT system_identifier FROM pg_control_system()")[0][0]
        database.cluster(HOME).timelines.hear(f"{system}/2")
        with pytest.raises(StaleMasterError, match="timeline 1, but timeline 2 was seen"):
            write()


def test_frozen_new_master_is_not_taken_for_absent(afresh: Returned) -> None:
    """Once heard of, the old one is not taken instead; and when the new one goes on, so do we."""
    open_database(settings(), application_name="tests")
    assert write() == "00000002"
    close_database()
    freeze(afresh.stack.master)
    try:
        with applied(afresh.environment | {"DOCWORKER_CONNECT_TIMEOUT": "2"}):
            open_database(settings(), application_name="tests")
            with pytest.raises((StaleMasterError, DBAPIError)):
                write()
    finally:
        thaw(afresh.stack.master)
    assert eventually(lambda: unless_stale(write)) == "00000002"


def test_one_that_is_connected_to_the_old_master_learns_of_the_new_one(
    own_stack: OwnStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old master never went away; nothing breaks, and there are no replicas in the settings to tell."""
    monkeypatch.setattr("docworker.db.cluster.discovery.LOOK_AGAIN_SECONDS", 0.2)
    monkeypatch.setattr("docworker.worker.dispatcher.listener.LOOK_AGAIN_SECONDS", 0.2)
    stack = own_stack(replicas=1, migrated=True)
    environment = environment_of_any_master(stack) | {"DOCWORKER_REPLICA_URLS": ""}
    with applied(environment):
        open_database(settings(), application_name="tests")
        listener = Listener(settings())
        try:
            assert listener.open()
            assert {write(), oversee()} == {"00000001"}
            promote(stack.replicas[0])
            eventually(lambda: unless_stale(write) == "00000002")
            eventually(lambda: unless_stale(oversee) == "00000002")

            def heard_at_the_new_master() -> bool:
                stack.replicas[0].execute("NOTIFY docworker_jobs", database="docworker")
                listener.wait(0.1)
                query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'docworker listener'"
                return bool(stack.replicas[0].execute(query)[0][0])

            eventually(heard_at_the_new_master)
        finally:
            listener.close()
            close_database()


def test_servers_of_two_systems_are_refused(servers: LocalStack, own_stack: OwnStack) -> None:
    other = own_stack(replicas=0)
    survey = MasterDiscovery(arguments_of(servers.master), [arguments_of(other.master)], Timelines(), role="master")
    with pytest.raises(ConfigurationError, match="are not of one system") as caught:
        survey.master()
    assert classify(caught.value) is Fault.OUR_BUG


def arguments_of(server: PostgresServer) -> dict[str, Any]:
    with server.connect() as connection:
        return {**connection.info.get_parameters(), "password": connection.info.password, "connect_timeout": 5}


def test_silent_server_delays_the_first_connection_only(returned: Returned) -> None:
    """What is silent is not waited for again each time."""
    returned.forget()
    with applied(returned.environment):
        open_database(settings(), application_name="tests")
        freeze(returned.old)
        try:
            assert write() == "00000002"
            close_database()
            open_database(settings(), application_name="tests")
            survey = MasterDiscovery(
                {
                    **arguments_of(returned.stack.master),
                    "host": "127.0.0.1,127.0.0.1",
                    "port": f"{returned.old.port},{returned.stack.master.port}",
                },
                [],
                Timelines(),
                role="master",
            )
            assert int(survey.master()["port"]) == returned.stack.master.port
            started = time.monotonic()
            survey.take()
            assert time.monotonic() - started < 1
        finally:
            thaw(returned.old)
            close_database()
