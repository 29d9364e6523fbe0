"""Feeds: places, forks in every order, the window, the version vector and its hash."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.protocol.feed import FEED_WINDOW_ENTRIES, Feed, FeedEntry, Feeds, ForkProof, Place


def name(letter: str, seq: int) -> str:
    """An envelope id that sorts by letter at each seq."""
    return f"{letter}{seq:05d}"


def fed(count: int, letter: str = "m", author: str = "a") -> Feeds:
    """A feed of ``count`` entries."""
    feeds = Feeds()
    for seq in range(1, count + 1):
        feeds.advance(author, seq, name(letter, seq), f"seed-{seq}")
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
    ("lower id at the head", 3, 3, name("a", 3), name("m", 2), Place.FORK_WINS),
    ("higher id at the head", 3, 3, name("z", 3), name("m", 2), Place.FORK_LOSES),
    ("lower id inside", 3, 2, name("a", 2), name("m", 1), Place.FORK_WINS),
    ("lower id at the beginning", 3, 1, name("a", 1), "", Place.FORK_WINS),
    ("higher id at the beginning", 3, 1, name("z", 1), "", Place.FORK_LOSES),
    ("in another branch", 3, 3, name("a", 3), name("a", 2), Place.BROKEN_CHAIN),
    ("beginning with a predecessor", 3, 1, name("a", 1), "x", Place.BROKEN_CHAIN),
]


@pytest.mark.parametrize(
    ("held", "seq", "envelope_id", "prev", "place"), [case[1:] for case in PLACES], ids=[case[0] for case in PLACES]
)
def test_places(held: int, seq: int, envelope_id: str, prev: str, place: Place) -> None:
    assert fed(held).get("a").place(seq, envelope_id, prev) is place


def take(feeds: Feeds, seq: int, envelope_id: str, prev: str) -> Place:
    """Do with an envelope what the protocol demands."""
    place = feeds.get("a").place(seq, envelope_id, prev)
    if place is Place.NEXT:
        feeds.advance("a", seq, envelope_id, "s")
    elif place in {Place.FORK_WINS, Place.FORK_LOSES}:
        held = feeds.get("a").entry(seq)
        assert held is not None
        if place is Place.FORK_WINS:
            feeds.cut("a", seq, ForkProof(seq, envelope_id, held.id))
            feeds.advance("a", seq, envelope_id, "s")
        else:
            feeds.prove("a", ForkProof(seq, held.id, envelope_id))
    return place


def settle(feeds: Feeds, envelopes: list[tuple[int, str, str]]) -> None:
    """Take envelopes again and again, as sync does, until nothing moves."""
    while True:
        before = feeds.heads()
        for envelope in envelopes:
            take(feeds, *envelope)
        if feeds.heads() == before:
            return


FORKED = [
    (1, "m1", ""),
    (2, "b2", "m1"),
    (3, "x3", "b2"),
    (2, "c2", "m1"),
    (3, "a3", "c2"),
    (4, "a4", "a3"),
]
"""A fork at 2: ``b2`` stands, though the branch of ``c2`` is longer and goes on with lower ids."""


def test_the_lower_id_stands_whatever_the_order() -> None:
    for order in itertools.permutations(FORKED):
        feeds = Feeds()
        settle(feeds, list(order))
        assert feeds.heads() == {"a": (3, "x3")}, order
        assert [entry.id for entry in feeds.get("a").window] == ["m1", "b2", "x3"], order
        assert feeds.get("a").forks == [ForkProof(2, "b2", "c2")], order


def test_two_envelopes_for_the_same_place_converge() -> None:
    """What a second implementation must do: of two envelopes with the same seq the lower id stands."""
    one, two = (1, "0a", ""), (1, "0b", "")
    heads = []
    for order in ([one, two], [two, one], [one, two, one, two]):
        feeds = Feeds()
        for envelope in order:
            take(feeds, *envelope)
        heads.append((feeds.heads(), feeds.digest(), feeds.get("a").forks))
    assert heads[0] == heads[1] == heads[2]
    assert heads[0][0] == {"a": (1, "0a")}
    assert heads[0][2] == [ForkProof(1, "0a", "0b")]


TREES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=12)


@given(TREES, st.randoms(use_true_random=False))
def test_any_tree_of_forks_converges(tree: list[tuple[int, int]], random: object) -> None:
    """Whatever an equivocating author signs, nodes that have seen it all hold the same chain."""
    envelopes: list[tuple[int, str, str]] = [(1, "50", "")]
    for parent, letter in tree:
        seq, parent_id, _ = envelopes[parent % len(envelopes)]
        envelope = (seq + 1, f"{letter}{len(envelopes)}", parent_id)
        envelopes.append(envelope)
    expected = "50"
    chain = [expected]
    while children := [envelope_id for _, envelope_id, prev in envelopes if prev == expected]:
        expected = min(children)
        chain.append(expected)
    for _ in range(3):
        random.shuffle(envelopes)  # type: ignore[attr-defined]
        feeds = Feeds()
        settle(feeds, envelopes)
        assert [entry.id for entry in feeds.get("a").window] == chain


def test_a_fork_beyond_the_window_changes_nothing() -> None:
    feeds = fed(FEED_WINDOW_ENTRIES + 3)
    feed = feeds.get("a")
    assert len(feed.window) == FEED_WINDOW_ENTRIES
    assert feed.window_start == 4
    assert feed.place(3, name("a", 3), name("m", 2)) is Place.DUPLICATE
    assert feed.place(4, name("a", 4), name("m", 3)) is Place.DUPLICATE
    assert feed.place(5, name("a", 5), name("m", 4)) is Place.FORK_WINS


def test_cut_drops_what_stood_behind() -> None:
    feeds = fed(5)
    assert feeds.touched_from("a", 4) == {"seed-4", "seed-5"}
    feeds.cut("a", 3, ForkProof(3, "x", "y"))
    feed = feeds.get("a")
    assert (feed.head_seq, feed.head_id) == (2, name("m", 2))
    assert feeds.touched_from("a", 3) == frozenset()
    assert feed.place(3, "x", name("m", 2)) is Place.NEXT
    feeds.cut("a", 1, ForkProof(1, "x", "y"))
    assert (feeds.get("a").head_seq, feeds.get("a").head_id) == (0, "")
    for seq in (0, 1, 9):
        feeds.cut("a", seq, ForkProof(seq, "x", "y"))
        feeds.cut("nobody", seq, ForkProof(seq, "x", "y"))
    assert feeds.get("a").head_seq == 0


def test_proofs_are_kept_once_and_within_a_bound() -> None:
    feeds = fed(1)
    assert feeds.prove("a", ForkProof(1, "x", "y"))
    assert not feeds.prove("a", ForkProof(1, "x", "y"))
    assert not feeds.prove("nobody", ForkProof(1, "x", "y"))
    for number in range(2 * limits.FORK_PROOFS_PER_FEED_MAX):
        feeds.prove("a", ForkProof(1, "x", str(number)))
    assert len(feeds.get("a").forks) == limits.FORK_PROOFS_PER_FEED_MAX


def test_an_unknown_author_has_an_empty_feed_of_its_own() -> None:
    feeds = Feeds()
    feeds.get("a").window.append(FeedEntry("x", "y"))
    assert not feeds.get("a").window
    assert not Feed("b").window
    assert len(feeds) == 0
    assert feeds.heads() == {}


STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(1, 5)), max_size=30)


@given(STEPS)
def test_the_hash_is_that_of_the_heads(steps: list[tuple[str, bool, int]]) -> None:
    feeds = Feeds()
    for author, cuts, seq in steps:
        if cuts:
            feeds.cut(author, seq, ForkProof(seq, "w", "l"))
        else:
            head = feeds.get(author).head_seq
            feeds.advance(author, head + 1, name("m", head + 1), "s")
        if seq == 1:
            feeds.digest()
    fresh = Feeds()
    for author, (head_seq, head_id) in feeds.heads().items():
        if head_seq:
            for at in range(1, head_seq):
                fresh.advance(author, at, name("m", at), "s")
            fresh.advance(author, head_seq, head_id, "s")
    assert feeds.digest() == fresh.digest()
    loaded = Feeds()
    loaded.load(feeds.all())
    assert loaded.digest() == feeds.digest()
    resumed = Feeds()
    resumed.load(feeds.all(), feeds.accumulated())
    assert resumed.digest() == feeds.digest()
    assert resumed.heads() == feeds.heads()


def test_the_hash_tells_heads_apart() -> None:
    digests = {Feeds().digest(), fed(1).digest(), fed(2).digest(), fed(1, "a").digest(), fed(1, author="b").digest()}
    assert len(digests) == 5
