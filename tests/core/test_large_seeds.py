"""Much is said about one seed: checkpoint and journal must still take it."""

from __future__ import annotations

import pytest

from crabnet import limits
from crabnet.core.replica.records import PART_BYTES
from crabnet.core.replica.rows import SEED_ROW_BYTES_MAX
from crabnet.core.replica.snapshot import Snapshot, restore
from crabnet.protocol.envelope import Envelope
from tests.support.envelopes import Author
from tests.support.journals import Journal, new_replica

NOTES = "n" * limits.NOTES_CHARS_MAX


def bids(seed: Envelope, count: int) -> list[Envelope]:
    """So many bids on a seed, as large as can be, by as many authors as it takes."""
    most = limits.BIDS_PER_AUTHOR_PER_SEED_MAX_DEFAULT
    bidders = [Author(f"bidder{number}") for number in range(-(-count // most))]
    return [bidders[number // most].bid(seed, notes=NOTES) for number in range(count)]


@pytest.mark.parametrize("count", [1, 200, 400])
def test_a_seed_larger_than_a_row_survives_a_checkpoint(count: int) -> None:
    journal, creator = Journal(), Author("creator")
    seed = creator.publish()
    said = bids(seed, count)
    claim = creator.claim(said[-1])
    journal.tell(seed, *said, claim)
    replica = journal.replica
    rows = list(Snapshot(replica).rows())
    assert max(map(len, rows)) <= SEED_ROW_BYTES_MAX
    assert sum(row.startswith(b'["seed"') for row in rows) == (2 if count == 400 else 1)
    restored = new_replica()
    restore(restored, rows)
    assert restored.state.records == replica.state.records
    assert restored.state_hash() == replica.state_hash()
    [record] = restored.state.records.values()
    assert (len(record.bids), len(record.others)) == (count, 1)
    restored.state.load(restored.state.records, None)
    assert restored.state_hash() == replica.state_hash()


def test_what_comes_back_when_a_settled_seed_opens_again_is_journalled_in_parts() -> None:
    """Bids on a settled seed are kept nowhere but in the journal; once the settlement is taken back they count."""
    journal, creator, worker = Journal(), Author("creator"), Author("worker")
    seed = creator.publish()
    bid = worker.bid(seed)
    claim = creator.claim(bid)
    result = worker.finish(claim)
    settled = creator.settle(result)
    late = bids(seed, 300)
    journal.tell(seed, bid, claim, result, settled, *late)
    assert len(journal.record(seed).bids) == 1
    before = len(journal.records)

    journal.tell(creator.rewind(settled).settle(result, "Rejected"))

    assert journal.status(seed) == "Done"
    assert len(journal.record(seed).bids) == 1 + len(late)
    parts = journal.records[before:]
    assert len(parts) > 3
    assert max(map(len, parts)) < 2 * PART_BYTES < limits.FRAME_BYTES_MAX // 4
    assert journal.replayed().hash == journal.hash
    for cut in range(before + 1, len(journal.records)):
        again = journal.replayed(cut)
        assert (again.hash, again.record(seed)) == (journal.hash, journal.record(seed))
