"""The bytes of fragments and of requests, and what a datagram is taken for."""

from __future__ import annotations

import hashlib

import pytest

from crabnet import limits
from crabnet.errors import Reason, RefusedError
from crabnet.protocol.fragments import CHUNK_BYTES, SentCache, Shape, classify, request_datagram, split
from tests.support.datagrams import message_of


def test_the_bytes_of_a_fragment_and_of_a_request() -> None:
    message = message_of(1_201)
    digest = hashlib.sha256(message).digest()
    first, last = split(message)
    assert first == b"CRB2\x01" + digest + b"\x00\x00\x00\x02\x00\x00\x04\xb1" + message[:1155]
    assert last == b"CRB2\x01" + digest + b"\x00\x01\x00\x02\x00\x00\x04\xb1" + message[1155:]
    assert len(first) == limits.DATAGRAM_BYTES_MAX
    assert request_datagram(digest, [1, 258]) == b"CRB2\x02" + digest + b"\x00\x02\x00\x01\x01\x02"


@pytest.mark.parametrize("size", [1, 1_155, 1_156, limits.DATAGRAM_BYTES_MAX])
def test_what_fits_is_sent_whole(size: int) -> None:
    message = message_of(size)
    assert split(message) == [message]
    assert classify(message) is Shape.WHOLE


@pytest.mark.parametrize(
    ("size", "count"), [(1_201, 2), (2 * CHUNK_BYTES, 2), (2 * CHUNK_BYTES + 1, 3), (1024 * 1024, 908)]
)
def test_what_does_not_fit_is_sent_in_full_chunks(size: int, count: int) -> None:
    datagrams = split(message_of(size))
    assert len(datagrams) == count
    assert {len(datagram) for datagram in datagrams[:-1]} == {limits.DATAGRAM_BYTES_MAX}
    assert all(classify(datagram) is Shape.FRAGMENT for datagram in datagrams)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"[1]", Reason.MALFORMED),
        (b"CRB2", Reason.MALFORMED),
        (message_of(limits.FRAGMENTED_MESSAGE_BYTES_MAX + 1), Reason.TOO_LARGE),
    ],
)
def test_what_cannot_be_sent_is_refused(message: bytes, reason: Reason) -> None:
    with pytest.raises(RefusedError) as caught:
        split(message)
    assert caught.value.reason is reason
    with pytest.raises(RefusedError) as caught:
        SentCache().split(message, 0)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (b"", Reason.EMPTY),
        (b"{", Shape.WHOLE),
        (b"{" + bytes(limits.DATAGRAM_RECEIVE_BYTES_MAX - 1), Shape.WHOLE),
        (b"{" + bytes(limits.DATAGRAM_RECEIVE_BYTES_MAX), Reason.TOO_LARGE),
        (b" {}", Reason.MALFORMED),
        (b"CRB", Reason.MALFORMED),
        (b"CRB3" + bytes(60), Reason.MALFORMED),
        (b"\x00", Reason.MALFORMED),
        (b"CRB2", Reason.MALFORMED_FRAGMENT),
        (b"CRB2\x00" + bytes(60), Reason.MALFORMED_FRAGMENT),
        (b"CRB2\x03" + bytes(60), Reason.MALFORMED_FRAGMENT),
        (b"CRB2\x01" + bytes(40), Reason.MALFORMED_FRAGMENT),
        (b"CRB2\x01" + bytes(41), Shape.FRAGMENT),
        (b"CRB2\x01" + bytes(1_196), Reason.MALFORMED_FRAGMENT),
        (b"CRB2\x02" + bytes(34), Reason.MALFORMED_FRAGMENT),
        (b"CRB2\x02" + bytes(36), Shape.REQUEST),
    ],
)
def test_classify(datagram: bytes, expected: Shape | Reason) -> None:
    assert classify(datagram) is expected
