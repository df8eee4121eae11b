"""Full-text search: what is indexed, what is found, in which order, and for whom."""

from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update

from docworker.db.documents.search import SearchHit, index_documents, search_documents
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Document, DocumentSearch
from docworker.db.sessions import writing
from docworker.worker.local.stack import LocalStack
from tests.support.tenants import Tenant


def found(stack: LocalStack, tenant: Tenant, words: str, *, limit: int = 20) -> list[SearchHit]:
    stack.wait_for_replicas()
    return search_documents(tenant.id, words, limit=limit)


def paths(hits: list[SearchHit]) -> list[str]:
    return [hit.path for hit in hits]


def index(tenant: Tenant, *document_ids: UUID) -> int:
    with writing(tenant.id) as session:
        return index_documents(session, document_ids)


def test_documents_are_found_by_all_words_of_a_query(stack: LocalStack, tenant: Tenant) -> None:
    tenant.write("/reports/q3.txt", "The net revenue grew.")
    tenant.write("/other.txt", "A fishing net.")
    assert paths(found(stack, tenant, "net revenue")) == ["/reports/q3.txt"]
    assert set(paths(found(stack, tenant, "NET"))) == {"/reports/q3.txt", "/other.txt"}
    assert paths(found(stack, tenant, "net -revenue")) == ["/other.txt"]
    assert paths(found(stack, tenant, '"revenue net"')) == []


def test_word_in_the_title_ranks_above_one_in_the_text(stack: LocalStack, tenant: Tenant) -> None:
    tenant.write("/text.txt", "All about llamas.", title="Animals")
    tenant.write("/title.txt", "All about animals of the Andes.", title="Llamas")
    assert paths(found(stack, tenant, "llamas")) == ["/title.txt", "/text.txt"]


def test_document_without_a_title_is_found_by_its_file_name(stack: LocalStack, tenant: Tenant) -> None:
    tenant.write("/budget.txt", "numbers")
    assert paths(found(stack, tenant, "budget.txt")) == ["/budget.txt"]


def test_snippets_show_the_words_that_were_found(stack: LocalStack, tenant: Tenant) -> None:
    tenant.write("/long.txt", "filler " * 500 + "the needle in here " + "filler " * 500)
    (hit,) = found(stack, tenant, "needle")
    assert [one.text for one in hit.snippet if one.is_match] == ["needle"]
    assert len("".join(one.text for one in hit.snippet)) < 500


def test_best_hits_are_limited(stack: LocalStack, tenant: Tenant) -> None:
    for number in range(5):
        tenant.write(f"/{number}.txt", "word " * (number + 1))
    hits = found(stack, tenant, "word", limit=2)
    assert len(hits) == 2
    assert hits[0].rank >= hits[1].rank


def test_documents_of_another_organization_are_not_found(stack: LocalStack, tenant: Tenant) -> None:
    document_id = tenant.write("/secret.txt", "confidential plan")
    other = Tenant()
    assert found(stack, other, "confidential") == []
    assert index(other, document_id) == 0


def test_deleted_document_is_not_found(stack: LocalStack, tenant: Tenant) -> None:
    tenant.write("/gone.txt", "vanished")
    with writing(tenant.id) as session:
        session.execute(update(Document).values(deleted_at=func.clock_timestamp()))
    assert found(stack, tenant, "vanished") == []


@pytest.mark.parametrize("words", ["", "   ", "-", "...", '""', "!&|"])
def test_query_without_a_word_is_refused(tenant: Tenant, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match="no word to look for"):
        search_documents(tenant.id, words)


@pytest.mark.parametrize("words", ['a" or (b', "a:*", "a & | b", "a\\", "'; DROP", "a <-> b", "é" * 500])
def test_no_query_breaks_the_search(tenant: Tenant, words: str) -> None:
    assert search_documents(tenant.id, words) == []


def test_nul_in_a_query_is_refused(tenant: Tenant) -> None:
    with pytest.raises(InvalidArgumentError, match="NUL"):
        search_documents(tenant.id, "a\0b")


def test_text_is_indexed_once_a_version(tenant: Tenant) -> None:
    document_id = tenant.write("/a.txt", "text", index=False)
    assert index(tenant, document_id) == 1
    assert index(tenant, document_id) == 0


def test_index_never_goes_back_to_an_older_version(tenant: Tenant) -> None:
    document_id = tenant.write("/a.txt", "old", "new")
    with writing(tenant.id) as session:
        session.execute(update(Document).values(latest_version=1, content="old"))
    assert index(tenant, document_id) == 0
    with writing(tenant.id) as session:
        assert session.scalar(select(DocumentSearch.version_number)) == 2


def test_documents_without_text_are_passed_over(tenant: Tenant) -> None:
    assert index(tenant, tenant.write("/pending.txt", index=False), tenant.id) == 0


def test_text_too_rich_for_one_vector_is_indexed_in_part_and_costs_no_other(stack: LocalStack, tenant: Tenant) -> None:
    rare = [chr(0x20000 + n) + chr(0x20000 + n * 7 % 40_000) for n in range(40_000)]  # four bytes a character
    unique_words = " ".join(f"{one}-{other}" for one, other in zip(rare, rare[7000:], strict=False))
    rich = tenant.write("/rich.txt", f"findable {unique_words}", index=False)
    plain = tenant.write("/plain.txt", "findable", index=False)
    assert index(tenant, rich, plain) == 2
    assert set(paths(found(stack, tenant, "findable"))) == {"/rich.txt", "/plain.txt"}


@pytest.mark.parametrize("unit", ["a_", "~/", "<!--", "<!-- a ", "1.e-", "@<!--", "e<!--#>", "<?xml <!--1", "a.b_"])
def test_text_that_the_parser_of_texts_would_never_finish_is_indexed_and_shown(
    stack: LocalStack, tenant: Tenant, unit: str
) -> None:
    document_id = tenant.write("/hostile.txt", "needle " + unit * (60_000 // len(unit)), title="T", index=False)
    with writing(tenant.id) as session:
        session.execute(text("SET LOCAL statement_timeout = '10s'"))
        assert index_documents(session, [document_id]) == 1
    [hit] = found(stack, tenant, "needle")
    assert "needle" in [fragment.text for fragment in hit.snippet if fragment.is_match]


def test_comment_and_long_word_are_found_and_shown(stack: LocalStack, tenant: Tenant) -> None:
    tenant.write("/a.txt", f"text <!-- remark --> {'long' * 100}")
    [hit] = found(stack, tenant, "remark")
    assert "".join(fragment.text for fragment in hit.snippet).startswith("text <!-- remark --> long")
    assert paths(found(stack, tenant, "long" * 100)) == ["/a.txt"]
    assert paths(found(stack, tenant, "long" * 99)) == []


def test_search_longer_than_people_type_is_refused(tenant: Tenant) -> None:
    with pytest.raises(InvalidArgumentError, match="1001 characters, more than the 1000"):
        search_documents(tenant.id, "a" * 1001)
