"""A cluster besides home."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from docworker.worker.local.stack import LocalStack
from tests.support.stack import applied, fresh_database, isolated_settings, unique_name

EAST = "east"


def addresses_of(settings: Mapping[str, str], *, replicas: int = 0) -> dict[str, object]:
    """Of one cluster, as DOCWORKER_CLUSTERS has them, out of the settings of an installation of its own."""
    return {
        "master_url": settings["DOCWORKER_MASTER_URL"],
        "dispatcher_url": settings["DOCWORKER_DISPATCHER_URL"],
        "owner_url": settings["DOCWORKER_OWNER_URL"],
        "replica_urls": settings["DOCWORKER_REPLICA_URLS"].split()[:replicas],
    }


@contextmanager
def with_east(environment: Mapping[str, str], addresses: Mapping[str, object]) -> Iterator[None]:
    """These settings are in force, with a cluster called east."""
    with applied({**environment, "DOCWORKER_CLUSTERS": json.dumps({EAST: addresses})}):
        yield


@contextmanager
def east_of_a_database(
    stack: LocalStack, template: str, environment: Mapping[str, str], directory: Path, *, replicas: int = 0
) -> Iterator[None]:
    """East is a database of its own on home's servers."""
    with fresh_database(stack, unique_name(EAST), template=template) as name:
        there = isolated_settings(stack, name, directory)
        with with_east(environment, addresses_of(there, replicas=replicas)):
            yield
