"""`docworker limits` set, listed and taken back, and told by `docworker jobs why`."""

from collections import Counter

import pytest

from docworker.db.cluster import Database
from docworker.db.ledger.waiting.keys import spend_rates
from docworker.db.sessions import all_jobs_session, writing
from docworker.jobs.enqueue import enqueue
from tests.support.adhoc_kinds import enter, single
from tests.support.commands import docworker
from tests.support.tenants import Tenant


def test_limits_are_set_listed_told_and_taken_back(opened: Database, tenant: Tenant) -> None:
    shown = docworker("limits", "set", "-o", tenant.slug, "--running", "0")
    assert shown.out == f"limited all kinds of {tenant.slug}: 0 running at a time\n"
    docworker("limits", "set", "--kind", "process_document", "--rate", "100/minute", "--burst", "20")
    docworker("limits", "set", "--each", "--running", "7", "--rate", "5/30seconds")

    rows = docworker("limits", "list", "--json").json
    shown_names = ("organization", "kind", "running", "rate", "burst")
    assert sorted([tuple(one[name] for name in shown_names) for one in rows], key=str) == [
        (tenant.slug, None, 0, None, None),
        (None, "process_document", None, "100/minute", 20),
        (None, None, 7, "5/30seconds", 5),
    ]
    assert "5/30seconds" in docworker("limits", "list").out

    job_id = enter(tenant, single(lambda _: None))
    why = docworker("jobs", "why", str(job_id)).out
    assert why.startswith("limit: at most 0 jobs of its organization run at a time"), why
    assert docworker("limits", "remove", "-o", tenant.slug).exit_code == 0
    assert "limit:" not in docworker("jobs", "why", str(job_id)).out
    for place in (["--each"], ["--kind", "process_document"]):
        assert docworker("limits", "remove", *place).exit_code == 0
    assert docworker("limits", "list", "--json").json == []


def test_a_limit_of_a_key_is_set_listed_told_and_taken_back(opened: Database, tenant: Tenant) -> None:
    shown = docworker("limits", "set", "--key", "stripe", "-o", tenant.slug, "--running", "0")
    assert shown.out == f"limited the key 'stripe' of {tenant.slug}: 0 running at a time\n"
    docworker("limits", "set", "--key", "stripe", "--running", "4", "--rate", "10/minute", "--burst", "3")
    rows = docworker("limits", "list", "--json").json
    assert [
        (one["organization"], one["each"], one["key"], one["running"], one["rate"], one["burst"]) for one in rows
    ] == [
        (None, True, "stripe", 4, "10/minute", 3),
        (tenant.slug, False, "stripe", 0, None, None),
    ]
    with writing(tenant.id) as session:
        job_id = enqueue(session, single(lambda _: None), limit_key="stripe")
    why = docworker("jobs", "why", str(job_id)).out
    assert why.startswith("limit_of_key: of its limit key 'stripe' at most 0 run at a time"), why
    assert docworker("limits", "remove", "--key", "stripe", "-o", tenant.slug).exit_code == 0
    assert docworker("jobs", "why", str(job_id)).out.startswith("next_of_key:")
    with all_jobs_session() as session:
        spend_rates(session, Counter({(tenant.id, "stripe"): 3}))
    why = docworker("jobs", "why", str(job_id)).out
    assert why.startswith("rate_of_key: the rate of its limit key 'stripe' is spent, 10 in 60 s, 3 at once"), why
    assert docworker("limits", "remove", "--key", "stripe").exit_code == 0
    assert docworker("jobs", "why", str(job_id)).out.startswith("next_of_key:")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["set", "--running", "3"], "say what to limit: --kind, --organization, both, --each, or --key"),
        (["set", "--key", "a", "--each", "--running", "3"], "a key is of jobs of all kinds, and of each organization"),
        (["set", "--key", "a"], "a limit is of the jobs that run at a time, or a rate, or both: give one"),
        (["remove", "--key", "a"], "there is no limit of the key 'a' of each organization"),
        (["set", "--each"], "a limit is of the jobs that run at a time, or a rate, or both: give one"),
        (["set", "--each", "--rate", "7"], "'7' is no rate: give jobs and a period, such as 100/minute or 5/30seconds"),
        (["set", "--each", "--running", "3", "--burst", "3"], "--burst is of a rate: give --rate as well"),
        (["set", "--kind", "proces_document", "--running", "3"], "did you mean 'process_document'?"),
        (["set", "-o", "system", "--running", "3"], "are not limited as an organization"),
        (["remove", "--each"], "there is no limit of all kinds of each organization"),
    ],
)
def test_what_cannot_be_limited_is_explained(opened: Database, arguments: list[str], complaint: str) -> None:
    answer = docworker("limits", *arguments)
    assert answer.exit_code != 0
    assert complaint in answer.err
