"""Did you mean: what is suggested for words that hardly any document has, and for whom."""

import pytest
from sqlalchemy import func, update

from docworker.db.documents.search import search_documents
from docworker.db.documents.search.suggestions import LONGEST, MOST_COUNTED, variants
from docworker.db.models import Document
from docworker.db.sessions import writing
from docworker.worker.local.stack import LocalStack
from tests.support.tenants import Tenant


def suggested(stack: LocalStack, tenant: Tenant, words: str, *, limit: int = 20) -> str | None:
    stack.wait_for_replicas()
    return search_documents(tenant.id, words, limit=limit).did_you_mean


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("markting", "marketing"),
        ("makreting", "marketing"),
        ("maarketing", "marketing"),
        ("Narketing", "marketing"),
        ("net revenew plan", None),
        ("net revnue -draft", "net revenue -draft"),
        ("markting revnue", "marketing revenue"),
        ("markting nonsensical", "marketing nonsensical"),
        ('"markting revenue"', None),
        ("mrk", None),
        ("догвор", "договор"),
        ("Strase", "strasse"),
        ("mark\u00e9ting plam", "mark\u00e9ting plan"),
        ("m" * (LONGEST + 1), None),
    ],
)
def test_a_word_that_is_found_nowhere_is_suggested_otherwise(
    stack: LocalStack, tenant: Tenant, typed: str, meant: str | None
) -> None:
    tenant.write("/plan.txt", "The marketing plan: net revenue, Straße, договор.")
    assert suggested(stack, tenant, typed) == meant
    assert suggested(stack, tenant, typed, limit=1) == meant


def test_what_is_likelier_and_what_more_documents_have_goes_before(stack: LocalStack, tenant: Tenant) -> None:
    for number in range(3):
        tenant.write(f"/{number}.txt", "The barn and the born." if number else "The barn, the horn and the morn.")
    tenant.write("/marketing.txt", "marking, marketing")
    assert suggested(stack, tenant, "markting") == "marketing", "a letter left out, not one too many"
    assert suggested(stack, tenant, "bron") == "born", "two letters in the other order"
    assert suggested(stack, tenant, "barnn") == "barn"
    assert suggested(stack, tenant, "gorn") == "born", "two documents have it, and one has horn"


def test_a_rare_word_is_found_and_a_frequent_one_suggested(stack: LocalStack, tenant: Tenant) -> None:
    for number in range(MOST_COUNTED):
        tenant.write(f"/{number}.txt", "A receipt." if number else "A reciept, and a receipt that somebody kepd.")
    stack.wait_for_replicas()
    hits = search_documents(tenant.id, "reciept")
    assert ([hit.path for hit in hits], hits.did_you_mean) == (["/0.txt"], "receipt")
    assert suggested(stack, tenant, "receipt") is None
    assert suggested(stack, tenant, "kept") == "kepd"
    assert suggested(stack, tenant, "kepd") is None, "it is there, and no other is frequent"


def test_words_of_other_organizations_and_of_deleted_documents_are_not_suggested(
    stack: LocalStack, tenant: Tenant
) -> None:
    other = Tenant()
    other.write("/secret.txt", "confidential")
    tenant.write("/gone.txt", "vanished")
    assert suggested(stack, tenant, "confidental") is None
    assert suggested(stack, tenant, "vanishd") == "vanished"
    with writing(tenant.id) as session:
        session.execute(update(Document).values(deleted_at=func.clock_timestamp()))
    assert suggested(stack, tenant, "vanishd") is None
    assert suggested(stack, other, "confidental") == "confidential"


@pytest.mark.parametrize("word", ["abcd", "a" * LONGEST, "щука", "ひらがな", "naïve"])
def test_there_are_not_too_many_words_to_look_for(word: str) -> None:
    others = dict(variants(word))
    assert word not in others
    assert len(others) <= 1100
