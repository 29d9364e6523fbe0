"""Digests of version vectors: equal for equal heads, and a way down to exactly what differs."""

from __future__ import annotations

import hashlib
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crabnet import limits
from crabnet.protocol.digests import DigestTree
from crabnet.protocol.feed import Feeds
from crabnet.protocol.sync import Head

Vector = dict[str, tuple[int, str, int]]
"""author -> (seq, id, end); 0 for no end."""
IDS = ["a1" * 32, "b2" * 32, "c3" * 32]
VECTORS = st.dictionaries(
    st.integers(0, 400).map("author{}".format),
    st.tuples(st.integers(1, 9), st.sampled_from(IDS), st.sampled_from([0, 0, 10, 11])),
    max_size=120,
)


def feeds_of(vector: Vector) -> Feeds:
    feeds = Feeds()
    for author, (seq, envelope_id, end) in vector.items():
        feeds.advance(author, seq, envelope_id)
        if end:
            feeds.end(author, end)
    return feeds


def tree_of(vector: Vector) -> DigestTree:
    return DigestTree(feeds_of(vector))


def descend(ours: DigestTree, theirs: DigestTree) -> tuple[set[Head], int]:
    """What is learned of the other's heads by asking only where digests differ, and how many buckets were asked for."""
    learned: set[Head] = set()
    asked = 0
    waiting = [""] if theirs.root() not in {"", ours.root()} else []
    while waiting:
        prefix = waiting.pop()
        asked += 1
        bucket = theirs.bucket(prefix)
        if not bucket.digests:
            learned |= set(theirs.heads(prefix))
        for digit, digest in zip("0123456789abcdef", bucket.digests, strict=False):
            if digest and digest != ours.digest(prefix + digit):
                waiting.append(prefix + digit)
    return learned, asked


def tuple_of(head: Head) -> tuple[str, int, str, int]:
    return head.author, head.seq, head.id, head.end


@given(VECTORS, VECTORS)
@settings(max_examples=60)
def test_the_difference_of_any_two_vectors_is_found(ours: Vector, theirs: Vector) -> None:
    learned, _ = descend(tree_of(ours), tree_of(theirs))
    told = {tuple_of(head) for head in learned}
    different = {(author, *head) for author, head in theirs.items() if ours.get(author) != head}
    assert different <= told <= {(author, *head) for author, head in theirs.items()}


@given(VECTORS, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_the_way_to_a_vector_does_not_matter(vector: Vector, rng: Random) -> None:
    """Also not if the heads were others before, and digests were asked for in between."""
    feeds = Feeds()
    tree = DigestTree(feeds)
    authors = list(vector)
    rng.shuffle(authors)
    for author in authors:
        seq, envelope_id, end = vector[author]
        if seq > 1:
            feeds.advance(author, seq - 1, "d4" * 32)
            tree.changed(author)
        if rng.random() < 0.3:
            tree.digest(rng.choice(["", "0", "ab"]))
        feeds.advance(author, seq, envelope_id)
        tree.changed(author)
        if end:
            tree.digest("")
            feeds.end(author, end)
            tree.changed(author)
    other = tree_of(vector)
    for prefix in ("", "0", "7", "f", "00", "a3", "abc"):
        assert tree.digest(prefix) == other.digest(prefix)
        assert tree.bucket(prefix) == other.bucket(prefix)


def test_cost_follows_the_difference_and_not_the_number_of_feeds() -> None:
    vector: Vector = {f"author{number}": (number % 7 + 1, IDS[0], 0) for number in range(5_000)}
    changed = dict(vector)
    rng = Random(1)
    for author in rng.sample(sorted(vector), 20):
        changed[author] = (9, IDS[1], 0)
    learned, asked = descend(tree_of(vector), tree_of(changed))
    levels = 4  # 5,000 feeds: 16 ** 3 buckets of about one head, those of more than 8 one level above
    assert asked <= 20 * levels
    assert len(learned) <= 20 * limits.SYNC_BUCKET_HEADS_MAX
    assert descend(tree_of(vector), tree_of(vector)) == (set(), 0)


def test_digests_are_those_of_the_document() -> None:
    few: Vector = {"b": (2, IDS[1], 0), "a": (1, IDS[0], 7)}
    lines = f"a 1 {IDS[0]} 7\nb 2 {IDS[1]}\n".encode()
    assert tree_of(few).root() == hashlib.sha256(b"crabnet-heads\0" + lines).digest()[:16].hex()
    assert tree_of({}).root() == ""

    many: Vector = {f"author{number}": (1, IDS[0], 0) for number in range(9)}
    digests = []
    for digit in "0123456789abcdef":
        members = sorted(author for author in many if hashlib.sha256(author.encode()).hexdigest()[0] == digit)
        text = "".join(f"{author} 1 {IDS[0]}\n" for author in members).encode()
        digests.append(hashlib.sha256(b"crabnet-heads\0" + text).digest()[:16] if members else bytes(16))
    tree = tree_of(many)
    assert tree.root() == hashlib.sha256(b"crabnet-bucket\0" + b"".join(digests)).digest()[:16].hex()
    assert tree.bucket("").digests == [digest.hex() if any(digest) else "" for digest in digests]


def test_of_an_ended_feed_of_which_nothing_is_held_the_end_is_told() -> None:
    feeds = Feeds()
    tree = DigestTree(feeds)
    assert tree.root() == ""
    feeds.end("author", 5)
    tree.changed("author")
    assert tree.heads("") == [Head("author", 0, "", 5)]
    assert tree.root() == DigestTree(feeds).root() != ""


@pytest.mark.parametrize("prefix", ["0", "ffff", "0123456789abcdef"])
def test_any_bucket_of_nothing_is_empty(prefix: str) -> None:
    tree = tree_of({})
    assert (tree.digest(prefix), tree.bucket(prefix).digests, tree.heads(prefix)) == ("", [], [])
