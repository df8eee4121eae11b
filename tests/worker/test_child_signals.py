"""Processes that jobs fork share no connection with those that run them."""

import os
import subprocess
import sys

import pytest

from tests.support.project import PROJECT

FORKED = """
import os, sys
from docworker.db.cluster import database, open_database
from docworker.db.errors import ConfigurationError
from docworker.worker.child_signals import prepare_forks

prepare_forks()
opened = open_database()
if os.fork() == 0:
    try:
        database()
    except ConfigurationError:
        os._exit(7)
    os._exit(0)
assert database() is opened
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.usefixtures("environment")
def test_a_forked_process_has_no_database_and_the_one_that_forked_it_keeps_its_own() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FORKED],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 7, ended.stderr
