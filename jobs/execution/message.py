"""`run_message`: claims the jobs of a message, runs them with no connection held, and hands back what it has not begun.

A message names jobs of one kind, of one or several organizations, in parts. A kind that takes batches gets each part as
a batch; other jobs run one by one. What is claimed is what starts now: the jobs behind it stay anybody's, and cost
nothing when this process dies.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import structlog
from billiard.exceptions import SoftTimeLimitExceeded

from docworker.db import catalog, ledger
from docworker.db.cluster import database
from docworker.db.errors import MovingOrganizationError, NotFoundError, UnavailableOrganizationError
from docworker.db.faults import Fault, classify, sqlstate_of
from docworker.db.ledger import Claim, Part
from docworker.db.retrying import again, may_pass
from docworker.db.sessions import aio, reading, settling, writing
from docworker.db.sessions.opening import placed
from docworker.jobs import metrics, tracing
from docworker.jobs.execution.attempts import Attempt, Batch, Successors
from docworker.jobs.execution.coroutines import AsyncAttempt, close_event_loop, event_loop
from docworker.jobs.execution.fork_guard import no_way_out_of_a_fork
from docworker.jobs.execution.leases import leases, stopping, worker_name
from docworker.jobs.execution.outcomes import end, set_unaccepted_apart
from docworker.jobs.kind import Kind

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.2
"""How often running coroutines are looked at, whether they are still to run, and ends that others wait to write."""
_LATE_SECONDS = 0.1
"""What was claimed in time may begin so much later: the end of the job before it takes a moment."""
_HAND_BACK_SECONDS = 10.0
"""To begin handing back to one more organization: each may be locked."""
_NOT_SERVED = (UnavailableOrganizationError, NotFoundError)
"""An organization's jobs are not to be run now; those of others in the message are."""


def run_message(kind: Kind, parts: Sequence[Part], message_id: UUID | None) -> int:
    """Run the jobs that a message names, and settle each; returns how many were claimed. What it does not come to, at a
    stop or because it takes too long, is handed back to the queue."""
    metrics.MESSAGES.labels(kind.name).inc()
    started = time.monotonic()
    _await_ends()
    catalog.learn([part.organization_id for part in parts], database())
    delivery = _delivery_of(kind)(kind, parts, message_id)
    delivery.run()
    if delivery.claimed:
        seconds = round(time.monotonic() - started, 3)
        log.info("message.done", kind=kind.name, jobs=delivery.claimed, seconds=seconds)
    else:
        log.debug("message.stale", kind=kind.name, jobs=sum(len(part.job_ids) for part in parts))
    return delivery.claimed


def _await_ends() -> None:
    """In a pool of threads, those of others: a message that came back at once would come again at once."""
    while leases().held_up and not stopping():
        time.sleep(_LOOK_SECONDS)


class _Delivery:
    """A message in the hands of this process."""

    def __init__(
        self, kind: Kind, parts: Sequence[Part], message_id: UUID | None, *, begins_for_seconds: float
    ) -> None:
        self.claimed = 0
        self._kind = kind
        self._message_id = message_id
        self._line = deque(parts)
        self._begins_for_seconds = begins_for_seconds
        self._begin_until = math.inf
        self._is_first = True

    @property
    def _begins(self) -> bool:
        """Whether to begin the next part: the first one in any case; none while an end here cannot be written."""
        if not self._line or leases().held_up:
            return False
        return self._is_first or (not stopping() and time.monotonic() < self._begin_until)

    def _claim_next(self) -> Claim | None:
        """The first of the parts in line of which something could be claimed."""
        while self._begins:
            part = self._line.popleft()
            try:
                claim = self._claim(part)
                if claim.position is None and self._is_first and _may_be_elsewhere(self._kind, part):
                    claim = self._claim(part)
            except Exception as error:
                if not self._passes_over(part, error):
                    raise
                claim = Claim([], None)
            if self._is_first:
                self._is_first, self._begin_until = False, time.monotonic() + self._begins_for_seconds
            if claim.position is not None:
                return claim
        return None

    def _passes_over(self, part: Part, error: Exception) -> bool:
        """Not where it is of all organizations. Nobody waits for one of them twice, nor to hand back."""
        is_refused = sqlstate_of(error) is not None and ledger.is_refused(error)
        if is_refused and len(part.job_ids) > 1:
            self._line.extendleft(reversed(_single_parts([part])))
            return True
        if not is_refused and not isinstance(error, _NOT_SERVED) and classify(error) is not Fault.SERIALIZATION:
            self._line.appendleft(part)
            return False
        passed = part if is_refused else self._with_the_rest_of_it(part)
        log.info("jobs.passed_over", jobs=len(passed.job_ids), error=str(error))
        # Those of one that moves, or is locked, are overdue soon. Of who is suspended the dispatcher has been told.
        if isinstance(error, _NOT_SERVED) and not isinstance(error, MovingOrganizationError):
            self._hand_back(passed)
        return True

    def _claim(self, part: Part) -> Claim:
        with writing(part.organization_id) as session:
            return ledger.claim(
                session,
                self._kind.name,
                part.job_ids,
                message_id=self._message_id,
                worker=worker_name(),
                lease_seconds=database().settings.lease,
                max_run_seconds=self._max_run_seconds,
            )

    @property
    def _max_run_seconds(self) -> float:
        return self._kind.hard_limit_seconds + self._kind.turn_seconds

    def _work(self, batch: Batch) -> None:
        """Run claimed jobs; whatever happens, each is settled in the end."""
        claimed = [attempt.claimed for attempt in batch.attempts]
        self.claimed += len(claimed)
        metrics.count_claimed(self._kind.name, [one.queued_seconds for one in claimed])
        with (
            leases().holding(claimed),
            metrics.running(self._kind.name, len(claimed)),
            tracing.attempts_traced(self._kind.name, batch.attempts),
        ):
            _run(batch)

    def _batch_of(self, claim: Claim, *, successors: Successors | None = None) -> Batch:
        assert claim.position is not None
        attempts = [Attempt(self._kind, one, claim.position, successors=successors) for one in claim.jobs]
        return Batch(self._kind, attempts, claim.position, begin_until=self._begin_until)

    def _hand_back_the_rest(self) -> None:
        """Nobody has begun these. What does not go back, or not in time, is dispatched again when it is overdue."""
        until = time.monotonic() + _HAND_BACK_SECONDS
        while self._line and time.monotonic() < until:
            self._hand_back(self._with_the_rest_of_it(self._line.popleft()))

    def _with_the_rest_of_it(self, part: Part) -> Part:
        """A part with all others in line of its organization, which are taken out of it."""
        mine = [one for one in self._line if one.organization_id == part.organization_id]
        self._line = deque(one for one in self._line if one.organization_id != part.organization_id)
        return Part(part.organization_id, (*part.job_ids, *(job_id for one in mine for job_id in one.job_ids)))

    def _hand_back(self, part: Part) -> None:
        try:
            with settling(part.organization_id) as session:
                ledger.hand_back(session, part.job_ids, message_id=self._message_id)
        except Exception as error:  # noqa: BLE001
            log.warning("jobs.not_handed_back", jobs=len(part.job_ids), error=str(error))


