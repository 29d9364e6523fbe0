"""The index of what is held cannot be read for a while: what was begun is done later, or not at all."""

from __future__ import annotations

import pytest

from crabnet.core.replica.held import HeldRow, MemoryHeld
from crabnet.errors import Reason, StorageFailedError
from tests.core.test_ends import archive, feed, fork_of
from tests.support.envelopes import NOW_S, Author, seed_id_of
from tests.support.journals import Journal


class Failing(MemoryHeld):
    """An index that can be read ``after`` times more."""

    def __init__(self) -> None:
        super().__init__()
        self.after: int | None = None
        self.broken: set[str] = set()
        """Authors of whose feeds nothing can be read."""

    def _read(self) -> None:
        if self.after is not None:
            if self.after <= 0:
                raise StorageFailedError("the disk fails", Reason.STORAGE_FAILED)
            self.after -= 1

    def envelope(self, seed_id: str, envelope_id: str) -> tuple[HeldRow, bytes] | None:
        self._read()
        return super().envelope(seed_id, envelope_id)

    def about(self, seed_id: str, *, bids: bool) -> list[HeldRow]:
        self._read()
        return super().about(seed_id, bids=bids)

    def seeds_from(self, author: str, seq: int, limit: int) -> list[tuple[int, str]]:
        self._read()
        if author in self.broken:
            raise StorageFailedError("the disk fails", Reason.STORAGE_FAILED)
        return super().seeds_from(author, seq, limit)


def failing_journal() -> tuple[Journal, Failing]:
    journal, held = Journal(), Failing()
    journal.replica.held = held
    return journal, held


class TestADiskThatFails:
    """Whatever cannot be read now is done later, and what the journal says is what the replica is."""

    @pytest.mark.parametrize("answers", range(8))
    def test_in_the_midst_of_an_end(self, answers: int) -> None:
        creator, worker = Author("creator"), Author("worker")
        seeds = feed(creator, 6)
        bid = worker.bid(seeds[3])
        fork = fork_of(creator, seeds[1])
        journal, held = failing_journal()
        twin = Journal()
        twin.tell(*seeds, bid, fork)
        journal.tell(*seeds, bid, fork)
        held.after = answers
        try:
            journal.keep(journal.replica.settling.settle_some(64, NOW_S))
        except StorageFailedError:
            assert answers < 3
        held.after = None
        assert journal.replayed().hash == twin.hash
        assert journal.hash == twin.hash
        assert journal.replayed().hash == twin.hash

    @pytest.mark.parametrize("archived", [True, False])
    @pytest.mark.parametrize("answers", range(6))
    def test_when_something_behind_is_named(self, answers: int, archived: bool) -> None:
        creator, worker, rival = Author("creator"), Author("worker"), Author("rival")
        seed = creator.publish()
        bid, other = worker.bid(seed), rival.bid(seed)
        claim = creator.claim(bid)
        start = worker.start(claim)
        journal, held = failing_journal()
        twin = Journal()
        for each in (journal, twin):
            each.tell(seed, bid, other, claim, fork_of(creator, claim))
            each.settle()
        if archived:
            archive(journal, [seed_id_of(seed)])
        held.after = answers
        (applied,) = journal.tell(start)
        assert (applied.record is None) is (applied.reason is Reason.UNAVAILABLE)
        assert applied.record is not None or journal.replica.feeds.get(worker.id).head_seq == 1
        held.after = None
        state = journal.replica.state
        assert archived or journal.replayed().replica.state.records == state.records
        assert applied.record is not None or (seed_id_of(seed) in state.records) is not archived
        journal.tell(start)
        twin.tell(start)
        assert journal.hash == twin.hash
        assert journal.status(seed) == "Running"

    def test_one_feed_that_cannot_be_read_does_not_keep_others_from_being_worked_off(self) -> None:
        one, other = Author("one"), Author("other")
        feeds = [feed(author, 3) for author in (one, other)]
        journal, held = failing_journal()
        journal.tell(*feeds[0], *feeds[1], fork_of(one, feeds[0][1]), fork_of(other, feeds[1][1]))
        held.broken = {one.id}
        with pytest.raises(StorageFailedError):
            journal.replica.settling.settle_some(64, NOW_S)
        journal.keep(journal.replica.settling.settle_some(64, NOW_S))
        assert [feed.author for feed in journal.replica.feeds.unsettled()] == [one.id]
