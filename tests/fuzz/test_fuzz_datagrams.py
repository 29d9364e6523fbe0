"""Datagrams and streams of fragments, changed in every way: only declared outcomes, within bounds."""

from __future__ import annotations

import hashlib
import struct
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.errors import Reason
from crabnet.protocol.fragment_wire import (
    Fragment,
    Shape,
    classify,
    fragment_datagram,
    parse_fragment,
    parse_request,
    request_datagram,
    split,
)
from crabnet.protocol.fragments import (
    Complete,
    Dropped,
    Pending,
    Reassembler,
    ReassemblyLimits,
    SentCache,
    SentLimits,
)
from tests.fuzz.budget import Spent, fuzz, long_and_short
from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.test_fuzz_envelopes import VALID
from tests.support.datagrams import header, message_of

SMALL = ReassemblyLimits(
    bytes_max=60_000, messages_max=8, bytes_per_source_max=20_000, messages_per_source_max=3, completed_max=4
)
SENT = SentLimits(bytes_max=40_000, sources_per_message_max=2)
MESSAGES = [message_of(size, salt) for salt, size in enumerate((1_201, 1_155 * 2, 1_155 * 2 + 1, 9_000, 14_000))]
BUILT = [datagram for message in MESSAGES for datagram in split(message)]
DIGESTS = [hashlib.sha256(message).digest() for message in MESSAGES]
REFUSED = {Reason.EMPTY, Reason.TOO_LARGE, Reason.MALFORMED, Reason.MALFORMED_FRAGMENT}
DROPPED = {Reason.MALFORMED_FRAGMENT, Reason.DUPLICATE, Reason.LIMIT_EXCEEDED}
BORDERS = [0, 1, 2, 7, 8, 511, 512, 513, 907, 908, 909, 1_155, 1_156, 65_535]


def some_datagram(rng: Random) -> bytes:
    """A valid datagram, or one whose numbers stand at their borders; mostly with a few bytes changed."""
    choice = rng.randrange(6)
    if choice == 0:
        datagram = rng.choice(VALID)
    elif choice == 1:
        datagram = rng.choice(BUILT)
    elif choice == 2:
        number = rng.choice([0, 1, 2, 3, 511, 512, 513])
        indexes = sorted(rng.sample(range(1_000), number)) if rng.randrange(4) else [rng.choice(BORDERS)] * number
        datagram = request_datagram(rng.choice(DIGESTS), indexes)
    elif choice == 3:
        total = rng.choice([0, 1_155, 1_156, 2_310, 2_311, 2**20, 2**20 + 1, 2**32 - 1])
        head = header(rng.choice(DIGESTS), rng.choice(BORDERS), rng.choice(BORDERS), total)
        datagram = head + b"{" * rng.choice([0, 1, 1_154, 1_155, 1_156])
    elif choice == 4:
        message, digest = rng.choice(MESSAGES), rng.choice(DIGESTS)
        datagram = fragment_datagram(message, digest, rng.randrange(3) if len(message) > 3_000 else 0)
    else:
        datagram = rng.choice([b"", b"{", b"CRB2", b"\xff" * 1_201, b"{" * limits.DATAGRAM_RECEIVE_BYTES_MAX])
    for _ in range(rng.choice([0, 0, 1, 1, 4])):
        datagram = mutate_bytes(datagram, rng)
    return datagram


