"""What is held, asked through the index behind the journal while parts of it are not in the index yet."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

from crabnet import limits
from crabnet.core.commands import Received
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects, Serve
from crabnet.core.replica.held import Held, HeldRow, MemoryHeld, Role
from crabnet.core.replica.records import frame_of
from crabnet.core.replica.replica import Replica
from crabnet.domain.model import FactKind
from crabnet.errors import Reason, RefusedError
from crabnet.node.durable.framing import Durable, Stretch
from crabnet.node.durable.indexing import History
from crabnet.protocol.envelope import Envelope
from crabnet.protocol.feed import FEED_WINDOW_ENTRIES
from crabnet.protocol.fork_proof import document_of, verify_proof
from crabnet.storage.feed_index import FeedIndex
from crabnet.storage.files import RealFiles
from crabnet.storage.layout import Layout
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole
from tests.support.envelopes import NOW_S, Author, signer
from tests.support.forked_jobs import settled_behind_the_end

NOW_MS = NOW_S * 1000
SOURCE = "192.0.2.1:9012"


class Both:
    """``Held`` that is asked of two: whoever answers otherwise than the other is found."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.memory = MemoryHeld()
        self.rows: list[HeldRow] = []

    def add(self, row: HeldRow, raw: bytes) -> None:
        self.rows.append(row)
        self.history.add(row, raw)
        self.memory.add(row, raw)

    def id_at(self, author: str, seq: int) -> str | None:
        """See ``Held``."""
        return same(*(each.id_at(author, seq) for each in (self.history, self.memory)))

    def envelope(self, seed_id: str, envelope_id: str) -> tuple[HeldRow, bytes] | None:
        """See ``Held``."""
        return same(*(each.envelope(seed_id, envelope_id) for each in (self.history, self.memory)))

    def about(self, seed_id: str, *, bids: bool) -> list[HeldRow]:
        """See ``Held``."""
        return same(*(sorted(each.about(seed_id, bids=bids), key=repr) for each in (self.history, self.memory)))

    def seeds_from(self, author: str, seq: int, limit: int) -> list[tuple[int, str]]:
        """See ``Held``."""
        return same(*(each.seeds_from(author, seq, limit) for each in (self.history, self.memory)))


T = TypeVar("T")


def same(found: T, expected: T) -> T:
    assert found == expected
    return found


class Bench:
    """A core that keeps what it holds in a real ledger and a real index, which lags behind until ``flush``."""

    def __init__(self, path: Path) -> None:
        files = RealFiles()
        self.path = path
        self.ledger = Ledger.open(path, files=files, now_ms=NOW_MS, role=LockRole.NODE)
        self.index = FeedIndex.open(files, path / "index.sqlite", journal_last_lsn=self.ledger.last_lsn)
        self.history = History(self.ledger, self.index, files, Layout(path), "default")
        self.core = Core(CoreConfig(), signer("observer"), lambda: 1)
        self.both = Both(self.history)
        self.core.replica.held = self.both
        self.waiting: list[Durable] = []

    def tell(self, *envelopes: Envelope) -> list[str]:
        """Hand over envelopes; what became of each."""
        told = []
        for envelope in envelopes:
            effects = Effects()
            self.core.handle(Received(SOURCE, envelope.raw), NOW_MS, effects)
            self.core.rest(NOW_MS, effects)
            self.waiting.append(Durable(effects))
            notice = next(each for each in effects.notices if each.kind.startswith("envelope_"))
            told.append(str(notice.fields.get("reason") or "accepted"))
        return told

    def commit(self) -> None:
        """All of it becomes durable, and is noted."""
        waiting, self.waiting = self.waiting, []
        for durable in waiting:
            if durable.effects.records:
                position = self.ledger.append(frame_of(durable.effects.records))
                durable.stretches.append(Stretch(0, position, 0))
        self.history.note(waiting)

    def flush(self) -> None:
        self.commit()
        self.history.flush()

    def close(self) -> None:
        self.index.close()
        self.ledger.close()

    def check(self) -> None:
        """Ask everything that can be asked of what is held."""
        held, rows = self.both, self.both.rows
        for row in rows:
            if row.seed_id:
                held.envelope(row.seed_id, row.envelope_id)
            held.envelope("another", row.envelope_id)
            held.seeds_from(row.author, row.seq, 3)
            held.seeds_from(row.author, row.seq, 1_000)
            if self.core.replica.feeds.is_front(row.author, row.seq):
                held.id_at(row.author, row.seq)
        for seed_id in {row.seed_id for row in rows if row.seed_id}:
            held.about(seed_id, bids=True)
            held.about(seed_id, bids=False)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


