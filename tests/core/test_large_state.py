"""What grows with time, or with what strangers say, fits in the rows of a checkpoint; a record fits in a frame."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from crabnet import limits
from crabnet.core.records import SegmentRow
from crabnet.core.replica import Replica
from crabnet.core.rows import seed_row
from crabnet.core.snapshot import Snapshot, restore
from crabnet.domain.fold import rebuild
from crabnet.domain.lifecycle import Record
from crabnet.domain.model import Bid, Fact, FactKind
from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind
from crabnet.protocol.feed import FEED_WINDOW_ENTRIES
from crabnet.storage.checkpoint import check_row
from tests.support.envelopes import NOW_S, Author

FIXTURES = Path(__file__).parents[1] / "fixtures"
LONGEST = "\x01" * limits.NODE_ID_CHARS_MAX
"""The id that takes most in JSON: 768 bytes."""


def fresh() -> Replica:
    """An empty replica."""
    return Replica(AdmissionPolicy(), seen_ttl_s=86_400, seen_capacity=100_000, parked_ttl_s=60)


def tell(replica: Replica, *envelopes: Envelope) -> None:
    for envelope in envelopes:
        replica.receive(envelope.raw, NOW_S)


def bid_on(author: Author, seed_id: str) -> Envelope:
    bid: JsonObject = {"seed_id": seed_id, "bidder": author.id, "price": 5, "created_at": NOW_S}
    return author.say(Kind.BID_SUBMITTED, {"bid": {**bid, "id": author.next_object_id()}})


def fork_of(replica: Replica, name: str) -> Envelope:
    """The first envelope of an author said again, so that the new one stands."""
    held = replica.feeds.get(Author(name).id).entry(1)
    assert held is not None
    other = Author(name)
    while True:
        other.seq, other.head, other.nonce = 0, "", other.nonce + 1
        fork = other.say(Kind.SEED_CREATED, {"seed": other.seed(title="other")})
        if fork.meta.id < held.id:
            return fork


def lists_of(replica: Replica) -> tuple[list[SegmentRow], set[str], set[str], list[str]]:
    state = replica.state
    return replica.attic.segments, state.erased, state.outdated, list(replica.dormancy.restless)


def restored(replica: Replica) -> Replica:
    """What a checkpoint gives back; all of its rows are within bounds."""
    rows = list(Snapshot(replica).rows())
    for row in rows:
        check_row(row)
    again = fresh()
    restore(again, rows)
    assert again.state_hash() == replica.state_hash()
    return again


@pytest.mark.parametrize("number", [0, 1, 999, 1_000, 1_001, 2_000, 120_000])
def test_lists_of_any_length_survive_a_checkpoint(number: int) -> None:
    replica = fresh()
    replica.attic.segments = [SegmentRow(each + 1, "ab" * 32, 1_000) for each in range(number)]
    ids = [f"{each:07}" + LONGEST[7:] for each in range(min(number, 12_000))]
    replica.state.erased.update(ids[::2])
    replica.state.outdated.update(ids[1::3])
    replica.dormancy.restless = dict.fromkeys(ids, 0)
    assert lists_of(restored(replica)) == lists_of(replica)


def test_a_full_window_of_the_longest_ids_fits_in_a_row() -> None:
    replica = fresh()
    author = Author("author").id
    for seq in range(1, FEED_WINDOW_ENTRIES + 2):
        replica.feeds.advance(author, seq, "ab" * 32, LONGEST)
        replica.seen.add("unsigned:" + f"{seq:05}" + LONGEST[5:], NOW_S)
    assert len(restored(replica).feeds.get(author).window) == FEED_WINDOW_ENTRIES


def test_what_was_never_archived_is_not_remembered_when_it_goes() -> None:
    replica = fresh()
    author = Author("forger")
    tell(replica, *(bid_on(author, f"{each:03}" + LONGEST[3:]) for each in range(50)))
    assert len(replica.state.records) == 50
    tell(replica, fork_of(replica, "forger"))
    assert len(replica.state.records) == 1
    assert lists_of(replica)[1:3] == (set(), set())


class _Archived:
    """A replica whose one seed was archived, and whatever happens to it later. The archive knows its first state."""

    def __init__(self) -> None:
        self.replica = fresh()
        creator = Author("creator")
        tell(self.replica, creator.say(Kind.SEED_CREATED, {"seed": creator.seed()}))
        [(self.seed_id, record)] = self.replica.state.records.items()
        self.archive = {self.seed_id: seed_row(self.seed_id, record)}
        self.replica.archive(SegmentRow(1, "00" * 32, 1), (self.seed_id,), NOW_S)
        self.replica.attic.thaw = self.archive.get

    def restart(self) -> None:
        self.replica = restored(self.replica)
        self.replica.attic.thaw = self.archive.get


@pytest.mark.parametrize("restarts", [False, True])
def test_an_archived_seed_that_goes_is_not_found_in_the_archive(restarts: bool) -> None:
    """However often it comes and goes meanwhile."""
    scene = _Archived()
    rival = Author("rival")

    def step(*envelopes: Envelope) -> Replica:
        tell(scene.replica, *envelopes)
        if restarts:
            scene.restart()
        return scene.replica

    assert lists_of(step(bid_on(rival, scene.seed_id)))[1:3] == (set(), {scene.seed_id})
    forker = Author("creator")
    forker.seq = 0
    other = bid_on(forker, "elsewhere")
    held = scene.replica.feeds.get(forker.id).entry(1)
    assert held is not None
    while other.meta.id > held.id:
        forker.seq, forker.head = 0, ""
        other = bid_on(forker, "elsewhere")
    step(other)
    record = scene.replica.state.records[scene.seed_id]
    assert (record.seed, len(record.bids)) == (None, 1)
    lone = fork_of(scene.replica, "rival")
    assert lists_of(step(lone))[1:3] == ({scene.seed_id}, set())
    assert scene.seed_id not in scene.replica.state.records
    late = Author("late")
    assert lists_of(step(bid_on(late, scene.seed_id)))[1:3] == (set(), {scene.seed_id})
    assert scene.replica.state.records[scene.seed_id].seed is None
    assert lists_of(step(fork_of(scene.replica, "late")))[1:3] == ({scene.seed_id}, set())


def test_a_checkpoint_that_does_not_tell_what_the_archive_holds_is_read_with_care() -> None:
    scene = _Archived()
    tell(scene.replica, bid_on(Author("rival"), scene.seed_id))
    rows = []
    for raw in Snapshot(scene.replica).rows():
        row = json.loads(raw)
        rows.append(json.dumps(row[:-1] if row[0] == "totals" else row).encode())
    again = fresh()
    restore(again, rows)
    assert again.state.outdated == {scene.seed_id}


def test_the_rows_of_a_stored_checkpoint_are_still_read() -> None:
    replica = fresh()
    restore(replica, (FIXTURES / "checkpoint-rows-v1.ndjson").read_bytes().splitlines())
    segments, erased, outdated, restless = lists_of(replica)
    assert [segment.number for segment in segments] == [1, 2, 3]
    assert erased == {"erased 1", "erased 2", "erased 3"}
    assert outdated == {"outdated 1"}
    assert restless == ["restless 1", "restless 2"]
    assert len(replica.state.records) == 2


# --- one record ----------------------------------------------------------------------------------------------


def _with_bids(replica: Replica, seed_id: str, number: int) -> Record:
    """The seed with bids of strangers, 32 each."""
    bids = [
        Fact(
            kind=FactKind.BID,
            author=f"stranger {each // 32}",
            seq=each % 32 + 1,
            ts=NOW_S,
            body=Bid(
                id=str(uuid.UUID(int=each)), seed_id=seed_id, bidder=f"stranger {each // 32}", price=5, created_at=NOW_S
            ),
        )
        for each in range(number)
    ]
    return rebuild((*replica.state.records[seed_id].facts(), *bids))


@pytest.mark.parametrize(("facts", "refused"), [(2_000, False), (30_000, True)])
def test_a_fork_of_which_one_record_cannot_tell_is_refused_before_anything_changes(facts: int, refused: bool) -> None:
    """What was said about the seed is judged twice: when it goes, and when another takes its place."""
    replica = fresh()
    creator = Author("creator")
    old = [creator.say(Kind.SEED_CREATED, {"seed": creator.seed(description="d" * 60_000)}) for _ in range(62)]
    tell(replica, *old)
    first, *others = list(replica.state.records)
    archive = {seed_id: seed_row(seed_id, replica.state.records[seed_id]) for seed_id in others}
    replica.archive(SegmentRow(1, "00" * 32, len(archive)), tuple(archive), NOW_S)
    replica.attic.thaw = archive.get
    replica.state.replace(first, _with_bids(replica, first, facts))
    before = (replica.state_hash(), dict(replica.state.records), dict(replica.state.archived))
    applied = replica.receive(fork_of(replica, "creator").raw, NOW_S)[0]
    if refused:
        assert (applied.outcome, applied.reason) == (Outcome.REJECTED, Reason.LIMIT_EXCEEDED)
        assert applied.record is None
        assert (replica.state_hash(), replica.state.records, dict(replica.state.archived)) == before
        assert not replica.state.outdated
    else:
        assert applied.record is not None
        assert len(applied.record) <= limits.RECORD_BYTES_MAX
