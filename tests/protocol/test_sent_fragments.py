"""Fragments that were sent: kept for a while, and sent again to those who ask."""

from __future__ import annotations

import hashlib

import pytest

from crabnet import limits
from crabnet.protocol.fragments import (
    SentCache,
    SentLimits,
    request_datagram,
    split,
)
from tests.support.datagrams import message_of

A = "udp:192.0.2.1:9012"
B = "udp:198.51.100.7:9012"


def test_lost_fragments_are_sent_again() -> None:
    cache = SentCache()
    datagrams = cache.split(message_of(6_000), 0)
    assert datagrams == split(message_of(6_000))
    digest = hashlib.sha256(message_of(6_000)).digest()
    assert cache.answer(A, request_datagram(digest, [1, 4]), 1) == [datagrams[1], datagrams[4]]
    assert cache.answer(A, request_datagram(digest, [1]), limits.SENT_FRAGMENTS_TTL_MS) == []


def test_one_request_brings_a_bounded_answer() -> None:
    cache = SentCache()
    cache.split(message_of(100_000), 0)
    digest = hashlib.sha256(message_of(100_000)).digest()
    answer = cache.answer(A, request_datagram(digest, list(range(80))), 0)
    assert 0 < sum(map(len, answer)) <= limits.SENT_FRAGMENTS_ANSWER_BYTES_MAX


def test_one_source_gets_the_same_fragment_a_bounded_number_of_times() -> None:
    cache = SentCache()
    cache.split(message_of(100_000), 0)
    digest = hashlib.sha256(message_of(100_000)).digest()
    one = request_datagram(digest, [5])
    assert [len(cache.answer(A, one, 0)) for _ in range(8)] == [1] * limits.SENT_FRAGMENTS_RESENDS_MAX + [0, 0]
    assert len(cache.answer(B, one, 0)) == 1
    every = [request_datagram(digest, list(range(start, start + 13))) for start in range(0, 65, 13)]
    sent = sum(len(datagram) for _ in range(20) for request in every for datagram in cache.answer(B, request, 0))
    assert sent <= 2 * 100_000 * 1.1


@pytest.mark.parametrize(
    "request_bytes",
    [
        request_datagram(bytes(32), [0]),
        request_datagram(hashlib.sha256(message_of(6_000)).digest(), [0, 6]),
        request_datagram(hashlib.sha256(message_of(6_000)).digest(), [1, 0]),
        request_datagram(hashlib.sha256(message_of(6_000)).digest(), [1, 1]),
        request_datagram(hashlib.sha256(message_of(6_000)).digest(), []),
        request_datagram(hashlib.sha256(message_of(6_000)).digest(), [0]) + b"\x00",
        request_datagram(hashlib.sha256(message_of(6_000)).digest(), [0, 1])[:-1],
        request_datagram(hashlib.sha256(message_of(6_000)).digest(), list(range(513))),
        split(message_of(6_000))[0],
        b"{}",
        b"",
    ],
)
def test_an_unknown_or_malformed_request_brings_nothing(request_bytes: bytes) -> None:
    cache = SentCache()
    cache.split(message_of(6_000), 0)
    assert cache.answer(A, request_bytes, 0) == []


def test_the_cache_forgets_the_oldest_first_and_bounds_the_askers() -> None:
    cache = SentCache(SentLimits(bytes_max=11_000, sources_per_message_max=2))
    first, second = message_of(4_000, 1), message_of(4_000, 2)
    digests = [hashlib.sha256(message).digest() for message in (first, second)]
    cache.split(first, 0)
    cache.split(second, 1)
    cache.split(first, 2)
    cache.split(message_of(3_500, 3), 3)
    assert cache.answer(A, request_datagram(digests[1], [0]), 3) == []
    answers = [
        len(cache.answer(source, request_datagram(digests[0], [0]), 3)) for source in (A, B, "udp:10.0.0.1:1", A)
    ]
    assert answers == [1, 1, 0, 1]
    cache.split(message_of(20_000), 4)
    assert cache.bytes_held <= 11_000
