"""Faults that a real Redis or Valkey gets into and answers with errors; each is one as long as its block lasts."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from urllib.parse import urlsplit

import pytest
import redis

from docworker.worker.local.servers import valkey
from docworker.worker.local.servers.valkey import ValkeyServer
from tests.support.waiting import eventually

BrokerFault = Callable[[ValkeyServer], AbstractContextManager[None]]

_FILLER = "filler"


@contextmanager
def read_only(broker: ValkeyServer) -> Iterator[None]:
    """READONLY: it has become the replica of another one."""
    with broker.connect() as client:
        client.replicaof("127.0.0.1", 1)
        try:
            yield
        finally:
            client.replicaof("NO", "ONE")


@contextmanager
def failed_save(broker: ValkeyServer) -> Iterator[None]:
    """MISCONF: it cannot save to its disk."""
    with broker.connect() as client:

        def save(*, status: str) -> None:
            client.bgsave()
            eventually(
                lambda: client.info("persistence")["rdb_last_bgsave_status"] == status, what=f"saving is {status}"
            )

        client.config_set("save", "3600 1")
        broker.data.chmod(0o500)
        try:
            save(status="err")
            yield
        finally:
            broker.data.chmod(0o700)
            save(status="ok")
            client.config_set("save", "")


@contextmanager
def loading(broker: ValkeyServer) -> Iterator[None]:
    """LOADING: it starts anew and reads its data."""
    with broker.connect() as client, pytest.MonkeyPatch.context() as patch:
        client.eval(f"for i = 1, 400000 do redis.call('RPUSH', '{_FILLER}', i) end", 0)
        broker.kill()
        patch.setattr(valkey, "SETTINGS", {**valkey.SETTINGS, "key-load-delay": "20"})
        broker.begin_start()
        try:
            eventually(lambda: _is_loading(client), what="the broker loads")
            yield
        finally:
            assert _is_loading(client), "the data is to last longer than the test"
            client.config_set("key-load-delay", 0)
            broker.finish_start()
            client.delete(_FILLER)


def _is_loading(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.BusyLoadingError:
        return True
    except redis.ConnectionError:
        pass
    return False


@contextmanager
def busy_script(broker: ValkeyServer) -> Iterator[None]:
    """BUSY: somebody's script does not end."""

    def run() -> None:
        with broker.connect() as client, suppress(redis.RedisError):
            client.eval("while true do end", 0)

    with broker.connect() as client:
        client.config_set("busy-reply-threshold", 50)
        script = threading.Thread(target=run)
        script.start()
        try:
            eventually(lambda: _is_busy(client), what="the script runs")
            yield
        finally:
            client.script_kill()
            script.join()


def _is_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


@contextmanager
def another_password(broker: ValkeyServer) -> Iterator[None]:
    """WRONGPASS: its password was changed, and connections made with the old one have ended."""
    with _password_set(broker, "another") as client:
        _end_others(client)
        yield


@contextmanager
def without_password(broker: ValkeyServer) -> Iterator[None]:
    """No fault, but what `new_password` begins with."""
    with _password_set(broker, ""):
        yield


@contextmanager
def _password_set(broker: ValkeyServer, password: str) -> Iterator[redis.Redis]:
    with broker.connect() as client:
        client.config_set("requirepass", password)
        try:
            yield client
        finally:
            client.config_set("requirepass", urlsplit(broker.url).password or "")


@contextmanager
def new_password(broker: ValkeyServer) -> Iterator[None]:
    """NOAUTH: a password was set where there was none."""
    with redis.Redis(host="127.0.0.1", port=broker.port) as client:
        client.config_set("requirepass", "new")
        _end_others(client)
        try:
            yield
        finally:
            client.config_set("requirepass", "")


def _end_others(client: redis.Redis) -> None:
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)


@contextmanager
def forbidden(broker: ValkeyServer, *commands: str) -> Iterator[None]:
    """NOPERM: it lets nobody do this."""
    with broker.connect() as client:
        client.acl_setuser("default", enabled=True, commands=[f"-{one}" for one in commands])
        try:
            yield
        finally:
            client.acl_setuser("default", enabled=True, categories=["+@all"])


@contextmanager
def full_memory(broker: ValkeyServer) -> Iterator[None]:
    """OOM: it may use no more memory, and throws nothing away."""
    with broker.connect() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


BROKER_FAULTS: dict[str, BrokerFault] = {
    "READONLY": read_only,
    "MISCONF": failed_save,
    "LOADING": loading,
    "BUSY": busy_script,
    "WRONGPASS": another_password,
    "NOPERM": lambda broker: forbidden(broker, "brpop", "lpush", "set"),
    "OOM": full_memory,
}
"""By what the broker answers, to clients that know its password."""
