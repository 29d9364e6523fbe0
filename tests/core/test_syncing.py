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

    sync.hear(HELD, SOURCE, 2)

    assert asked(sync, 3) == {SOURCE: {REAL}}
    assert len(sync) == 1


def test_who_still_holds_more_is_asked_instead() -> None:
    sync = planner()
    fill_window(sync)
    sync.hear(Head(LOST, 7, "ab" * 32), OTHER, 1)

    sync.hear(HELD, SOURCE, 2)

    assert asked(sync, 3) == {SOURCE: {REAL}, OTHER: {LOST}}


def test_what_one_says_of_itself_says_nothing_of_others() -> None:
    sync = planner()
    fill_window(sync)

    sync.hear(HELD, OTHER, 2)

    assert asked(sync, 3) == {}
    assert len(sync) == 2
