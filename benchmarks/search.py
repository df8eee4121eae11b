"""How long a search takes among many documents of many organizations: `python -m benchmarks --search DOCUMENTS`.

Half of the documents belong to one organization, the others to 49. Texts have about 120 words, drawn as words of a
language are: few of them often, most of them seldom; 20,000 different ones are repeated. What is searched for stands in
some text, often or seldom alike. Each search is a whole `search_documents`, with its session, ranks and snippets. All
are asked for twice, as servers that have just started have nothing of the index in memory.
"""

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, cycle, islice
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from sqlalchemy import text

from benchmarks.backlog import make_tenants
from docworker.db.documents.search import search_documents
from docworker.db.documents.search.query import Query
from docworker.db.documents.search.terms import Terms
from docworker.db.models.base import new_id
from docworker.db.sessions import reading
from docworker.worker.local.servers.roles import DATABASE
from docworker.worker.local.stack import LocalStack

ORGANIZATIONS = 50
TEXTS, WORDS_OF_A_TEXT, VOCABULARY = 20_000, 120, 50_000
SEARCHES = 200
_SIGN = "\x02"
_INDEXES = ("ix_document_search_terms", "ix_document_search_sample")
_UNDER_POLICIES = text("SELECT count(*) FROM app.document_search WHERE terms @@ CAST(:query AS tsquery)")


def measure_search(servers: LocalStack, documents: int) -> None:
    """Prints a table: milliseconds by the size of the organization and the number of words."""
    chance = random.Random(1)
    words = vocabulary(chance)
    texts = [made_text(words, chance) for _ in range(TEXTS)]
    if not (sizes := entered(servers)):
        large, *others = make_tenants(servers, ORGANIZATIONS)
        began = time.monotonic()
        fill(servers, {large: documents // 2} | dict.fromkeys(others, documents // 2 // len(others)), texts)
        print(f"{documents} documents entered and indexed in {time.monotonic() - began:.0f} s")
        sizes = entered(servers)
    servers.wait_for_replicas()
    print(
        f"{'documents of the organization':>30} {'words':>6} {'asked':>6}"
        f" {'median ms':>10} {'95 % ms':>8} {'most':>8} {'hits':>6}"
    )
    for organization_id, size in (sizes[0], sizes[-1]):
        for count in (1, 2, 3):
            searches = [
                " ".join(chance.sample(sorted(set(chance.choice(texts).split())), count)) for _ in range(SEARCHES)
            ]
            search_documents(organization_id, searches[0])
            for asked in ("first", "again"):
                all_taken = [taken(partial(search_documents, organization_id, one)) for one in searches]
                print(line(size, count, asked, all_taken))
        rare = min(texts[0].split(), key=lambda word: sum(word in one for one in texts[:500]))
        query = {"query": Query(rare).tsquery(Terms(organization_id), ["en"])}
        with reading(organization_id) as session:
            seconds, _ = taken(lambda: session.execute(_UNDER_POLICIES, query).all())  # noqa: B023 -- called at once
        print(f"{size:>30} one rare word, asked of the table under its policies: {seconds * 1000:.0f} ms")


def entered(servers: LocalStack) -> list[tuple[UUID, int]]:
    """Organizations that have documents, here since an earlier run, and how many, the largest one first."""
    counted = "SELECT organization_id, count(*) FROM app.documents GROUP BY 1 ORDER BY 2 DESC, 1"
    return [(organization_id, size) for organization_id, size in servers.master.execute(counted, database=DATABASE)]


def vocabulary(chance: random.Random) -> tuple[list[str], list[float]]:
    """Words, and how often they are used, in sums from the most frequent one on."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "ei")]
    words = {"".join(chance.choices(syllables, k=chance.choice((2, 2, 3, 3, 4)))) for _ in range(VOCABULARY)}
    return sorted(words), list(accumulate(1 / (number + 3) for number in range(len(words))))


def made_text(words: tuple[list[str], list[float]], chance: random.Random) -> str:
    return " ".join(chance.choices(words[0], cum_weights=words[1], k=chance.randint(60, 2 * WORDS_OF_A_TEXT - 60)))


def fill(servers: LocalStack, sizes: dict[UUID, int], texts: Sequence[str]) -> None:
    """By COPY; the index is made when all is there."""
    signed = Terms(next(iter(sizes)))
    sign = signed.sign
    title, of_any = [" ".join(one.split()[:4]) for one in texts], f"'{_SIGN}"
    vectors = [
        signed.vector(title[number], "a.txt", one, "en").text.replace(f"'{sign}", of_any)
        for number, one in enumerate(texts)
    ]
    with servers.master.connect(DATABASE) as connection:
        definition = "SELECT pg_get_indexdef(%s::regclass)"
        indexes = [connection.execute(definition, [f"app.{name}"]).fetchall()[0][0] for name in _INDEXES]
        for name in _INDEXES:
            connection.execute(sql.SQL("DROP INDEX app.{}").format(sql.Identifier(name)))
        connection.execute("SET maintenance_work_mem = '1GB'")
        chosen = cycle(range(len(texts)))
        for organization_id, size in sizes.items():
            rows = [(new_id(), number) for number in islice(chosen, size)]
            own, language = Terms(organization_id).sign, '{"language": "en"}'
            copy(
                connection,
                "documents (organization_id, id, filename, title, status, latest_version, version)",
                ((organization_id, id_, f"{id_}.txt", title[number], "processed", 1, 1) for id_, number in rows),
            )
            copy(
                connection,
                "document_versions (organization_id, document_id, version_number, content, content_sha256, pipeline,"
                " facts)",
                ((organization_id, id_, 1, texts[number], "0" * 64, "p", language) for id_, number in rows),
            )
            copy(
                connection,
                "document_search (organization_id, document_id, version_number, terms_version, terms, language)",
                ((organization_id, id_, 1, 1, vectors[number].replace(_SIGN, own), "en") for id_, number in rows),
            )
        for index in indexes:
            connection.execute(index)
        connection.execute("ANALYZE")
        connection.execute("CHECKPOINT")


def copy(connection: psycopg.Connection[Any], table: str, rows: Iterator[tuple[Any, ...]]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY app.{table} FROM STDIN") as target:
        for row in rows:
            target.write_row(row)


def taken(action: Any) -> tuple[float, int]:
    """Seconds, and how many it gave."""
    began = time.perf_counter()
    given = action()
    return time.perf_counter() - began, len(given)


def line(size: int, count: int, asked: str, all_taken: Sequence[tuple[float, int]]) -> str:
    milliseconds = sorted(seconds * 1000 for seconds, _ in all_taken)
    late = milliseconds[int(len(milliseconds) * 0.95)]
    hits = statistics.mean(given for _, given in all_taken)
    median = statistics.median(milliseconds)
    return f"{size:>30} {count:>6} {asked:>6} {median:>10.1f} {late:>8.1f} {milliseconds[-1]:>8.1f} {hits:>6.1f}"
