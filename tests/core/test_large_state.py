"""What grows with time, or with what strangers say, fits in the rows of a checkpoint; a record fits in a frame."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec import Raw

from crabnet import limits
from crabnet.core.replica.records import RefoldRecord, SegmentRow, encode_record, event_rows
from crabnet.core.replica.replica import Replica
from crabnet.core.replica.rows import SEED_ROW_BYTES_MAX, seed_row
from crabnet.core.replica.snapshot import Snapshot, restore
from crabnet.domain.model import Fact, FactKind, Progress, TaskResult
from crabnet.domain.state import SeedEvent
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.protocol.envelope import Kind
from crabnet.protocol.feed import FEED_WINDOW_ENTRIES
from crabnet.storage.checkpoint.writing import check_row
from tests.support.envelopes import NOW_S, Author

FIXTURES = Path(__file__).parents[1] / "fixtures"
LONGEST = "\x01" * limits.NODE_ID_CHARS_MAX
"""The id that takes most in JSON: 768 bytes."""


def fresh() -> Replica:
    """An empty replica."""
    return Replica(AdmissionPolicy(), seen_ttl_s=86_400, seen_capacity=100_000, parked_ttl_s=60)


def lists_of(replica: Replica) -> tuple[list[SegmentRow], set[str], set[str]]:
    return replica.archived.segments, replica.state.erased, replica.state.outdated


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
    replica.archived.segments = [SegmentRow(each + 1, "ab" * 32, 1_000) for each in range(number)]
    ids = [f"{each:07}" + LONGEST[7:] for each in range(min(number, 12_000))]
    replica.state.erased.update(ids)
    replica.state.outdated.update(ids[1::3])
    assert lists_of(restored(replica)) == lists_of(replica)


def test_a_full_window_and_the_longest_ids_fit_in_rows() -> None:
    replica = fresh()
    author = Author("author").id
    for seq in range(1, FEED_WINDOW_ENTRIES + 2):
        replica.feeds.advance(author, seq, "ab" * 32)
    for each in range(12_000):
        replica.feeds.get(author).open_seeds[f"{each:05}" + LONGEST[5:]] = None
        replica.seen.add("unsigned:" + f"{each:05}" + LONGEST[5:], NOW_S)
    again = restored(replica)
    assert again.feeds.get(author) == replica.feeds.get(author)
    assert list(again.seen.entries()) == list(replica.seen.entries())


class _Archived:
    """A replica whose one seed was archived."""

    def __init__(self) -> None:
        self.replica = fresh()
        creator = Author("creator")
        self.replica.receive(creator.say(Kind.SEED_CREATED, {"seed": creator.seed()}).raw, NOW_S)
        [(self.seed_id, self.record)] = self.replica.state.records.items()
        self.archive = {self.seed_id: seed_row(self.seed_id, self.record)}
        self.put_away()

    def put_away(self) -> None:
        self.replica.archive(SegmentRow(1, "00" * 32, 1), (self.seed_id,), NOW_S)
        self.replica.archived.read_row = self.archive.get


@pytest.mark.parametrize("restarts", [False, True])
def test_only_what_the_archive_holds_is_remembered_when_it_goes(restarts: bool) -> None:
    """However often it comes and goes."""
    scene = _Archived()

    def after() -> tuple[set[str], set[str]]:
        if restarts:
            scene.replica = restored(scene.replica)
            scene.replica.archived.read_row = scene.archive.get
        return lists_of(scene.replica)[1:]

    seed_id, other = scene.seed_id, "never archived"
    nothing: set[str] = set()
    assert after() == (nothing, nothing)
    assert scene.replica.archived.readmit((seed_id,))
    scene.replica.state.replace(other, scene.record)
    assert after() == (nothing, {seed_id})
    for _ in range(2):
        scene.replica.state.replace(seed_id, None)
        scene.replica.state.replace(other, None)
        assert after() == ({seed_id}, nothing)
        assert not scene.replica.archived.readmit((seed_id,))
        scene.replica.state.replace(seed_id, scene.record)
        scene.replica.state.replace(other, scene.record)
        assert after() == (nothing, {seed_id})
    scene.put_away()
    assert after() == (nothing, nothing)


def test_a_checkpoint_that_does_not_tell_what_the_archive_holds_is_read_with_care() -> None:
    scene = _Archived()
    scene.replica.archived.readmit((scene.seed_id,))
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
    segments, erased, outdated = lists_of(replica)
    assert [segment.number for segment in segments] == [1, 2, 3]
    assert erased == {"erased 1", "erased 2", "erased 3"}
    assert outdated == {"outdated 1"}
    assert len(replica.state.records) == 2


def test_a_change_of_any_size_becomes_records_that_fit_in_a_frame() -> None:
    """With the longest of everything, and the largest row that comes back from the archive."""
    output = LONGEST * (limits.OUTPUT_CHARS_MAX // len(LONGEST))
    results = tuple(
        Fact(
            kind=FactKind.RESULT,
            author=LONGEST,
            seq=each,
            ts=NOW_S,
            body=TaskResult(
                id=f"{each:05}" + LONGEST[5:],
                seed_id=LONGEST,
                worker=LONGEST,
                exit_code=0,
                timed_out=False,
                stdout=output,
                stderr=output,
                output_hash="",
                duration_ms=1,
            ),
            signed=False,
        )
        for each in range(3)
    )
    removed = tuple(f"{each:05}" + LONGEST[5:] for each in range(20_000))
    event = SeedEvent(LONGEST, None, removed, Progress(note="\x01" * limits.RULES_CHARS_MAX), results)
    readmitted = (Raw(b'"%s"' % (b"x" * (SEED_ROW_BYTES_MAX - 2))),)
    records = [encode_record(RefoldRecord(NOW_S, (LONGEST,), (row,), readmitted)) for row in event_rows(event)]
    assert len(records) > 5
    assert max(map(len, records)) <= limits.RECORD_BYTES_MAX
