"""To import a module of ours has no effect: whoever imports it may go on to set what it is to find."""

import json
import os
import subprocess
import sys

from tests.support.project import PROJECT

IMPORT_ALL = """
import json, os, pkgutil, sys, threading, weakref
from importlib import import_module

before = dict(os.environ)
import docworker

PROGRAMS = {"__main__", "env"}
names = [
    one.name
    for one in pkgutil.walk_packages(docworker.__path__, "docworker.")
    if one.name.rpartition(".")[2] not in PROGRAMS
]
for name in names:
    import_module(name)

from celery import signals
from celery.utils.dispatch import Signal
from kombu.transport import TRANSPORT_ALIASES
from docworker.db.settings import settings

def called(signal):
    for _, receiver in signal.receivers or ():
        yield receiver() if isinstance(receiver, weakref.ReferenceType) else receiver

print(json.dumps({
    "modules": names,
    "settings read": settings.cache_info().misses,
    "signals": [
        name
        for name, signal in vars(signals).items()
        if isinstance(signal, Signal) and any(one.__module__.startswith("docworker") for one in called(signal))
    ],
    "transports": [name for name in TRANSPORT_ALIASES.values() if name.startswith("docworker")],
    "threads": threading.active_count() - 1,
    "environment": [*set(os.environ.items()) ^ set(before.items())],
}))
"""


def test_no_module_reads_a_setting_or_has_anybody_call_it_when_it_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        cwd=PROJECT,
        env={**os.environ, "DOCWORKER_MASTER_URL": "mysql://wrong"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert {"docworker.worker.app", "docworker.worker.cli.jobs.jobs", "docworker.jobs.kinds.fanout"} <= {
        *seen.pop("modules")
    }
    assert seen == {"settings read": 0, "signals": [], "transports": [], "threads": 0, "environment": []}
