"""What a node asks for: promises that nobody can keep must not keep it from the rest."""

from __future__ import annotations

import pytest

from crabnet import limits
from crabnet.core.replica.parking import Parking
from crabnet.core.sync.planner import SyncPlanner
from crabnet.protocol.admission import Admitted
from crabnet.protocol.feed import Feeds
from crabnet.protocol.sync import Head, Named, Served
from tests.support.envelopes import Author, admitted

SOURCE = "udp:192.0.2.1:9012"
OTHER = "udp:192.0.2.2:9012"
LOST, REAL = Author("lost branch").id, Author("real").id


LATER_MS = limits.SYNC_STALE_HEAD_MS
HELD = Head(LOST, 1, "00" * 32)


def planner() -> SyncPlanner:
    """Of a node that holds one envelope of the lost branch's author."""
    feeds = Feeds()
    feeds.advance(LOST, HELD.seq, HELD.id)
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


def tell(sync: SyncPlanner, source: str, feeds: int, name: str, *, proven: bool = True) -> int:
    """``source`` says that it holds so many feeds of which nothing is held here. How many of them are taken down."""
    return sum(sync.hear(Head(f"{name} {at}", 70, "ab" * 32), source, 0, proven=proven) for at in range(feeds))


def asked_of(sync: SyncPlanner, source: str, *, rounds: int) -> int:
    """Of how many feeds a source is asked in so many rounds, all at once."""
    return sum(len(asked(sync, 1).get(source, ())) for _ in range(rounds))


def test_who_makes_up_feeds_cannot_keep_those_of_others_out() -> None:
    sync = planner()
    assert tell(sync, SOURCE, limits.SYNC_MISSING_FEEDS_MAX + 100, "made up") == limits.SYNC_MISSING_FEEDS_MAX

    assert tell(sync, OTHER, 100, "real") == 100

    assert len(sync) == limits.SYNC_MISSING_FEEDS_MAX
    assert tell(sync, SOURCE, 1, "one more") == 0


def test_a_full_table_is_shared_by_those_who_tell() -> None:
    sync = planner()
    tell(sync, SOURCE, limits.SYNC_MISSING_FEEDS_MAX, "first")

    taken = tell(sync, OTHER, limits.SYNC_MISSING_FEEDS_MAX, "second")

    assert limits.SYNC_MISSING_FEEDS_MAX // 2 - 1 <= taken <= limits.SYNC_MISSING_FEEDS_MAX // 2
    assert len(sync) == limits.SYNC_MISSING_FEEDS_MAX


def test_strangers_displace_nobody_and_are_displaced_first() -> None:
    sync = planner()
    half = limits.SYNC_MISSING_FEEDS_MAX // 2
    assert tell(sync, "udp:203.0.113.1:1", half + 10, "made up", proven=False) == half
    assert tell(sync, SOURCE, half, "real") == half
    assert tell(sync, "udp:203.0.113.2:1", 10, "more made up", proven=False) == 0

    assert tell(sync, OTHER, 10, "other") == 10

    assert tell(sync, SOURCE, half, "real") == 0, "they are all still there"


def test_feeds_that_wait_for_a_busy_source_do_not_hold_up_those_of_others() -> None:
    sync = planner()
    tell(sync, SOURCE, limits.SYNC_MISSING_FEEDS_MAX - 1, "made up")
    while asked(sync, 0):
        pass  # until as much is under way as may be

    tell(sync, OTHER, 1, "real")

    rounds = limits.SYNC_MISSING_FEEDS_MAX // limits.SYNC_FEEDS_PER_ROUND
    assert asked_of(sync, OTHER, rounds=rounds + 1) == 1


def test_a_feed_that_waits_for_another_asks_for_no_more_while_room_is_short() -> None:
    """What comes after could only wait, in the place of what is lacked."""
    feeds, parking = Feeds(), Parking(60)
    sync = SyncPlanner(feeds, parking)
    sync.hear(Head(LOST, 100, "ab" * 32), SOURCE, 0)
    waiting = admitted(Author("lost branch").bid(Author("real").publish()).raw)
    parking.put(waiting, 0, SOURCE, lacks=Named("seed", "c" * 64))
    assert next(want.from_seq for _, wants in sync.requests(0, lambda _: True) for want in wants) == 2

    sync = SyncPlanner(feeds, parking)
    sync.hear(Head(LOST, 100, "ab" * 32), SOURCE, 0)
    for number in range(8):
        other = Author(f"other{number}")
        other.publish()
        while parking.put(admitted(other.publish().raw), 0, SOURCE) and not parking.crowded:
            pass
    assert asked(sync, 0) == {}


def waiting(author: Author, count: int) -> list[Admitted]:
    """The first entries of a feed, the first of which rests on what is not held."""
    said = [author.bid(Author("unheard").publish()), *(author.publish() for _ in range(count - 1))]
    return [admitted(each.raw) for each in said]


@pytest.mark.parametrize("told_first", [False, True])
def test_a_range_that_is_here_and_waits_has_come(told_first: bool) -> None:
    """Its place goes to others at once: what it waits for may be among them."""
    parking, author = Parking(60), Author("waits")
    sync = SyncPlanner(Feeds(), parking)
    entries = waiting(author, limits.SYNC_WANT_ENTRIES_MAX)
    sync.hear(Head(author.id, len(entries), "ab" * 32), SOURCE, 0)
    assert asked(sync, 0) == {SOURCE: {author.id}}
    served = Served(author.id, 1, len(entries))
    if told_first:
        sync.ended(served, SOURCE, 1)
    for entry in entries:
        assert sync.flow.flying == len(entries)
        lacks = Named("seed", "lost") if entry is entries[0] else None
        assert parking.put(entry, 0, SOURCE, lacks=lacks)
        sync.arrived(author.id, entry.envelope.meta.seq, 1)
    if not told_first:
        sync.ended(served, SOURCE, 1)
    assert sync.flow.flying == 0
    assert sync.flow.room(SOURCE) > limits.SYNC_WINDOW_ENTRIES_START


def test_a_range_of_which_some_is_lost_has_not_come() -> None:
    parking, author = Parking(60), Author("waits")
    sync = SyncPlanner(Feeds(), parking)
    entries = waiting(author, 5)
    sync.hear(Head(author.id, len(entries), "ab" * 32), SOURCE, 0)
    assert asked(sync, 0) == {SOURCE: {author.id}}
    for entry in (entries[0], entries[1], entries[4]):
        lacks = Named("seed", "lost") if entry is entries[0] else None
        assert parking.put(entry, 0, SOURCE, lacks=lacks)
        sync.arrived(author.id, entry.envelope.meta.seq, 1)
    sync.ended(Served(author.id, 1, len(entries)), SOURCE, 1)
    assert sync.flow.flying == len(entries)
    wants = [want for _, all_ in sync.requests(1 + limits.SYNC_QUIET_MS, lambda _: True) for want in all_]
    assert [(want.from_seq, want.to_seq) for want in wants] == [(3, 4)]


def test_feeds_take_turns() -> None:
    """One range of each: what a feed rests on is in the others."""
    sync = SyncPlanner(Feeds(), Parking(60))
    for name in ("one", "other"):
        sync.hear(Head(Author(name).id, limits.PARKED_ENVELOPES_PER_FEED_MAX, "ab" * 32), SOURCE, 0)
    assert asked(sync, 0) == {SOURCE: {Author("one").id, Author("other").id}}