class Story(NamedTuple):
    """A job that is settled behind the end of its creator's feed."""

    seed_id: str
    worker: Author
    claim: Envelope
    told: list[Envelope]


def story() -> Story:
    job = settled_behind_the_end()
    return Story(job.seed_id, Author("settled worker"), job.told[6], job.told)


def test_what_is_fresh_and_what_is_in_the_index_are_one(tmp_path: Path) -> None:
    job = story()
    for flushed in range(len(job.told) + 1):
        bench = Bench(tmp_path / str(flushed))
        bench.tell(*job.told[:flushed])
        bench.flush()
        bench.check()
        bench.tell(*job.told[flushed:])
        bench.check()
        bench.commit()
        bench.check()
        record = bench.core.record(job.seed_id)
        assert record.progress.status.value == "Accepted", flushed
        assert any(fact.kind is FactKind.ACKNOWLEDGED for fact in record.others)
        bench.flush()
        bench.check()
        bench.close()


def test_what_stands_behind_an_end_is_found_by_its_seed_and_marked(bench: Bench) -> None:
    job = story()
    evidence = job.told.index(job.claim) + 1
    bench.tell(*job.told[:evidence])
    bench.flush()
    assert bench.history.envelope(job.seed_id, job.claim.meta.id) is None, "mere evidence says nothing about a seed"
    bench.tell(*job.told[evidence:])
    bench.flush()
    found = bench.history.envelope(job.seed_id, job.claim.meta.id)
    assert found is not None
    assert found[1] == job.claim.raw
    assert (found[0].kind, found[0].role) == (FactKind.CLAIM, Role.MAY)
    assert bench.history.named(job.seed_id, job.claim.meta.id) == job.claim.raw
    proof = bench.history.proof(job.claim.meta.from_, job.claim.meta.seq)
    assert proof is not None
    assert verify_proof(proof).meta.seq == job.claim.meta.seq


def test_two_envelopes_for_one_place_are_two_of_those_that_a_reading_gives(bench: Bench) -> None:
    """Else a reading that is full looks as if nothing came behind it, and the rest of a feed is never folded anew."""
    author = Author("creator").id
    rows = [HeldRow(author, 1, each * 64, "seed", FactKind.CLAIM, "f" * 64, Role.MAY) for each in "ab"]
    rows.append(HeldRow(author, 2, "c" * 64, "seed", FactKind.SETTLE, "f" * 64, Role.MAY))
    for row in rows:
        bench.both.add(row, b"{}")
    assert bench.history.seeds_from(author, 1, 2) == [(1, "seed"), (1, "seed")]
    assert bench.history.seeds_from(author, 1, 9) == [(1, "seed"), (1, "seed"), (2, "seed")]


def wide_fork(bench: Bench, seeds: int) -> tuple[Author, Envelope, Envelope]:
    """A creator with seeds, on each of which somebody has bid; two envelopes for the place of the first."""
    creator, worker = Author("creator"), Author("worker")
    rival_first = creator.twin().publish(title="rival")
    published = [creator.publish() for _ in range(seeds)]
    bids = [worker.bid(seed) for seed in published]
    bench.tell(*published, *bids)
    return worker, published[0], rival_first


def test_the_end_of_a_long_feed_is_worked_off_from_the_index(bench: Bench) -> None:
    seeds = 2 * limits.SETTLED_AT_ONCE_MAX + 7
    _, first, rival = wide_fork(bench, seeds)
    bench.flush()
    assert bench.tell(rival) == ["fork"]
    effects = Effects()
    while bench.core.replica.settling.pending:
        bench.core.rest(NOW_MS, effects)
    assert bench.core.replica.feeds.get(first.meta.from_).settled == 1
    assert len(bench.core.replica.state.records) == seeds, "each is pinned by its bid"


# --- damage ----------------------------------------------------------------------------------------------------


def damage(bench: Bench) -> None:
    """The index is emptied when somebody reads it next."""
    other = sqlite3.connect(bench.path / "index.sqlite")
    other.execute("DROP TABLE entry")
    other.commit()
    other.close()


ASKED: dict[str, Callable[[Held, Story], object]] = {
    "id_at": lambda held, job: held.id_at(job.worker.id, 1),
    "envelope": lambda held, job: held.envelope(job.seed_id, "0" * 64),
    "about": lambda held, job: held.about(job.seed_id, bids=False),
    "seeds_from": lambda held, job: held.seeds_from(job.worker.id, 1, 10),
    "the bids": lambda held, job: held.about(job.seed_id, bids=True),
}


