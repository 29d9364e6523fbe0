"""Feeds: places, where a fork ends one, the window, the version vector and its hash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.protocol.feed import FEED_WINDOW_ENTRIES, Feed, Feeds, Place


def name(letter: str, seq: int) -> str:
    """An envelope id that tells its branch and its place."""
    return f"{letter}{seq:05d}"


def fed(count: int, letter: str = "m", author: str = "a") -> Feeds:
    """A feed of ``count`` entries, all of which can be looked up."""
    feeds = Feeds()
    feeds.lookup = lambda _, seq: name(letter, seq)
    for seq in range(1, count + 1):
        feeds.advance(author, seq, name(letter, seq))
    return feeds


PLACES = [
    ("first of a feed", 0, 1, "m1", "", Place.NEXT),
    ("second of an unknown feed", 0, 2, "m2", "m1", Place.GAP),
    ("first with a predecessor", 0, 1, "m1", "x", Place.BROKEN_CHAIN),
    ("next", 3, 4, "x", name("m", 3), Place.NEXT),
    ("next with another predecessor", 3, 4, "x", name("a", 3), Place.BROKEN_CHAIN),
    ("one ahead", 3, 5, "x", name("m", 4), Place.GAP),
    ("far ahead", 3, 2**53 - 1, "x", "y", Place.GAP),
    ("the head again", 3, 3, name("m", 3), name("m", 2), Place.DUPLICATE),
    ("the first again", 3, 1, name("m", 1), "", Place.DUPLICATE),
    ("another at the head", 3, 3, name("a", 3), name("m", 2), Place.FORK),
    ("another inside", 3, 2, name("z", 2), name("m", 1), Place.FORK),
    ("another at the beginning", 3, 1, name("a", 1), "", Place.FORK),
    ("another that links to nothing held", 3, 3, name("a", 3), name("a", 2), Place.FORK),
    ("another beginning with a predecessor", 3, 1, name("a", 1), "x", Place.FORK),
]


@pytest.mark.parametrize(
    ("held", "seq", "envelope_id", "prev", "place"), [case[1:] for case in PLACES], ids=[case[0] for case in PLACES]
)
def test_places(held: int, seq: int, envelope_id: str, prev: str, place: Place) -> None:
    assert fed(held).place("a", seq, envelope_id, prev) is place


@pytest.mark.parametrize("depth", [1, FEED_WINDOW_ENTRIES - 1, FEED_WINDOW_ENTRIES, 3 * FEED_WINDOW_ENTRIES])
def test_a_fork_is_one_at_any_depth(depth: int) -> None:
    held = 3 * FEED_WINDOW_ENTRIES + 1
    feeds = fed(held)
    seq = held - depth
    assert feeds.place("a", seq, name("m", seq), "") is Place.DUPLICATE
    assert feeds.place("a", seq, name("a", seq), "") is Place.FORK
    assert feeds.end("a", seq)
    feed = feeds.get("a")
    assert (feed.head_seq, feed.head_id, feed.end) == (seq - 1, name("m", seq - 1) if seq > 1 else "", seq)


def test_an_end_takes_nothing_and_only_moves_down() -> None:
    feeds = fed(5)
    assert feeds.end("a", 4)
    assert (feeds.get("a").head_seq, feeds.get("a").head_id) == (3, name("m", 3))
    for seq in (4, 5, 6, 99):
        assert feeds.place("a", seq, name("m", seq), name("m", seq - 1)) is Place.BEHIND
        assert not feeds.end("a", seq)
        assert not feeds.is_front("a", seq)
    assert feeds.place("a", 3, name("m", 3), name("m", 2)) is Place.DUPLICATE
    assert feeds.is_front("a", 3)
    assert feeds.end("a", 2)
    assert feeds.end("a", 1)
    assert not feeds.end("a", 1)
    assert (feeds.get("a").head_seq, feeds.get("a").head_id, feeds.get("a").end) == (0, "", 1)


def test_a_feed_that_ends_ahead_of_its_head_grows_up_to_there() -> None:
    feeds = fed(1)
    assert feeds.end("a", 3)
    assert (feeds.get("a").head_seq, feeds.get("a").head_id) == (1, name("m", 1))
    assert feeds.place("a", 2, "x", name("m", 1)) is Place.NEXT
    feeds.advance("a", 2, "x")
    assert feeds.place("a", 3, "y", "x") is Place.BEHIND


def test_an_end_of_an_unknown_author_is_kept() -> None:
    feeds = Feeds()
    assert feeds.end("stranger", 7)
    assert (feeds.authors(), feeds.equivocators()) == (["stranger"], ["stranger"])
    assert feeds.is_equivocator("stranger")
    assert feeds.digest() != Feeds().digest()


@given(st.lists(st.integers(1, 9), min_size=1), st.integers(0, 9))
def test_whatever_comes_when_the_lowest_place_is_the_end(ends: list[int], held: int) -> None:
    """Ends may be told before, between and after the entries of the feed: the same heads, and the same hash."""
    expected = fed(min(held, min(ends) - 1))
    expected.end("a", min(ends))
    for at in range(len(ends) + 1):
        feeds = Feeds()
        feeds.lookup = lambda _, seq: name("m", seq)
        for seq in ends[:at]:
            feeds.end("a", seq)
        for seq in range(1, held + 1):
            if feeds.place("a", seq, name("m", seq), name("m", seq - 1) if seq > 1 else "") is Place.NEXT:
                feeds.advance("a", seq, name("m", seq))
        for seq in ends[at:]:
            feeds.end("a", seq)
        assert feeds.heads() == expected.heads()
        assert feeds.get("a").end == min(ends)
        assert feeds.digest() == expected.digest()


def test_the_consequences_of_an_end_are_drawn_once_for_each() -> None:
    feeds = fed(5)
    assert feeds.unsettled() == []
    feeds.end("a", 4)
    assert [feed.author for feed in feeds.unsettled()] == ["a"]
    feeds.settle("a", 4)
    assert feeds.unsettled() == []
    feeds.end("a", 2)
    assert [(feed.author, feed.settled) for feed in feeds.unsettled()] == [("a", 4)]


def test_ids_of_the_feed_are_found_in_the_window_and_beyond() -> None:
    feeds = fed(FEED_WINDOW_ENTRIES + 3)
    feed = feeds.get("a")
    assert len(feed.window) == FEED_WINDOW_ENTRIES
    assert (feed.in_window(3), feed.in_window(4), feed.in_window(feed.head_seq + 1)) == (None, name("m", 4), None)
    assert [feeds.id_at("a", seq) for seq in (0, 1, 4, feed.head_seq, feed.head_seq + 1)] == [
        None,
        name("m", 1),
        name("m", 4),
        feed.head_id,
        None,
    ]


def test_an_unknown_author_has_an_empty_feed_of_its_own() -> None:
    feeds = Feeds()
    feeds.get("a").window.append("x")
    assert not feeds.get("a").window
    assert not Feed("b").window
    assert len(feeds) == 0
    assert feeds.heads() == {}


STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(1, 5)), max_size=30)


@given(STEPS)
def test_the_hash_is_that_of_the_heads_and_the_ends(steps: list[tuple[str, bool, int]]) -> None:
    feeds = Feeds()
    feeds.lookup = lambda _, seq: name("m", seq)
    for author, ends, seq in steps:
        head = feeds.get(author).head_seq
        if ends:
            feeds.end(author, seq)
        elif feeds.is_front(author, head + 1):
            feeds.advance(author, head + 1, name("m", head + 1))
        if seq == 1:
            feeds.digest()
    fresh = Feeds()
    for feed in feeds.all():
        for at in range(1, feed.head_seq + 1):
            fresh.advance(feed.author, at, name("m", at))
        if feed.end:
            fresh.end(feed.author, feed.end)
    assert feeds.digest() == fresh.digest()
    loaded = Feeds()
    loaded.load(feeds.all(), None)
    assert loaded.digest() == feeds.digest()
    resumed = Feeds()
    resumed.load(feeds.all(), feeds.accumulated())
    assert resumed.digest() == feeds.digest()
    assert resumed.heads() == feeds.heads()
    assert set(resumed.equivocators()) == set(feeds.equivocators())


def test_the_hash_tells_heads_and_ends_apart() -> None:
    several = [Feeds(), fed(1), fed(2), fed(1, "a"), fed(1, author="b")]
    for seq in (1, 2, 3):
        several.append(fed(1))
        several[-1].end("a", seq)
    assert len({feeds.digest() for feeds in several}) == len(several)
