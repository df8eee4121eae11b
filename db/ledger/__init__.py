"""The job ledger: the truth about every job, in the same transactions as the data the jobs change.

    (waiting ->) queued -> dispatched -> running -> succeeded | failed | cancelled

Each module is one step of a job's life; the way to the broker is a room of its own, and even there a message only
rings.
"""

from docworker.db.ledger.claim import Claim, Claimed, ClaimKey, claim, hand_back, prolong, renew, undispatched
from docworker.db.ledger.control import (
    CANCEL,
    RETRY,
    Change,
    Filter,
    Listed,
    behind_job,
    by_organization,
    cancel,
    change_keys,
    count_by_state,
    find,
    get,
    let_pass,
    next_keys,
    organizations_of,
    pause,
    pauses,
    resume,
    retry_failed,
)
from docworker.db.ledger.counts import Oldest, count_live, last_succeeded, live, oldest_due
from docworker.db.ledger.dispatching.buckets import LimitsInForce, Permit
from docworker.db.ledger.dispatching.dispatch import Dispatched, dispatch_due, first_wanted, plan, planning
from docworker.db.ledger.dispatching.lanes import Ahead, WantedLanes, arrivals
from docworker.db.ledger.dispatching.limiting import Book, Bucket, Counts, Holding, Rule
from docworker.db.ledger.dispatching.planning import Hold, Lane, LaneKey, Limits, Load, Size
from docworker.db.ledger.dispatching.requeue import (
    find_refused,
    is_refused,
    promote,
    requeue_held_up,
    requeue_overdue,
    undispatch,
)
from docworker.db.ledger.dispatching.shortcuts import Floor, Shortcuts
from docworker.db.ledger.dispatching.turns import Turns, Walk
from docworker.db.ledger.dispatching.under_way import JUST_SENT_SECONDS, load, load_call, loaded
from docworker.db.ledger.enqueue import insert_jobs
from docworker.db.ledger.finish import (
    AttemptEnd,
    Failure,
    charge,
    fail,
    finished_as,
    give_back,
    given_back_too_often,
    lock_owned,
    record_cursor,
    retry,
    succeed,
)
from docworker.db.ledger.limits import find_limits, remove_limit, set_limit
from docworker.db.ledger.message import Message, Part
from docworker.db.ledger.rescue import Rescued, begin_judging, check_room, master_seconds, rescue_expired
from docworker.db.ledger.single import (
    Wanted,
    claim_of,
    claim_one,
    claimed_as,
    lock_of,
    succeed_and_claim,
    succeed_one,
    succeed_with,
)
from docworker.db.ledger.telling.story import AttemptTold, Story, progress_of, snooze, tell, told_of
from docworker.db.ledger.values import as_json
from docworker.db.ledger.waiting.gates import Awaited, AwaitedJob, awaited, awaited_jobs
from docworker.db.ledger.waiting.order import admit, release
from docworker.db.ledger.waiting.rates import Rate, rate_of
from docworker.db.ledger.waiting.trees import cancel_tree, retry_tree

__all__ = [
    "CANCEL",
    "JUST_SENT_SECONDS",
    "RETRY",
    "Ahead",
    "AttemptEnd",
    "AttemptTold",
    "Awaited",
    "AwaitedJob",
    "Book",
    "Bucket",
    "Change",
    "Claim",
    "ClaimKey",
    "Claimed",
    "Counts",
    "Dispatched",
    "Failure",
    "Filter",
    "Floor",
    "Hold",
    "Holding",
    "Lane",
    "LaneKey",
    "Limits",
    "LimitsInForce",
    "Listed",
    "Load",
    "Message",
    "Oldest",
    "Part",
    "Permit",
    "Rate",
    "Rescued",
    "Rule",
    "Shortcuts",
    "Size",
    "Story",
    "Turns",
    "Walk",
    "Wanted",
    "WantedLanes",
    "admit",
    "arrivals",
    "as_json",
    "awaited",
    "awaited_jobs",
    "begin_judging",
    "behind_job",
    "by_organization",
    "cancel",
    "cancel_tree",
    "change_keys",
    "charge",
    "check_room",
    "claim",
    "claim_of",
    "claim_one",
    "claimed_as",
    "count_by_state",
    "count_live",
    "dispatch_due",
    "fail",
    "find",
    "find_limits",
    "find_refused",
    "finished_as",
    "first_wanted",
    "get",
    "give_back",
    "given_back_too_often",
    "hand_back",
    "insert_jobs",
    "is_refused",
    "last_succeeded",
    "let_pass",
    "live",
    "load",
    "load_call",
    "loaded",
    "lock_of",
    "lock_owned",
    "master_seconds",
    "next_keys",
    "oldest_due",
    "organizations_of",
    "pause",
    "pauses",
    "plan",
    "planning",
    "progress_of",
    "prolong",
    "promote",
    "rate_of",
    "record_cursor",
    "release",
    "remove_limit",
    "renew",
    "requeue_held_up",
    "requeue_overdue",
    "rescue_expired",
    "resume",
    "retry",
    "retry_failed",
    "retry_tree",
    "set_limit",
    "snooze",
    "succeed",
    "succeed_and_claim",
    "succeed_one",
    "succeed_with",
    "tell",
    "told_of",
    "undispatch",
    "undispatched",
]