@pytest.mark.parametrize("name", ASKED)
def test_after_damage_nothing_is_said_to_be_absent(bench: Bench, name: str) -> None:
    job = story()
    bench.tell(*job.told)
    bench.flush()
    damage(bench)
    for _ in range(2):
        with pytest.raises(RefusedError) as refused:
            ASKED[name](bench.history, job)
        assert refused.value.reason is Reason.UNAVAILABLE
    bench.flush()
    with pytest.raises(RefusedError):
        ASKED[name](bench.history, job)


def old_place(bench: Bench) -> tuple[Envelope, Envelope]:
    """An envelope of which only the index knows the place, and another for it."""
    creator = Author("creator")
    rival = creator.twin().publish(title="rival")
    first = creator.publish()
    bench.tell(first, *[creator.publish() for _ in range(FEED_WINDOW_ENTRIES)])
    bench.flush()
    bench.core.replica.held = bench.history
    return first, rival


def test_while_the_index_is_damaged_what_comes_again_is_no_fork(bench: Bench) -> None:
    first, rival = old_place(bench)
    damage(bench)
    for _ in range(2):
        assert bench.tell(rival) == ["unavailable"]
    assert bench.core.replica.feeds.get(first.meta.from_).end == 0


def test_what_the_index_has_lost_makes_no_fork(bench: Bench) -> None:
    """As after a repair: frames are lost, and the index was made of the others."""
    first, rival = old_place(bench)
    other = sqlite3.connect(bench.path / "index.sqlite")
    other.execute("DELETE FROM entry WHERE seq = 1")
    other.commit()
    other.close()
    assert bench.tell(rival) == ["duplicate"]
    assert bench.core.replica.feeds.get(first.meta.from_).end == 0


def test_a_fork_behind_what_the_index_has_lost_waits_for_better_times(bench: Bench) -> None:
    """The head of an ended feed is part of the state hash: it is not guessed."""
    creator = Author("creator")
    first = creator.publish()
    rival = creator.twin().publish(title="rival")
    bench.tell(first, *[creator.publish() for _ in range(FEED_WINDOW_ENTRIES + 1)])
    bench.flush()
    bench.core.replica.held = bench.history
    other = sqlite3.connect(bench.path / "index.sqlite")
    other.execute("DELETE FROM entry WHERE seq = 1")
    other.commit()
    other.close()
    before = bench.core.replica.state_hash()
    assert bench.tell(rival) == ["unavailable"]
    assert bench.core.replica.state_hash() == before


def test_a_proof_that_comes_while_the_index_is_damaged_stops_nothing(bench: Bench) -> None:
    first, rival = old_place(bench)
    damage(bench)
    low, high = sorted((first, rival), key=lambda each: each.meta.id)
    evidence = verify_proof(document_of(low.raw, high.raw))
    effects = Effects()
    bench.core.learn_fork(evidence, SOURCE, NOW_MS, effects)
    assert [each.fields["reason"] for each in effects.notices] == ["unavailable"]
    assert (bench.core.replica.feeds.get(first.meta.from_).end, effects.records) == (0, [])


def test_what_the_journal_gives_otherwise_is_told_and_decides_nothing(bench: Bench) -> None:
    job = story()
    bench.tell(*job.told[:8])
    bench.flush()
    path = next((bench.path / "journal").glob("*.log"))
    content = path.read_bytes()
    for old in (job.claim.raw[-60:], job.told[2].raw[-60:]):
        content = content.replace(old, b"x" * len(old))
    path.write_bytes(content)
    with pytest.raises(RefusedError, match="is damaged") as refused:
        bench.history.envelope(job.seed_id, job.told[2].meta.id)
    assert refused.value.reason is Reason.UNAVAILABLE


def test_ranges_are_served_without_evidence_and_within_a_bound(bench: Bench) -> None:
    job = story()
    bench.tell(*job.told)
    serve = Serve(job.worker.id, 1, 99, SOURCE)
    [found] = bench.history.read([serve])
    bench.commit()
    [found] = bench.history.read([serve])
    heads = bench.core.replica.feeds.heads()
    assert (found[-1].seq, found[-1].envelope_id) == heads[job.worker.id]
    assert [each.seq for each in found] == list(range(1, found[-1].seq + 1))


def test_a_replica_of_what_is_held_counts_the_same(bench: Bench) -> None:
    """What was decided beside an index in parts is what a replica with all in memory decides."""
    job = story()
    memory = Replica(CoreConfig().policy, seen_ttl_s=100, seen_capacity=1_000, parked_ttl_s=100)
    for at, envelope in enumerate(job.told):
        bench.tell(envelope)
        if at % 3 == 0:
            bench.flush()
        memory.receive(envelope.raw, NOW_S)
        memory.settling.settle_all(NOW_S)
    assert bench.core.replica.state_hash() == memory.state_hash()