def check_fragment(datagram: bytes, fragment: Fragment) -> None:
    """A fragment that was read says what its bytes say, and fits what it says."""
    magic, kind, digest, index, number, total = struct.unpack_from(">4sB32sHHI", datagram)
    assert (magic, kind, digest, index, number, total) == (
        *(b"CRB2", 1, fragment.digest, fragment.index, fragment.count),
        fragment.total_bytes,
    )
    assert 1_155 < total <= limits.FRAGMENTED_MESSAGE_BYTES_MAX
    assert number == -(-total // 1_155)
    assert index < number
    assert len(fragment.chunk) == (1_155 if index < number - 1 else total - 1_155 * (number - 1))
    assert fragment.chunk == datagram[45:]


@long_and_short
def test_datagrams(seconds: float) -> None:
    spent = Spent()

    @given(st.randoms(use_true_random=False))
    def is_told_apart(rng: Random) -> None:
        datagram = some_datagram(rng)
        cache = SentCache(SENT)
        for message in MESSAGES[:3]:
            cache.split(message, 0)
        with spent.on(len(datagram)):
            shape = classify(datagram)
            fragment, request = parse_fragment(datagram), parse_request(datagram)
            answer = cache.answer("udp:192.0.2.1:1", datagram, 1)
        assert (fragment is None) or shape is Shape.FRAGMENT
        assert (request is None) or shape is Shape.REQUEST
        assert (shape is Shape.WHOLE) == (datagram[:1] == b"{" and len(datagram) <= limits.DATAGRAM_RECEIVE_BYTES_MAX)
        if isinstance(shape, Reason):
            assert shape in REFUSED
        if fragment is not None:
            check_fragment(datagram, fragment)
        if request is not None:
            assert list(request.indexes) == sorted(set(request.indexes))
            assert request_datagram(request.digest, request.indexes) == datagram
        assert sum(map(len, answer)) <= limits.SENT_FRAGMENTS_ANSWER_BYTES_MAX
        assert set(answer) <= set(BUILT)
        assert not answer or request is not None
        read = fragment or request
        spent.outcomes[f"{shape.value} read" if read else shape.value] += 1

    fuzz(seconds, is_told_apart, spent)
    assert {"fragment read", "request read", "whole", *map(str, REFUSED)} <= set(spent.outcomes) | {"too_large"}


@long_and_short
def test_fragments(seconds: float) -> None:
    spent = Spent()

    @given(st.randoms(use_true_random=False))
    def is_put_together(rng: Random) -> None:
        reassembler = Reassembler(SMALL)
        now_ms = 0
        whole: set[bytes] = set()
        for _ in range(rng.choice([5, 30])):
            now_ms += rng.choice([0, 0, 0, 1, 50, 300, 5_000])
            source = f"udp:192.0.2.{rng.randrange(3)}:{rng.randrange(2)}"
            burst = split(rng.choice(MESSAGES)) if rng.randrange(3) == 0 else [some_datagram(rng)]
            with spent.on(sum(map(len, burst))):
                taken = [reassembler.add(source, datagram, now_ms) for datagram in burst]
                asked = reassembler.requests(now_ms) if rng.randrange(4) == 0 else []
                if rng.randrange(8) == 0:
                    reassembler.expire(now_ms)
            for outcome in taken:
                spent.outcomes[type(outcome).__name__.lower()] += 1
                if isinstance(outcome, Complete):
                    assert outcome.message[:1] == b"{"
                    assert 1_155 < len(outcome.message) <= limits.FRAGMENTED_MESSAGE_BYTES_MAX
                    whole.add(outcome.message)
                elif isinstance(outcome, Pending):
                    assert 0 < outcome.held < outcome.count
                else:
                    assert isinstance(outcome, Dropped)
                    assert outcome.reason in DROPPED
            assert reassembler.bytes_held <= SMALL.bytes_max
            assert reassembler.messages_held <= SMALL.messages_max
            assert len(asked) <= limits.REASSEMBLY_REQUESTS_PER_CALL_MAX
            assert all(parse_request(request) is not None for _, request in asked)
        # Nothing can be put together but what was sent: no digest was met by chance.
        assert whole <= set(MESSAGES)
        now_ms += SMALL.lifetime_ms
        reassembler.expire(now_ms)
        assert (reassembler.bytes_held, reassembler.messages_held) == (0, 0)
        [*_, last] = [reassembler.add("udp:192.0.2.1:0", datagram, now_ms) for datagram in split(MESSAGES[0])]
        assert last == Complete(MESSAGES[0])

    fuzz(seconds, is_put_together, spent, examples=60)
    assert {"complete", "pending", "dropped"} <= set(spent.outcomes)
