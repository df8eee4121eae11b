"""What wakes an operator is told by processes that have nothing to do."""

from docworker.db.settings import settings
from docworker.worker.local.servers.server import free_port
from tests.support.metrics import samples
from tests.support.processes import Processes
from tests.support.tenants import Tenant
from tests.support.waiting import eventually


def test_an_idle_worker_tells_that_a_replica_is_dead(tenant: Tenant, processes: Processes) -> None:
    dead = f"postgresql://docworker_worker@127.0.0.1:{free_port()}/docworker"
    replicas = " ".join([*settings().replica_urls, dead])
    worker = processes.start("worker", environment={"DOCWORKER_REPLICA_URLS": replicas})
    worker.wait_for_log("worker.ready", within_seconds=60)

    expected = [1.0] * len(settings().replica_urls) + [0.0]

    def told() -> None:
        healthy = {labels: value for (name, labels), value in samples().items() if name == "docworker_replica_healthy"}
        assert [value for _, value in sorted(healthy.items(), key=lambda one: dict(one[0])["role"])] == expected

    eventually(told, within_seconds=60, what="the replicas are told of")
