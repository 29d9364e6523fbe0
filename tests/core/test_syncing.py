"""What a node asks for: promises that nobody can keep must not keep it from the rest."""

from __future__ import annotations

from crabnet import limits
from crabnet.core.parking import Parking
from crabnet.core.syncing import SyncPlanner
from crabnet.protocol.feed import Feeds
from crabnet.protocol.sync import Head
from tests.support.envelopes import Author

SOURCE = "192.0.2.1:9012"
OTHER = "192.0.2.2:9012"
LOST, REAL = Author("lost branch").id, Author("real").id


LATER_MS = limits.SYNC_STALE_HEAD_MS
HELD = Head(LOST, 1, "00" * 32)


def planner() -> SyncPlanner:
    """Of a node that holds one envelope of the lost branch's author."""
    feeds = Feeds()
    feeds.advance(LOST, HELD.seq, HELD.id, "")
    return SyncPlanner(feeds, Parking(60))


def asked(planner: SyncPlanner, now_ms: int) -> dict[str, set[str]]:
    """Whom the planner asks now, and for whose feeds."""
    return {source: {want.author for want in wants} for source, wants in planner.requests(now_ms, lambda _: True)}


def fill_window(sync: SyncPlanner) -> None:
    """The one feed takes all that may be asked of the source at once."""
    sync.hear(Head(LOST, limits.PARKED_ENVELOPES_PER_FEED_MAX, "ab" * 32), SOURCE, 0)
    assert asked(sync, 0) == {SOURCE: {LOST}}
    sync.hear(Head(REAL, 5, "cd" * 32), SOURCE, 1)
    assert asked(sync, 1) == {}


def test_a_source_that_holds_no_more_is_free_for_other_feeds() -> None:
    sync = planner()
    fill_window(sync)

    sync.hear(HELD, SOURCE, LATER_MS)

    assert asked(sync, LATER_MS) == {SOURCE: {REAL}}
    assert len(sync) == 1


def test_who_still_holds_more_is_asked_instead() -> None:
    sync = planner()
    fill_window(sync)
    sync.hear(Head(LOST, 7, "ab" * 32), OTHER, 1)

    sync.hear(HELD, SOURCE, LATER_MS)

    assert asked(sync, LATER_MS) == {SOURCE: {REAL}, OTHER: {LOST}}


def test_what_one_says_of_itself_says_nothing_of_others() -> None:
    sync = planner()
    fill_window(sync)

    sync.hear(HELD, OTHER, 2)

    assert asked(sync, 3) == {}
    assert len(sync) == 2


def test_older_word_that_took_a_longer_way_changes_nothing() -> None:
    sync = planner()
    fill_window(sync)

    sync.hear(HELD, SOURCE, LATER_MS - 1)

    assert len(sync) == 2


def test_nobody_is_asked_beyond_what_it_said_it_holds() -> None:
    """A liar's promise must not have honest sources asked for what nobody holds."""
    sync = planner()
    sync.hear(Head(REAL, 1, "cd" * 32), SOURCE, 0)
    sync.hear(Head(REAL, 200, "ef" * 32), OTHER, 0)

    wants = {(source, want.from_seq, want.to_seq) for source, all_ in sync.requests(0, lambda _: True) for want in all_}

    assert all(last == 1 for source, _, last in wants if source == SOURCE)
    assert {source for source, _, _ in wants} >= {OTHER}
