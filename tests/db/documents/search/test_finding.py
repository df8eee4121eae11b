"""Full-text search: what is indexed, what is found, in which order, and for whom."""

# ruff: noqa: RUF001 -- letters that look like others are meant where they stand

import re
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update

from docworker.db.cluster.engines import owner_engine
from docworker.db.documents.reading import Filters
from docworker.db.documents.search import (
    Indexed,
    SearchHit,
    how_indexed,
    load_texts,
    search_documents,
    terms_of,
    unindexed,
    write_terms,
)
from docworker.db.documents.search.query import Query
from docworker.db.documents.search.terms import Terms
from docworker.db.editing.documents import change_documents, renamed_to
from docworker.db.errors import InvalidArgumentError
from docworker.db.models import Document, DocumentSearch
from docworker.db.sessions import writing
from docworker.db.settings import settings
from docworker.worker.local.stack import LocalStack
from tests.support.tenants import Tenant
from tests.support.tenants import index as index_in


def found(stack: LocalStack, tenant: Tenant, words: str, *, limit: int = 20) -> list[SearchHit]:
    stack.wait_for_replicas()
    return search_documents(tenant.id, words, limit=limit)


def paths(hits: list[SearchHit]) -> list[str]:
    return [hit.path for hit in hits]


def index(tenant: Tenant, *document_ids: UUID) -> int:
    with writing(tenant.id) as session:
        return index_in(session, document_ids)


def rename(tenant: Tenant, document_id: UUID, name: str) -> None:
    [changed] = change_documents(tenant.id, [document_id], "renamed", renamed_to(name), actor="somebody")
    assert changed.error is None


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


@pytest.mark.parametrize("title", [None, "Numbers of the year"])
def test_document_is_found_by_its_file_name(stack: LocalStack, tenant: Tenant, title: str | None) -> None:
    tenant.write("/budget_2026.txt", "numbers", title=title)
    for words in ("budget", "budget_2026.txt", "2026"):
        assert paths(found(stack, tenant, words)) == ["/budget_2026.txt"], words


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
    document_id = tenant.write("/a.txt", "text", indexed=False)
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
    assert index(tenant, tenant.write("/pending.txt", indexed=False), tenant.id) == 0


def test_text_too_rich_for_one_vector_is_indexed_in_part_which_is_known(stack: LocalStack, tenant: Tenant) -> None:
    unique = " ".join(f"{number:x}und{number * 7919:x}" for number in range(60_000))
    rich = tenant.write("/rich.txt", f"findable {unique}", indexed=False)
    plain = tenant.write("/plain.txt", "findable", indexed=False)
    assert index(tenant, rich, plain) == 2
    assert set(paths(found(stack, tenant, "findable"))) == {"/rich.txt", "/plain.txt"}
    with writing(tenant.id) as session:
        states = [how_indexed(session, one) for one in (rich, plain, tenant.id)]
    assert states == [Indexed.IN_PART, Indexed.WHOLE, Indexed.NOT_YET]


def test_words_far_behind_are_found(stack: LocalStack, tenant: Tenant) -> None:
    tenant.write("/long.txt", "usual words of a text " * 100_000 + "needle")
    assert paths(found(stack, tenant, "needle")) == ["/long.txt"]


