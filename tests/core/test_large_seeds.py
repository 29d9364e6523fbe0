"""Much is said about one seed, or much comes back from the archive: checkpoint and journal must still take it."""

from __future__ import annotations

import pytest

from crabnet import limits
from crabnet.core.records import SegmentRow
from crabnet.core.replica import Replica
from crabnet.core.rows import seed_row
from crabnet.core.snapshot import Snapshot, restore
from crabnet.domain.state import Outcome
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Kind
from tests.support.envelopes import NOW_S, Author


def fresh() -> Replica:
    """An empty replica."""
    return Replica(AdmissionPolicy(), seen_ttl_s=86_400, seen_capacity=10_000, parked_ttl_s=60)


@pytest.mark.parametrize("results", [1, 5, 45])
def test_a_seed_larger_than_a_row_survives_a_checkpoint(results: int) -> None:
    replica = fresh()
    creator, stranger = Author("creator"), Author("stranger")
    seed = creator.seed()
    replica.receive(creator.say(Kind.SEED_CREATED, {"seed": seed}).raw, NOW_S)
    for number in range(results):
        result: JsonObject = {
            "id": stranger.next_object_id(),
            "seed_id": seed["id"],
            "worker": stranger.id,
            "claim_id": "c",
            "exit_code": number,
            "timed_out": False,
            "stdout": "x" * limits.OUTPUT_CHARS_MAX,
            "stderr": "y" * limits.OUTPUT_CHARS_MAX,
            "output_hash": "",
            "duration_ms": 1,
            "created_at": NOW_S,
        }
        bid: JsonObject = {"seed_id": seed["id"], "bidder": stranger.id, "price": 5, "created_at": NOW_S}
        replica.receive(stranger.say(Kind.TASK_RESULT, {"result": result}).raw, NOW_S)
        bid["id"] = stranger.next_object_id()
        replica.receive(stranger.say(Kind.BID_SUBMITTED, {"bid": bid}).raw, NOW_S)
    rows = list(Snapshot(replica).rows())
    assert max(map(len, rows)) <= limits.CHECKPOINT_ROW_BYTES_MAX // 4
    restored = fresh()
    restore(restored, rows)
    assert restored.state.records == replica.state.records
    assert restored.state_hash() == replica.state_hash()
    [record] = restored.state.records.values()
    bids = min(results, limits.BIDS_PER_AUTHOR_PER_SEED_MAX_DEFAULT)
    assert (len(record.bids), len(record.others)) == (bids, results)
    restored.state.load(restored.state.records, None)
    assert restored.state_hash() == replica.state_hash()


@pytest.mark.parametrize(("seeds", "description_chars", "outcome"), [(3, 60_000, None), (80, 60_000, "limit_exceeded")])
def test_a_fork_brings_back_from_the_archive_what_one_frame_takes(
    seeds: int, description_chars: int, outcome: str | None
) -> None:
    replica = fresh()
    creator = Author("creator")
    for _ in range(seeds):
        seed = creator.seed(description="d" * description_chars)
        replica.receive(creator.say(Kind.SEED_CREATED, {"seed": seed}).raw, NOW_S)
    records = dict(replica.state.records)
    archive = {seed_id: seed_row(seed_id, record) for seed_id, record in records.items()}
    replica.archive(SegmentRow(1, "00" * 32, len(archive)), tuple(archive), NOW_S)
    assert not replica.state.records
    replica.attic.thaw = archive.get
    held = replica.feeds.get(creator.id).entry(1)
    assert held is not None
    other = Author("creator")
    while True:
        other.seq, other.head, other.nonce = 0, "", other.nonce + 1
        fork = other.say(Kind.SEED_CREATED, {"seed": other.seed(title="other")})
        if fork.meta.id < held.id:
            break
    before = replica.state_hash()
    applied = replica.receive(fork.raw, NOW_S)[0]
    if outcome is None:
        assert applied.reason is None
        assert applied.record is not None
        assert len(applied.record) < limits.FRAME_BYTES_MAX
        assert len(replica.state.records) == 1
    else:
        assert (applied.outcome, applied.reason, applied.record) == (Outcome.REJECTED, outcome, None)
        assert (replica.state_hash(), len(replica.state.records)) == (before, 0)
