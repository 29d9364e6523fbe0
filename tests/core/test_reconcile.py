"""Comparing version vectors: only what differs is asked for, everybody has a turn, and nobody is waited for long."""

from __future__ import annotations

import pytest

from crabnet import limits
from crabnet.core.sync.reconcile import Reconciler
from crabnet.protocol.digests import DigestTree
from crabnet.protocol.feed import Feeds
from crabnet.protocol.sync import Bucket

NEIGHBOUR = "udp:192.0.2.1:9012"
AUTHORS = [f"author {number}" for number in range(200)]


def tree(changed: str = "", authors: list[str] = AUTHORS) -> DigestTree:
    """Of a node that holds one envelope of each author, and another one of ``changed``."""
    feeds = Feeds()
    for author in authors:
        feeds.advance(author, 1, ("ff" if author == changed else "00") * 32)
    return DigestTree(feeds)


def anybody(_source: str) -> bool:
    return True


def asked(reconciler: Reconciler, now_ms: int) -> dict[str, list[str]]:
    """The prefixes that each neighbour is asked about now."""
    return dict(reconciler.requests(now_ms, anybody))


def liar(number: int) -> str:
    return f"udp:203.0.113.{number}:9012"


def made_up(number: int) -> str:
    return f"{number:032x}"


def test_who_holds_the_same_is_asked_nothing() -> None:
    reconciler = Reconciler(tree())
    assert reconciler.told_root(NEIGHBOUR, tree().root(), 0)
    assert asked(reconciler, 0) == {}


def test_the_way_down_leads_to_what_differs_and_nowhere_else() -> None:
    theirs = tree(changed="author 7")
    reconciler = Reconciler(tree())
    assert not reconciler.told_root(NEIGHBOUR, theirs.root(), 0)

    prefixes: list[str] = []
    while wanted := asked(reconciler, 0):
        [prefix] = wanted[NEIGHBOUR]
        prefixes.append(prefix)
        reconciler.told_bucket(NEIGHBOUR, theirs.bucket(prefix))

    assert [len(prefix) for prefix in prefixes] == list(range(len(prefixes)))
    assert [head.author for head in theirs.heads(prefixes[-1]) if head.id.startswith("ff")] == ["author 7"]
    assert len(reconciler) == 0


def test_buckets_that_nobody_asked_for_begin_nothing() -> None:
    reconciler = Reconciler(tree())
    reconciler.told_bucket(NEIGHBOUR, tree(changed="author 7").bucket(""))
    assert asked(reconciler, 0) == {}

    reconciler.told_root(NEIGHBOUR, made_up(1), 0)
    assert asked(reconciler, 0) == {NEIGHBOUR: [""]}
    reconciler.told_bucket(NEIGHBOUR, tree(changed="author 7").bucket("0"))
    assert asked(reconciler, 0) == {}, "the root is still to come"


def test_who_does_not_answer_is_asked_again_and_then_given_up() -> None:
    reconciler = Reconciler(tree())
    reconciler.told_root(NEIGHBOUR, made_up(1), 0)

    times = [at for at in range(0, limits.SYNC_DESCENT_MS_MAX, 100) if asked(reconciler, at)]

    assert len(times) == 1 + limits.SYNC_DESCENT_RETRIES_MAX
    assert len(reconciler) == 0
    reconciler.told_root(NEIGHBOUR, made_up(1), limits.SYNC_DESCENT_MS_MAX)
    assert asked(reconciler, limits.SYNC_DESCENT_MS_MAX) == {NEIGHBOUR: [""]}


def test_the_same_two_vectors_are_not_compared_again_at_once() -> None:
    few = AUTHORS[: limits.SYNC_BUCKET_HEADS_MAX]
    ours, theirs = tree(authors=few), tree(changed=few[0], authors=few)
    reconciler = Reconciler(ours)

    def compared(now_ms: int) -> bool:
        reconciler.told_root(NEIGHBOUR, theirs.root(), now_ms)
        wanted = asked(reconciler, now_ms)
        if wanted:
            reconciler.told_bucket(NEIGHBOUR, theirs.bucket(""))
        return bool(wanted)

    assert compared(0)
    assert not compared(limits.SYNC_COMPARED_TTL_MS - 1)
    assert compared(limits.SYNC_COMPARED_TTL_MS)


def test_liars_that_always_begin_anew_do_not_keep_a_neighbour_from_its_turn() -> None:
    """Each tells another digest as soon as it may, and answers so that the comparison takes as long as it can."""
    reconciler = Reconciler(tree())
    liars = [liar(number) for number in range(limits.SYNC_DESCENTS_MAX)]
    theirs = tree(changed="author 7").root()
    answer = tree(authors=["nobody", *AUTHORS[100:]]).bucket("").digests
    number = 0
    for now_ms in range(0, 2 * limits.SYNC_DESCENT_MS_MAX, 500):
        for source in liars:
            number += 1
            reconciler.told_root(source, made_up(number), now_ms)
        reconciler.told_root(NEIGHBOUR, theirs, now_ms)
        wanted = asked(reconciler, now_ms)
        if NEIGHBOUR in wanted:
            return
        for source, prefixes in wanted.items():
            for prefix in prefixes:
                reconciler.told_bucket(source, Bucket(prefix, answer))
    raise AssertionError("the neighbour was never asked")


def test_who_has_told_enough_for_now_is_asked_later() -> None:
    reconciler = Reconciler(tree())
    reconciler.told_root(NEIGHBOUR, tree(changed="author 7").root(), 0)
    reconciler.told_root(liar(1), made_up(1), 0)

    assert dict(reconciler.requests(0, anybody, lambda source: source == NEIGHBOUR)) == {liar(1): [""]}
    assert asked(reconciler, 100) == {NEIGHBOUR: [""]}


def test_whom_nobody_may_ask_is_given_up() -> None:
    reconciler = Reconciler(tree())
    reconciler.told_root(NEIGHBOUR, made_up(1), 0)
    assert reconciler.requests(0, lambda _: False) == []
    assert len(reconciler) == 0


def test_who_waits_keeps_its_place_whoever_else_comes_and_however_often_it_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PEERS_MAX", 4)
    reconciler = Reconciler(tree())
    for number in range(limits.SYNC_DESCENTS_MAX):
        reconciler.told_root(liar(number), made_up(number), 0)
    assert len(asked(reconciler, 0)) == limits.SYNC_DESCENTS_MAX
    reconciler.told_root(NEIGHBOUR, made_up(99), 0)
    for number in range(100, 120):
        reconciler.told_root(liar(number), made_up(number), 0)
    reconciler.told_root(NEIGHBOUR, made_up(98), 0)
    reconciler.told_bucket(liar(0), Bucket("", []))
    assert asked(reconciler, 0) == {NEIGHBOUR: [""]}
