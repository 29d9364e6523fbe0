"""Remembered peers: bounded, tried again with growing pauses, forgotten after failures."""

from __future__ import annotations

from itertools import pairwise

from crabnet import limits
from crabnet.core.sync.address_book import AddressBook, RememberedPeer

NOW_MS = 1_767_225_600_000


def unheard(_: str) -> int | None:
    return None


def addresses(book: AddressBook) -> set[str]:
    return {peer.address for peer in book.peers(unheard)}


def test_a_peer_that_never_answers_is_tried_with_growing_pauses_and_forgotten() -> None:
    book = AddressBook(4)
    book.load([RememberedPeer("udp:192.0.2.1:9012", "node", NOW_MS // 1000)], NOW_MS)
    tries = []
    for at_ms in range(0, 24 * 3_600_000, 500):
        if book.due(NOW_MS + at_ms, lambda _: False):
            tries.append(at_ms)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert tries[0] == 0
    assert pauses == sorted(pauses)
    assert pauses[0] == limits.PEER_RETRY_MS
    assert pauses[-1] == limits.PEER_RETRY_MS_MAX
    assert len(tries) == limits.PEER_FAILURES_MAX
    assert len(book) == 0
    assert book.changed


def test_a_peer_that_answers_is_not_tried_and_has_no_failures_any_more() -> None:
    book = AddressBook(4)
    book.load([RememberedPeer("udp:192.0.2.1:9012", "node", 0, failures=9)], NOW_MS)
    assert book.due(NOW_MS, lambda _: False) == ["udp:192.0.2.1:9012"]
    book.confirmed("udp:192.0.2.1:9012", "node", NOW_MS + 10)
    assert not any(book.due(NOW_MS + at_ms, lambda _: True) for at_ms in range(0, 600_000, 500))
    assert book.peers(unheard) == [RememberedPeer("udp:192.0.2.1:9012", "node", NOW_MS // 1000, 0)]
    lost_ms = NOW_MS + 600_000
    assert any(book.due(lost_ms + at_ms, lambda _: False) for at_ms in range(0, 5_000, 500))


def test_one_host_cannot_fill_the_book() -> None:
    book = AddressBook(64)
    for number in range(20):
        book.confirmed(f"udp:192.0.2.{number}:9012", "node", NOW_MS)
    for port in range(1, 1_000):
        book.confirmed(f"udp:198.51.100.1:{port}", "other", NOW_MS)
    assert {f"udp:192.0.2.{number}:9012" for number in range(20)} <= addresses(book)
    assert len(book) == 20 + 16


def test_it_is_bounded_and_failures_go_first() -> None:
    book = AddressBook(8)
    peers = [RememberedPeer(f"udp:192.0.2.{number}:1", "node", number, failures=number == 3) for number in range(8)]
    book.load(peers, NOW_MS)
    book.confirmed("udp:203.0.113.1:1", "node", NOW_MS)
    assert addresses(book) == {peer.address for peer in peers if peer.failures == 0} | {"udp:203.0.113.1:1"}


def test_a_book_of_no_capacity_remembers_nobody() -> None:
    book = AddressBook(0)
    book.load([RememberedPeer("udp:192.0.2.1:9012", "node", 0)], NOW_MS)
    book.confirmed("udp:192.0.2.2:9012", "node", NOW_MS)
    assert (len(book), book.due(NOW_MS, lambda _: False), book.changed) == (0, [], False)