class _Batches(_Delivery):
    def __init__(self, kind: Kind, parts: Sequence[Part], message_id: UUID | None) -> None:
        super().__init__(kind, parts, message_id, begins_for_seconds=kind.soft_limit_seconds / 2)

    def run(self) -> None:
        try:
            while (claim := self._claim_next()) is not None:
                self._work(self._batch_of(claim))
        finally:
            self._hand_back_the_rest()


class _Singles(_Delivery):
    """The next one is claimed in the transaction that ends the one before, where that is its organization's too or
    writes nothing but the end."""

    def __init__(self, kind: Kind, parts: Sequence[Part], message_id: UUID | None) -> None:
        super().__init__(kind, _single_parts(parts), message_id, begins_for_seconds=kind.turn_seconds)
        self._following: Claim | None = None
        self._in_doubt: list[ledger.Wanted] = []

    def run(self) -> None:
        try:
            while (claim := self._take_following() or self._claim_next()) is not None:
                self._work(self._batch_of(claim, successors=self))
        finally:
            self._give_back_following()
            self._hand_back_the_rest()

    def wanted(self, organization_id: UUID | None) -> ledger.Wanted | None:
        if self._following is not None or not self._begins:
            return None
        part = self._line[0]
        return self._wanted(part) if organization_id in (None, part.organization_id) else None

    def took(self, claim: Claim) -> None:
        if claim.jobs:
            self._line.popleft()
            self._following = claim
            leases().hold(claim.jobs)  # the function of the one before may go on after its end

    def lost(self, wanted: ledger.Wanted) -> None:
        self._in_doubt.append(wanted)

    def _take_following(self) -> Claim | None:
        self._find_out()
        if stopping() or time.monotonic() > self._begin_until + _LATE_SECONDS:
            self._give_back_following()
        following, self._following = self._following, None
        return following

    def _find_out(self) -> None:
        """A claim that was committed although the answer was lost has not begun, and would be charged."""
        while self._in_doubt:
            wanted = self._in_doubt.pop()
            with suppress(*_NOT_SERVED):
                claim = again(seconds=database().settings.lease, retry_on=_may_be_answered)(
                    lambda: ledger.claimed_as(wanted)  # noqa: B023 - called at once
                )
                if self._following is None:
                    self.took(claim)

    def _give_back_following(self) -> None:
        following, self._following = self._following, None
        if following is not None:
            batch = self._batch_of(following)
            for attempt in batch.attempts:
                attempt.stop()
            end(batch)

    def _claim(self, part: Part) -> Claim:
        claim = ledger.claim_one(self._wanted(part))
        return claim if claim.jobs else super()._claim(part)  # which says why, where a job cannot be run

    def _wanted(self, part: Part) -> ledger.Wanted:
        (job_id,) = part.job_ids
        return ledger.Wanted(
            organization_id=part.organization_id,
            id=job_id,
            kind=self._kind.name,
            message_id=self._message_id,
            worker=worker_name(),
            lease_seconds=database().settings.lease,
            max_run_seconds=self._max_run_seconds,
        )


