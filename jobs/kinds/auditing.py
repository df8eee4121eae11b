"""`audit_invariants`: once a day it looks whether everything holds that must hold of documents, jobs and their tables.

What it finds is in the log, in the job's result, and by that in the dispatcher's metrics (`worker.dispatcher.gauges`).
"""

import time

from docworker.db.invariants.audit import Audit
from docworker.jobs.task import Attempt, job

TURN_SECONDS = 60.0
"""So long a turn occupies a worker's process; then other jobs have theirs."""
PAUSE_SECONDS = 1.0


@job(priority=9, max_running=1, max_attempts=5, soft_limit_seconds=540, hard_limit_seconds=600)
def audit_invariants(attempt: Attempt) -> None:
    """Look at every invariant of every organization, turn by turn, from where the turn before stopped."""
    audit = Audit(attempt.checkpointed)
    ends_at = time.monotonic() + TURN_SECONDS
    if audit.run(lambda: time.monotonic() > ends_at or attempt.should_stop):
        attempt.finish(lambda _: audit.done.result)
        return
    attempt.checkpoint(audit.state)
    if not attempt.saw_stop:
        attempt.snooze(PAUSE_SECONDS)
