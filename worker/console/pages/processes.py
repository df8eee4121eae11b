"""`PAGE`: which processes live and what they run, the servers with their replicas, connections, sizes and snapshots."""

from collections.abc import Mapping
from typing import Any

from docworker.db.tenants.installation import InstallationWatch
from docworker.worker.console.page import Page
from docworker.worker.console.view import View

_MOST = 200
_watch = InstallationWatch()


def _show(view: View) -> Mapping[str, Any]:
    found = _watch.look()
    running = [job for jobs in found.running.values() for job in jobs]
    return {
        "found": found,
        "processes": found.processes[:_MOST],
        "left_out": max(0, len(found.processes) - _MOST),
        "slugs": view.slugs({one.organization_id for one in running}),
    }


PAGE = Page("processes", "/processes", "Processes and servers", _show, "Processes", is_renewed=True)