class _Concurrent(_Delivery):
    """Jobs of a coroutine kind: as many at a time as it says, each claimed when it starts."""

    def __init__(self, kind: Kind, parts: Sequence[Part], message_id: UUID | None) -> None:
        super().__init__(kind, _single_parts(parts), message_id, begins_for_seconds=kind.turn_seconds)
        self._open: dict[asyncio.Task[BaseException | None], Batch] = {}

    def run(self) -> None:
        running = event_loop().start(self._run_all())
        try:
            running.result()
        except BaseException as error:  # the soft limit of all: one of them blocks the loop, or takes no cancellation
            running.cancel()
            for batch in list(self._open.values()):
                end(batch, error)
            close_event_loop()
            if issubclass(type(error), KeyboardInterrupt):
                raise
        finally:
            self._hand_back_the_rest()

    async def _run_all(self) -> None:
        places = min(self._kind.concurrency or 1, len(self._line))
        watch = asyncio.create_task(self._cancel_lost())
        try:
            ends = await asyncio.gather(*(self._take_turns() for _ in range(places)), return_exceptions=True)
        finally:
            for task in (watch, *self._open):
                task.cancel()
        for error in ends:
            if error is not None:
                raise error

    async def _take_turns(self) -> None:
        while (claim := await aio.run(self._claim_next)) is not None:
            await self._work_on(self._batch_of(claim))

    async def _work_on(self, batch: Batch) -> None:
        """As `_work`. In a task of its own, so that it can be cancelled for itself."""
        claimed = [attempt.claimed for attempt in batch.attempts]
        self.claimed += len(claimed)
        metrics.count_claimed(self._kind.name, [one.queued_seconds for one in claimed])
        with (
            leases().holding(claimed),
            metrics.running(self._kind.name, len(claimed)),
            tracing.attempts_traced(self._kind.name, batch.attempts),
        ):
            await asyncio.to_thread(set_unaccepted_apart, batch)
            if not batch.attempts:
                return
            task = asyncio.create_task(self._outcome_of(batch))
            self._open[task] = batch
            try:
                await asyncio.wait([task])
                error = asyncio.CancelledError() if task.cancelled() else task.result()
                if error is not None or batch.unsettled:
                    await asyncio.to_thread(end, batch, error)
            finally:
                del self._open[task]

    async def _outcome_of(self, batch: Batch) -> BaseException | None:
        """Whatever it raises: an exit would end the loop."""
        try:
            await self._run_job(batch)
        except BaseException as error:  # noqa: BLE001
            return error
        return None

    async def _run_job(self, batch: Batch) -> None:
        (attempt,) = batch.attempts
        batch.begun.append(attempt)
        leases().begin(attempt.claimed)
        awaited = AsyncAttempt(attempt)
        limit = asyncio.timeout(self._kind.soft_limit_seconds)
        try:
            async with limit:
                await self._kind.run(awaited)
        except TimeoutError:
            if limit.expired():
                raise SoftTimeLimitExceeded from None
            raise
        if not (attempt.settled or attempt.saw_stop or attempt.failed_finish):
            await awaited.finish()

    async def _cancel_lost(self) -> None:
        """Those that were cancelled, or whose lease has ended: what they do is for nothing."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for task, batch in list(self._open.items()):
                if any(not leases().held(attempt.claimed) for attempt in batch.unsettled):
                    task.cancel()


def _may_be_answered(error: BaseException) -> bool:
    return may_pass(error) and not isinstance(error, _NOT_SERVED)


def _single_parts(parts: Sequence[Part]) -> list[Part]:
    return [Part(part.organization_id, (one,)) for part in parts for one in part.job_ids]


def _delivery_of(kind: Kind) -> type[_Batches | _Singles | _Concurrent]:
    if kind.takes_batches:
        return _Batches
    return _Singles if kind.concurrency is None else _Concurrent


def _may_be_elsewhere(kind: Kind, part: Part) -> bool:
    """Nothing was claimed. Usually others have run the jobs. Where the ledger does not know them, or has not dispatched
    them, it may be an old master's: then all servers are asked again; True when there is a newer one."""
    with reading(part.organization_id, source="master") as session:
        waiting, missing = ledger.undispatched(session, part.job_ids)
    if not waiting + missing:
        return False
    metrics.UNFOUNDED_MESSAGES.labels(kind.name).inc()
    cluster = placed(part.organization_id).cluster
    before = cluster.timelines.highest
    cluster.monitor.discovery.take()
    is_old = cluster.timelines.highest > before
    log.warning("message.unfounded", kind=kind.name, missing=missing, queued=waiting, old_master=is_old)
    return is_old


def _run(batch: Batch) -> None:
    try:
        set_unaccepted_apart(batch)
        if batch.attempts:
            with no_way_out_of_a_fork():
                batch.kind.run(batch)
    except BaseException as error:  # an exit or an interrupt that a job raises is not meant for its worker
        end(batch, error)
        if issubclass(type(error), KeyboardInterrupt):
            raise
    else:
        end(batch)
