"""Writers and readers amid random lag and a promotion; what they saw is judged afterwards, when all is known.

Each text names the one it was made from, so that an update lost between two versions breaks the chain.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from docworker.db.cluster import close_database, database, open_database
from docworker.db.cluster.balancer import ReadFrom
from docworker.db.cluster.positions import WalPosition, parse_lsn
from docworker.db.documents.versions import NewText, write_version
from docworker.db.faults import Fault, classify
from docworker.db.models import Document
from docworker.db.sessions import position_after, read, writing
from docworker.db.settings import HOME, settings
from docworker.worker.local.stack import LocalStack
from tests.support.faults import environment_of_any_master, failover, pause_replay, resume_replay
from tests.support.stack import OwnStack, applied
from tests.support.tenants import Tenant
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(90)

SEEDS = (11,)
WRITERS = 4
READERS = 3
DOCUMENTS = 3
STEPS = 18
WRITES_BETWEEN_STEPS = 15
SETTINGS = {
    "DOCWORKER_REPLICA_SAMPLE_INTERVAL": "0.05",
    "DOCWORKER_REPLICA_WAIT": "0.05",
    "DOCWORKER_POOL_SIZE": str(WRITERS + READERS),
}


@dataclass(frozen=True)
class Ack:
    """A write whose commit was answered."""

    writer: int
    document_id: UUID
    number: int
    content: str
    position: WalPosition


@dataclass(frozen=True)
class Seen:
    """What a read found that had to see `floor`, which the same thread had written or seen before."""

    floor_number: int
    floor_content: str
    number: int
    content: str
    document_id: UUID
    ended_at: float


class History:
    """The threads, and what they did and saw. Lists are only appended to."""

    def __init__(self, tenant: Tenant, seed: int) -> None:
        self.acks: list[Ack] = []
        self.in_doubt: set[str] = set()
        self.seen: list[Seen] = []
        self.conflicts = 0
        self._tenant = tenant
        self._seed = seed
        self._ids = tenant.add(*["raw"] * DOCUMENTS)
        self._over = threading.Event()
        self._threads = ThreadPoolExecutor(WRITERS + READERS)
        self._running: list[Future[None]] = []

    def start(self) -> None:
        for number in range(WRITERS):
            self._running.append(self._threads.submit(self._until_over, self._writer(number)))
        for number in range(READERS):
            self._running.append(self._threads.submit(self._until_over, self._reader(number)))

    def wait_for_writes(self, count: int) -> None:
        wanted = len(self.acks) + count

        def written() -> bool:
            for thread in self._running:
                if thread.done():
                    thread.result()
            return len(self.acks) >= wanted

        eventually(written, within_seconds=20, what=f"{count} writes (seed {self._seed})")

    def end(self) -> None:
        self._over.set()
        for thread in self._running:
            thread.result()
        self._threads.shutdown()

    def _until_over(self, step: Callable[[], None]) -> None:
        while not self._over.is_set():
            try:
                step()
            except Exception as error:
                if not classify(error).is_infrastructure:
                    self._over.set()
                    raise
                self._over.wait(0.01)

    def _writer(self, writer: int) -> Callable[[], None]:
        chance = random.Random(self._seed * 100 + writer)
        latest: dict[UUID, Ack] = {}
        numbers = iter(range(10**9))

        def step() -> None:
            document_id = chance.choice(self._ids)
            own = latest.get(document_id)
            source: ReadFrom = "replica"
            while not self._over.is_set():
                document = self._read(document_id, own.position if own else None, source)
                if own is not None:
                    self._note(document, own.number, own.content)
                try:
                    latest[document_id] = self._write(writer, document, f"{writer}.{next(numbers)}")
                except Exception as error:
                    if classify(error) is not Fault.CONFLICT:
                        raise
                    self.conflicts += 1
                    source = "master"
                else:
                    return

        return step

    def _write(self, writer: int, document: Document, token: str) -> Ack:
        """One optimistic write on what was read; when its outcome stays unknown, it is noted as in doubt."""
        content = f"{token} after {text_of(document).split()[0]}"
        new = NewText(
            document_id=document.id,
            read_version=document.version,
            title=None,
            content=content,
            content_sha256=f"sha of {content}",
            pipeline="tests/1",
        )
        try:
            with writing(self._tenant.id) as session:
                outcome = write_version(session, document, new)
                assert outcome.version_number is not None
                position = session.commit_with_position()
        except Exception as error:
            if classify(error).is_infrastructure:
                self.in_doubt.add(content)
            raise
        ack = Ack(writer, new.document_id, outcome.version_number, content, position)
        self.acks.append(ack)
        return ack

    def _reader(self, reader: int) -> Callable[[], None]:
        """Its position covers all it has seen, wherever it saw it."""
        chance = random.Random(self._seed * 100 + 50 + reader)
        latest: dict[UUID, tuple[int, str]] = {}
        position: WalPosition | None = None

        def step() -> None:
            nonlocal position
            document_id = chance.choice(self._ids)
            document = self._read(document_id, position, "replica")
            if document_id in latest:
                self._note(document, *latest[document_id])
            position = position_after(database().cluster(HOME))
            latest[document_id] = (document.latest_version, text_of(document))

        return step

    def _read(self, document_id: UUID, position: WalPosition | None, source: ReadFrom) -> Document:
        def load(session: Session) -> Document:
            return session.get_one(Document, (self._tenant.id, document_id))

        return read(self._tenant.id, load, position=position, source=source)

    def _note(self, document: Document, floor_number: int, floor_content: str) -> None:
        found = document.latest_version, text_of(document)
        self.seen.append(Seen(floor_number, floor_content, *found, document.id, time.monotonic()))

    # Afterwards

    def judge(self, *, killed_at: float, fork: int) -> None:
        """`fork` is the LSN where the new timeline begins: what lies before it has survived."""
        chains = {one: [row.content for row in self._tenant.versions(one)] for one in self._ids}
        for document_id, chain in chains.items():
            numbers = [row.version_number for row in self._tenant.versions(document_id)]
            assert numbers == list(range(1, len(chain) + 1)), "versions are contiguous"
            tokens = ["raw", *(content.split()[0] for content in chain)]
            assert len(set(tokens)) == len(tokens), "each write is there once"
            assert [content.split()[-1] for content in chain] == tokens[:-1], "no update was lost between two versions"
            assert text_of(self._tenant.get(document_id)) == ["raw", *chain][-1]
            assert set(chain) <= {ack.content for ack in self.acks} | self.in_doubt
        self._judge_writes(chains, fork)
        self._judge_reads(chains, killed_at)

    def _judge_writes(self, chains: dict[UUID, list[str]], fork: int) -> None:
        lost_from: dict[UUID, int] = {}
        for ack in sorted(self.acks, key=lambda ack: ack.number):
            survived = chains[ack.document_id][ack.number - 1 : ack.number] == [ack.content]
            if ack.position.timeline > 1 or ack.position.lsn <= fork:
                assert survived, f"an acknowledged write is gone: {ack}"
            elif not survived:
                lost_from.setdefault(ack.document_id, ack.number)
            else:
                assert ack.number < lost_from.get(ack.document_id, ack.number + 1), f"survived without its past: {ack}"
        for writer in range(WRITERS):
            for document_id in self._ids:
                mine = [ack for ack in self.acks if (ack.writer, ack.document_id) == (writer, document_id)]
                kept = [ack.number for ack in mine if ack.content in chains[document_id]]
                assert kept == sorted(set(kept)), "a writer's writes are in its order"

    def _judge_reads(self, chains: dict[UUID, list[str]], killed_at: float) -> None:
        for seen in self.seen:
            if seen.floor_content in [*chains[seen.document_id], "raw"] or seen.ended_at < killed_at:
                assert seen.number >= seen.floor_number, f"a read went back: {seen}"


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_database()


def text_of(document: Document) -> str:
    assert document.content is not None
    return document.content


def pause_at_random(stack: LocalStack, chance: random.Random) -> None:
    for replica in stack.replicas:
        if chance.random() < 0.5:
            pause_replay(replica)
        else:
            resume_replay(replica)


def promote_the_furthest(stack: LocalStack) -> int:
    """Kill the master, promote who received most; returns where the new timeline begins."""
    stack.master.kill()
    received = [(parse_lsn(one.execute("SELECT pg_last_wal_receive_lsn()::text")[0][0]), one) for one in stack.replicas]
    failover(stack, max(received, key=lambda pair: pair[0])[1])
    content = stack.master.execute("SELECT pg_read_file('pg_wal/00000002.history')")[0][0]
    return parse_lsn(content.split()[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_no_update_is_lost_and_no_read_goes_back_amid_lag_and_a_promotion(own_stack: OwnStack, seed: int) -> None:
    stack = own_stack(replicas=2, migrated=True)
    chance = random.Random(seed)
    with applied(environment_of_any_master(stack) | SETTINGS):
        open_database(settings(), application_name="tests")
        history = History(Tenant(), seed)
        history.start()
        try:
            promotion = chance.randrange(STEPS // 3, STEPS - 3)
            for step in range(STEPS):
                pause_at_random(stack, chance)
                history.wait_for_writes(WRITES_BETWEEN_STEPS)
                if step == promotion:
                    killed_at = time.monotonic()
                    fork = promote_the_furthest(stack)
        finally:
            history.end()
        history.judge(killed_at=killed_at, fork=fork)
    print(  # noqa: T201
        f"seed {seed}: {len(history.acks)} writes, {len(history.in_doubt)} in doubt, {history.conflicts} conflicts, "
        f"{len(history.seen)} reads judged"
    )
    assert {ack.position.timeline for ack in history.acks} == {1, 2}
    assert history.conflicts, "nobody got in anybody's way"
