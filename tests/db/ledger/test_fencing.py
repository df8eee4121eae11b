"""What an attempt may still do to a job that is no longer its own: nothing, whichever step it tries."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from docworker.db import ledger
from docworker.db.ledger import Claimed
from docworker.db.sessions import TenantSession, all_jobs_session, writing
from tests.support.database import held_back
from tests.support.ledger import LedgerSteps

Step = Callable[[TenantSession, Claimed], object]
FAILURE = ledger.Failure("E", "m")

STEPS: dict[str, Step] = {
    "lock_owned": lambda session, one: ledger.lock_owned(session, [one]),
    "succeed": lambda session, one: ledger.succeed(session, [(one, None)]),
    "fail": lambda session, one: ledger.fail(session, one, FAILURE),
    "retry": lambda session, one: ledger.retry(session, one, FAILURE, delay_seconds=0, uses_attempt=True, max_faults=5),
    "give_back": lambda session, one: ledger.give_back(session, [one], most=1),
    "charge": lambda session, one: ledger.charge(session, [one], FAILURE),
    "renew": lambda session, one: ledger.renew(session, [one], lease_seconds=10),
    "record_cursor": lambda session, one: ledger.record_cursor(
        session, one, {"after": "x"}, children_added=1, lease_seconds=10
    ),
}
WAITING_STEPS = {name: step for name, step in STEPS.items() if name != "renew"}


def of(steps: dict[str, Step]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("step", steps.values(), ids=steps.keys())


def take(steps: LedgerSteps, step: Step, claimed: Claimed) -> object:
    with writing(steps.organization_id) as session:
        return step(session, claimed)


def row(steps: LedgerSteps, claimed: Claimed) -> dict[str, Any]:
    return {name: value for name, value in vars(steps.job(claimed.id)).items() if name != "_sa_instance_state"}


@of(STEPS)
def test_an_attempt_can_do_nothing_to_a_job_that_another_one_runs(steps: LedgerSteps, step: Step) -> None:
    (old,) = steps.run()
    steps.expire([old.id])
    steps.rescue()
    (message,) = steps.dispatch()
    (new,) = steps.claim([old.id], message_id=message.id)
    before = row(steps, new)
    assert not take(steps, step, old)
    assert row(steps, new) == before
    assert take(steps, step, new)


@of({name: STEPS[name] for name in ("succeed", "fail")})
def test_an_attempt_is_not_told_that_it_finished_what_another_one_did(steps: LedgerSteps, step: Step) -> None:
    (old,) = steps.run()
    steps.expire([old.id])
    steps.rescue()
    (message,) = steps.dispatch()
    (new,) = steps.claim([old.id], message_id=message.id)
    take(steps, step, new)
    assert not take(steps, lambda session, one: ledger.finished_as(session, [one]), old)


@pytest.mark.parametrize("ending", ["succeed", "fail"])
@of(STEPS)
def test_an_attempt_that_has_ended_its_job_can_do_nothing_more_to_it(
    steps: LedgerSteps, step: Step, ending: str
) -> None:
    (claimed,) = steps.run()
    assert take(steps, STEPS[ending], claimed)
    before = row(steps, claimed)
    assert not take(steps, step, claimed)
    assert row(steps, claimed) == before


@of(WAITING_STEPS)
def test_a_job_rescued_while_a_step_waits_for_it_is_left_alone(steps: LedgerSteps, step: Step) -> None:
    (claimed,) = steps.run()
    steps.expire([claimed.id])
    with all_jobs_session() as rescuer:
        assert len(ledger.rescue_expired(rescuer)) == 1
        with held_back(lambda: take(steps, step, claimed)) as waiting:
            rescuer.commit()
    assert not waiting.result()
    assert row(steps, claimed)["error_class"] == "LeaseExpired"
    assert steps.states() == {"queued": 1}


@pytest.mark.parametrize(("step", "state"), [("succeed", "succeeded"), ("fail", "failed")])
def test_a_job_that_ends_while_its_cancellation_waits_stays_as_it_ended(
    steps: LedgerSteps, step: str, state: str
) -> None:
    (claimed,) = steps.run()

    def cancel() -> object:
        with all_jobs_session() as session:
            return ledger.cancel(session, ledger.Filter(), [claimed.id])

    with writing(steps.organization_id) as finisher:
        assert STEPS[step](finisher, claimed)
        with held_back(cancel) as cancellation:
            finisher.commit()
    assert cancellation.result() == []
    assert steps.states() == {state: 1}


@of(STEPS)
def test_only_the_renewal_of_a_lease_may_be_lost_with_the_server(steps: LedgerSteps, step: Step) -> None:
    ids = steps.enqueue()
    steps.dispatch()
    with writing(steps.organization_id) as session:
        (claimed,) = ledger.claim(
            session, steps.kind, ids, message_id=None, worker="tests", lease_seconds=10, max_run_seconds=60
        ).jobs
        assert _synchronous_commit(session) == "on"
    with writing(steps.organization_id) as session:
        step(session, claimed)
        assert _synchronous_commit(session) == ("off" if step is STEPS["renew"] else "on")


def _synchronous_commit(session: TenantSession) -> object:
    return session.scalar(text("SELECT current_setting('synchronous_commit')"))