@pytest.mark.parametrize("unit", ["a_", "~/", "<!--", "<!-- a ", "1.e-", "@<!--", "e<!--#>", "<?xml <!--1", "a.b_"])
def test_text_that_the_parser_of_texts_would_never_finish_is_indexed_and_shown(
    stack: LocalStack, tenant: Tenant, unit: str
) -> None:
    document_id = tenant.write("/hostile.txt", "needle " + unit * (60_000 // len(unit)), title="T", indexed=False)
    with writing(tenant.id) as session:
        session.execute(text("SET LOCAL statement_timeout = '10s'"))
        assert index_in(session, [document_id]) == 1
    [hit] = found(stack, tenant, "needle")
    assert "needle" in [fragment.text for fragment in hit.snippet if fragment.is_match]


def test_comment_and_long_word_are_found_and_shown(stack: LocalStack, tenant: Tenant) -> None:
    tenant.write("/a.txt", f"text <!-- remark --> {'long' * 100}")
    [hit] = found(stack, tenant, "remark")
    assert "".join(fragment.text for fragment in hit.snippet).startswith("text <!-- remark -->")
    assert paths(found(stack, tenant, "long" * 100)) == ["/a.txt"]
    assert paths(found(stack, tenant, "long" * 9)) == []


FOUND = {
    "punctuation of every kind": ("The “maintenance” … of the keeper’s — «lamp» •logbook• agrees.", (
        "maintenance", "keeper", "lamp", "logbook", "agrees", "keeper’s", "keeper's", "«lamp»",
    )),
    "ligatures and wide letters": ("ﬁnancial ＡＢＣ", ("financial", "abc", "FINANCIAL")),
    "case": ("Straße ΣΊΣΥΦΟΣ", ("STRASSE", "strasse", "straße", "Σίσυφος")),
    "accents": ("Café Ångström Ёлка", ("cafe", "café", "angstrom", "елка")),
    "part numbers and addresses": ("AB-4711, INV-2024-0042, https://www.example.org/a_b?c=d", (
        "4711", "AB-4711", "2024", "INV-2024-0042", "example.org", "www.example.org", "a_b",
    )),
    "Chinese": ("本公司的发票管理系统2024年", ("发票", "发票管理", "管理", "票", "2024", "统")),
    "Japanese": ("東京支店の売上はカレーライス", ("売上", "東京", "京支店", "カレー", "東")),
    "Korean": ("한국어는 교착어이다", ("한국어", "교착")),
    "Thai": ("ภาษาไทยเป็นภาษา", ("ไทย", "ภาษาไทย")),
    "Hindi": ("हिन्दी में पाठ", ("हिन्दी", "पाठ")),
    "writing that is mixed": ("用iPhone15手机壳包装", ("iphone15", "手机", "iPhone15手机壳")),
    "soft hyphens": ("Donau\u00addampf\u200bschiff", ("Donaudampfschiff",)),
    "the beginning of a word": ("constitutional", ("constit*", "CONSTITUTION*")),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOUND)
def test_words_are_found_whatever_they_are_written_with(stack: LocalStack, tenant: Tenant, kind: str) -> None:
    text, searches = FOUND[kind]
    tenant.write("/a.txt", text)
    for words in searches:
        hits = found(stack, tenant, words)
        assert len(hits) == 1, words
        [hit] = hits
        assert any(fragment.is_match for fragment in hit.snippet), words
        assert "".join(fragment.text for fragment in hit.snippet).strip(" …") in text, words


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("en", "She was running", "run"),
        ("en", "a run", "running"),
        ("de", "Die Häuser am See", "Haus"),
        ("de", "Ein Haus", "Häusern"),
        ("fr", "les chevaux mangeaient", "manger"),
        ("es", "las bibliotecas", "biblioteca"),
        ("ru", "книги на полке", "книга"),
        ("ru", "the houses в книге", "house"),
        (None, "installed packages", "package"),
    ],
)
def test_words_are_found_in_all_their_forms(
    stack: LocalStack, tenant: Tenant, language: str | None, text: str, words: str
) -> None:
    tenant.write("/a.txt", text, language=language)
    [hit] = found(stack, tenant, words)
    assert len([fragment for fragment in hit.snippet if fragment.is_match]) == 1


def test_stems_of_another_language_do_not_count(stack: LocalStack, tenant: Tenant) -> None:
    """`news` is no form of `new`, though some language's rules say so."""
    tenant.write("/a.txt", "a new day", language="en")
    assert found(stack, tenant, "news") == []


def test_the_word_as_it_is_written_ranks_first(stack: LocalStack, tenant: Tenant) -> None:
    tenant.write("/forms.txt", "the runner was running", language="en")
    tenant.write("/word.txt", "the runner had a run", language="en")
    assert paths(found(stack, tenant, "run")) == ["/word.txt", "/forms.txt"]
    assert paths(found(stack, tenant, "running")) == ["/forms.txt", "/word.txt"]


def test_phrases_are_words_in_their_order(stack: LocalStack, tenant: Tenant) -> None:
    tenant.write("/a.txt", "a report of net revenue, in part", title="Net")
    assert paths(found(stack, tenant, '"net revenue"')) == ["/a.txt"]
    for words in ('"revenue net"', '"net report"', '"a of"', "revenue.net"):
        assert found(stack, tenant, words) == [], words


def test_words_that_people_write_around_others_are_not_needed(stack: LocalStack, tenant: Tenant) -> None:
    tenant.write("/a.txt", "Install the package with a command")
    [hit] = found(stack, tenant, "how to install a package")
    assert [fragment.text for fragment in hit.snippet if fragment.is_match] == ["Install", "package"]
    assert paths(found(stack, tenant, "with a")) == ["/a.txt"]
    assert found(stack, tenant, "to") == []


def test_pages_follow_each_other(stack: LocalStack, tenant: Tenant) -> None:
    for number in range(5):
        tenant.write(f"/{number}.txt", "word " * (number + 1))
    stack.wait_for_replicas()
    pages = [search_documents(tenant.id, "word", limit=2, offset=offset) for offset in (0, 2, 4)]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert len({hit.path for page in pages for hit in page}) == 5
    with pytest.raises(InvalidArgumentError, match="limit 2 and offset 999"):
        search_documents(tenant.id, "word", limit=2, offset=999)


