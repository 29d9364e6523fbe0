"""Strangers may say much about one seed: it must still go into a checkpoint, and come back."""

from __future__ import annotations

import pytest

from crabnet import limits
from crabnet.core.replica import Replica
from crabnet.core.snapshot import Snapshot, restore
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
    assert (len(record.bids), len(record.others)) == (results, results)
    restored.state.load(restored.state.records, None)
    assert restored.state_hash() == replica.state_hash()
