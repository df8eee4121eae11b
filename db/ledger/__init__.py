"""The job ledger: the truth about every job, in the same transactions as the data the jobs change.

    queued -> dispatched -> running -> succeeded | failed | cancelled

Each module is one step of a job's life. The broker appears nowhere in here: a message only rings.
"""

from db.ledger.claim import Claim, Claimed, ClaimKey, claim, renew
from db.ledger.control import Filter, cancel, count_by_state, find, get, pause, pauses, resume, retry_failed
from db.ledger.dispatch import (
    JUST_SENT_SECONDS,
    Lane,
    Load,
    Message,
    count_live,
    dispatch,
    lanes,
    load,
    may_plan,
    oldest_due_seconds,
    plan,
    requeue_overdue,
    undispatch,
)
from db.ledger.enqueue import Enqueued, enqueue_statement
from db.ledger.finish import (
    Failure,
    charge,
    fail,
    finished_as,
    give_back,
    lock_owned,
    record_cursor,
    retry,
    succeed,
)
from db.ledger.rescue import Rescued, begin_judging, master_seconds, rescue_expired
from db.ledger.values import as_json

__all__ = [
    "JUST_SENT_SECONDS",
    "Claim",
    "ClaimKey",
    "Claimed",
    "Enqueued",
    "Failure",
    "Filter",
    "Lane",
    "Load",
    "Message",
    "Rescued",
    "as_json",
    "begin_judging",
    "cancel",
    "charge",
    "claim",
    "count_by_state",
    "count_live",
    "dispatch",
    "enqueue_statement",
    "fail",
    "find",
    "finished_as",
    "get",
    "give_back",
    "lanes",
    "load",
    "lock_owned",
    "master_seconds",
    "may_plan",
    "oldest_due_seconds",
    "pause",
    "pauses",
    "plan",
    "record_cursor",
    "renew",
    "requeue_overdue",
    "rescue_expired",
    "resume",
    "retry",
    "retry_failed",
    "succeed",
    "undispatch",
]