def test_filters_look_at_all_that_have_the_words(
    stack: LocalStack, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docworker.db.documents.search.finding.MOST_RANKED", 2)
    for number in range(4):
        tenant.write(f"/other/{number}.txt", "word")
    tenant.write("/wanted/a.txt", "word")
    folder_id = tenant.get(tenant.write("/wanted/b.txt", "nothing")).folder_id
    stack.wait_for_replicas()
    assert len(search_documents(tenant.id, "word", limit=2)) == 2
    [hit] = search_documents(tenant.id, "word", limit=2, filters=Filters(folder_id=folder_id))
    assert hit.path == "/wanted/a.txt"


def test_what_has_the_words_in_its_title_is_among_those_that_are_ranked(
    stack: LocalStack, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("docworker.db.documents.search.finding.MOST_RANKED", 3)
    for number in range(6):
        tenant.write(f"/{number}.txt", "llamas")
    tenant.write("/title.txt", "All about them.", title="Llamas")
    assert paths(found(stack, tenant, "llamas", limit=1)) == ["/title.txt"]


def test_the_look_up_may_use_an_index_where_row_level_security_lets_nobody_else(tenant: Tenant) -> None:
    query = {"query": Query("needle").tsquery(Terms(tenant.id), ["en"])}
    statement = text("EXPLAIN SELECT document_id FROM app.document_search WHERE terms @@ CAST(:query AS tsquery)")
    no_scan = text("SET LOCAL enable_seqscan = off")
    with owner_engine(settings()).connect() as connection:
        connection.execute(no_scan)
        as_owner = "\n".join(connection.scalars(statement, query))
    with writing(tenant.id) as session:
        session.execute(no_scan)
        as_worker = "\n".join(session.scalars(statement, query))
    assert "Bitmap Index Scan on ix_document_search_terms" in as_owner
    assert "ix_document_search_terms" not in as_worker


def test_the_look_up_reads_the_index_of_words_and_no_list_of_all_documents(tenant: Tenant) -> None:
    body = text("SELECT prosrc FROM pg_proc WHERE oid = 'app.find_documents'::regproc")
    query = str(Query("needle").tsquery(Terms(tenant.id), ["en"]))
    with owner_engine(settings()).connect() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))  # as the function has it
        connection.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        statement = connection.scalars(body).one().replace("query", "$1").replace("most", "$2")
        connection.exec_driver_sql(f"PREPARE look_up (tsquery, bigint) AS {statement}")
        plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN EXECUTE look_up ($q${query}$q$, 500)").scalars())
        connection.exec_driver_sql("DEALLOCATE look_up")
    read = set(re.findall(r"(?:Scan on|Scan using) (ix_\w+|pk_\w+)", plan))
    assert read == {"ix_document_search_terms", "ix_document_search_sample"}, plan


def test_the_look_up_gives_nothing_of_others_whatever_is_asked(tenant: Tenant) -> None:
    tenant.write("/a.txt", "needle")
    query = str(Query("needle").tsquery(Terms(tenant.id), ["en"]))
    look_up = text("SELECT count(*) FROM app.find_documents(CAST(:query AS tsquery))")
    for organization_id, count in ((tenant.id, 1), (Tenant().id, 0), (None, 0)):
        with writing(organization_id) as session:
            assert session.scalar(look_up, {"query": query}) == count


def test_the_look_up_gives_as_many_as_are_asked_for_and_each_once(tenant: Tenant) -> None:
    written = {tenant.write(f"/{number}.txt", "needle") for number in range(40)}  # some of them in the sample
    query = {"query": Query("needle").tsquery(Terms(tenant.id), ["en"])}
    with writing(tenant.id) as session:
        for most in (0, 1, 2, 5, 39, 40, 1000, None):
            look_up = text("SELECT app.find_documents(CAST(:query AS tsquery), :most)")
            found = session.scalars(look_up, query | {"most": most}).all()
            assert len(found) == len(set(found)) == min(40 if most is None else most, 40)
            assert set(found) <= written


def test_a_renamed_document_is_indexed_again(stack: LocalStack, tenant: Tenant) -> None:
    document_id = tenant.write("/before.txt", "text")
    rename(tenant, document_id, "after.txt")
    with writing(tenant.id) as session:
        assert unindexed(session, most=10) == [document_id]
    assert index(tenant, document_id) == 1
    assert paths(found(stack, tenant, "after")) == ["/after.txt"]
    assert found(stack, tenant, "before") == []
    with writing(tenant.id) as session:
        assert unindexed(session, most=10) == []


def test_terms_of_an_older_name_or_text_are_not_written(tenant: Tenant) -> None:
    document_id = tenant.write("/before.txt", "text", indexed=False)
    with writing(tenant.id) as session:
        [read] = load_texts(session, [document_id])
    rename(tenant, document_id, "after.txt")
    with writing(tenant.id) as session:
        assert write_terms(session, [terms_of(tenant.id, read)]) == 0


def test_search_longer_than_people_type_is_refused(tenant: Tenant) -> None:
    with pytest.raises(InvalidArgumentError, match="1001 characters, more than the 1000"):
        search_documents(tenant.id, "a" * 1001)
