"""Fragments: putting together, asking again, and what hostile bytes can cost."""

from __future__ import annotations

import hashlib
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from crabnet import limits
from crabnet.errors import Reason
from crabnet.protocol.fragments import (
    CHUNK_BYTES,
    Complete,
    Dropped,
    Pending,
    Reassembler,
    ReassemblyLimits,
    SentCache,
    SentLimits,
    Shape,
    classify,
    parse_request,
    request_datagram,
    split,
)
from crabnet.source import group_of
from tests.support.datagrams import header, message_of

A = "udp:192.0.2.1:9012"
B = "udp:198.51.100.7:9012"


def feed(reassembler: Reassembler, source: str, datagrams: list[bytes], now_ms: int = 0) -> list[object]:
    return [reassembler.add(source, datagram, now_ms) for datagram in datagrams]


# --- putting together ------------------------------------------------------------------------------------


@given(size=st.integers(1_201, 20_000), salt=st.integers(0, 2**32 - 1), data=st.data())
def test_any_order_and_duplication_gives_the_message_exactly_once(size: int, salt: int, data: st.DataObject) -> None:
    message = message_of(size, salt)
    datagrams = split(message)
    order = data.draw(st.permutations(datagrams))
    extra = data.draw(st.lists(st.tuples(st.integers(0, len(order)), st.sampled_from(datagrams)), max_size=20))
    for position, datagram in extra:
        order.insert(position, datagram)
    reassembler = Reassembler()
    outcomes = feed(reassembler, A, order)
    assert [outcome for outcome in outcomes if isinstance(outcome, Complete)] == [Complete(message)]
    assert outcomes.count(Dropped(Reason.DUPLICATE)) == len(extra)
    assert reassembler.bytes_held == 0
    assert reassembler.messages_held == 0


def test_the_largest_message_passes() -> None:
    message = message_of(limits.FRAGMENTED_MESSAGE_BYTES_MAX)
    assert feed(Reassembler(), A, list(reversed(split(message))))[-1] == Complete(message)


def test_progress_is_told() -> None:
    message = message_of(3_000)
    outcomes = feed(Reassembler(), A, split(message))
    digest = hashlib.sha256(message).digest()
    assert outcomes == [Pending(digest, 1, 3), Pending(digest, 2, 3), Complete(message)]


TOTAL = 2 * CHUNK_BYTES + 10
FULL = b"{" + bytes(CHUNK_BYTES - 1)


@pytest.mark.parametrize(
    "datagram",
    [
        header(bytes(32), 0, 0, TOTAL) + FULL,
        header(bytes(32), 0, 2, TOTAL) + FULL,
        header(bytes(32), 0, 4, TOTAL) + FULL,
        header(bytes(32), 3, 3, TOTAL) + bytes(10),
        header(bytes(32), 65_535, 3, TOTAL) + bytes(10),
        header(bytes(32), 0, 3, TOTAL) + FULL[:-1],
        header(bytes(32), 0, 3, TOTAL) + b"[" + FULL[1:],
        header(bytes(32), 2, 3, TOTAL) + bytes(9),
        header(bytes(32), 2, 3, TOTAL) + bytes(11),
        header(bytes(32), 0, 1, 100) + b"{" + bytes(99),
        header(bytes(32), 0, 1, CHUNK_BYTES) + FULL,
        header(bytes(32), 0, 0, 0) + FULL,
        header(bytes(32), 0, 3_719, 2**32 - 1) + FULL,
        header(bytes(32), 0, 909, limits.FRAGMENTED_MESSAGE_BYTES_MAX + 1) + FULL,
        b"",
        b"{}",
        b"CRB2",
        request_datagram(bytes(32), [0]),
    ],
)
def test_a_fragment_that_contradicts_itself_is_refused_and_costs_nothing(datagram: bytes) -> None:
    reassembler = Reassembler()
    assert reassembler.add(A, datagram, 0) == Dropped(Reason.MALFORMED_FRAGMENT)
    assert reassembler.bytes_held == 0


def test_a_fragment_that_contradicts_what_is_held_does_not_replace_it() -> None:
    message = message_of(3_000)
    datagrams = split(message)
    forged = datagrams[1][:-1] + bytes([datagrams[1][-1] ^ 1])
    outcomes = feed(Reassembler(), A, [datagrams[0], datagrams[1], forged, datagrams[2]])
    assert outcomes[2] == Dropped(Reason.MALFORMED_FRAGMENT)
    assert outcomes[3] == Complete(message)


def test_contradicting_totals_do_not_disturb_the_true_message() -> None:
    message = message_of(3_000)
    datagrams = split(message)
    other_total = header(hashlib.sha256(message).digest(), 1, 3, 3_001) + bytes(CHUNK_BYTES)
    outcomes = feed(Reassembler(), A, [datagrams[0], other_total, *datagrams[1:]])
    assert outcomes[-1] == Complete(message)


def test_a_wrong_digest_is_refused_forgotten_and_does_not_block_the_true_fragments() -> None:
    message = message_of(3_000)
    datagrams = split(message)
    forged = datagrams[1][:-1] + bytes([datagrams[1][-1] ^ 1])
    reassembler = Reassembler()
    assert feed(reassembler, A, [datagrams[0], forged, datagrams[2]])[-1] == Dropped(Reason.MALFORMED_FRAGMENT)
    assert reassembler.bytes_held == 0
    assert feed(reassembler, A, datagrams)[-1] == Complete(message)


def test_sources_are_kept_apart() -> None:
    message = message_of(3_000)
    datagrams = split(message)
    forged = datagrams[1][:-1] + bytes([datagrams[1][-1] ^ 1])
    reassembler = Reassembler()
    feed(reassembler, B, [forged])
    assert feed(reassembler, A, datagrams)[-1] == Complete(message)


def test_a_completed_message_may_come_again_later() -> None:
    datagrams = split(message_of(3_000))
    reassembler = Reassembler()
    feed(reassembler, A, datagrams)
    assert set(feed(reassembler, A, datagrams, limits.REASSEMBLY_COMPLETED_TTL_MS - 1)) == {Dropped(Reason.DUPLICATE)}
    assert isinstance(feed(reassembler, A, datagrams, limits.REASSEMBLY_COMPLETED_TTL_MS)[-1], Complete)


# --- time ------------------------------------------------------------------------------------------------


def test_an_incomplete_message_expires_after_its_last_new_fragment() -> None:
    message = message_of(4_000)
    datagrams = split(message)
    reassembler = Reassembler()
    reassembler.add(A, datagrams[0], 0)
    reassembler.add(A, datagrams[1], 5_000)
    reassembler.add(A, datagrams[1], 9_000)
    assert reassembler.expire(5_000 + limits.REASSEMBLY_TTL_MS - 1) == []
    assert reassembler.expire(5_000 + limits.REASSEMBLY_TTL_MS) == [(A, hashlib.sha256(message).digest())]
    assert reassembler.bytes_held == 0


def test_a_message_that_drips_in_expires_too() -> None:
    datagrams = split(message_of(limits.FRAGMENTED_MESSAGE_BYTES_MAX))
    reassembler = Reassembler()
    now_ms, expired = 0, False
    for datagram in datagrams:
        reassembler.add(A, datagram, now_ms)
        now_ms += limits.REASSEMBLY_TTL_MS - 1
        expired = bool(reassembler.expire(now_ms))
        if expired:
            break
    assert expired
    assert now_ms < limits.REASSEMBLY_LIFETIME_MS + limits.REASSEMBLY_TTL_MS


def test_missing_fragments_are_asked_for_with_growing_waits_and_not_for_ever() -> None:
    message = message_of(6_000)
    datagrams = split(message)
    reassembler = Reassembler()
    feed(reassembler, A, [datagrams[0], datagrams[3]])
    asked_at: list[int] = []
    for now_ms in range(0, 60_000, 10):
        for source, request in reassembler.requests(now_ms):
            assert source == A
            asked_at.append(now_ms)
            parsed = parse_request(request)
            assert parsed is not None
            assert parsed.digest == hashlib.sha256(message).digest()
            assert parsed.indexes == (1, 2, 4, 5)
    waits = [later - earlier for earlier, later in pairwise(asked_at)]
    assert asked_at[0] == limits.REASSEMBLY_QUIET_MS
    assert len(asked_at) == limits.REASSEMBLY_REQUESTS_MAX
    assert waits == sorted(waits)
    assert asked_at[-1] < limits.REASSEMBLY_TTL_MS


def test_nothing_is_asked_for_while_fragments_flow() -> None:
    reassembler = Reassembler()
    for number, datagram in enumerate(split(message_of(50_000))[:-1]):
        reassembler.add(A, datagram, number * 100)
        assert reassembler.requests(number * 100 + 99) == []


def test_one_small_fragment_makes_a_node_send_little() -> None:
    """A forged source address must not turn the node into an amplifier."""
    datagram = split(message_of(907 * CHUNK_BYTES + 1))[-1]
    assert len(datagram) == 46
    reassembler = Reassembler()
    reassembler.add(A, datagram, 0)
    sent = [request for now_ms in range(0, 20_000, 50) for _, request in reassembler.requests(now_ms)]
    assert sum(map(len, sent)) <= 10 * len(datagram)


@pytest.mark.parametrize("size", [1_300, 30_000, limits.FRAGMENTED_MESSAGE_BYTES_MAX])
@pytest.mark.parametrize("seed", range(5))
def test_a_message_gets_through_heavy_loss_by_requests(size: int, seed: int) -> None:
    chance = random.Random(seed)
    message = message_of(size)
    cache, reassembler = SentCache(), Reassembler()
    loss = 0.2
    outcomes: list[object] = []
    on_the_wire = [datagram for datagram in cache.split(message, 0)[1:] if chance.random() >= loss]
    on_the_wire.append(cache.split(message, 0)[0])
    for now_ms in range(0, limits.REASSEMBLY_LIFETIME_MS, 50):
        outcomes += feed(reassembler, A, on_the_wire, now_ms)
        on_the_wire = [
            datagram
            for _, request in reassembler.requests(now_ms)
            if chance.random() >= loss
            for datagram in cache.answer(B, request, now_ms)
            if chance.random() >= loss
        ]
        if reassembler.messages_held == 0:
            break
    assert outcomes[-1] == Complete(message)


# --- bounds ----------------------------------------------------------------------------------------------

SMALL = ReassemblyLimits(
    bytes_max=40_000, messages_max=12, bytes_per_source_max=20_000, messages_per_source_max=4, completed_max=5
)


def test_memory_grows_by_what_was_received_not_by_what_was_announced() -> None:
    reassembler = Reassembler()
    reassembler.add(A, split(message_of(limits.FRAGMENTED_MESSAGE_BYTES_MAX))[-1], 0)
    assert reassembler.bytes_held < 4_096


def test_a_source_at_its_bound_keeps_what_is_moving_and_gives_up_what_is_quiet() -> None:
    reassembler = Reassembler(SMALL)
    messages = [split(message_of(3_000, salt)) for salt in range(5)]
    for datagrams in messages[:4]:
        assert isinstance(reassembler.add(A, datagrams[0], 0), Pending)
    assert reassembler.add(A, messages[4][0], SMALL.quiet_ms - 1) == Dropped(Reason.LIMIT_EXCEEDED)
    reassembler.add(A, messages[0][1], SMALL.quiet_ms)
    assert isinstance(reassembler.add(A, messages[4][0], SMALL.quiet_ms), Pending)
    assert reassembler.evicted == 1
    assert isinstance(reassembler.add(A, messages[0][2], SMALL.quiet_ms), Complete)


def test_a_message_that_no_bound_has_room_for_is_refused_and_leaves_its_own_fragments() -> None:
    reassembler = Reassembler(SMALL)
    outcomes = feed(reassembler, A, split(message_of(100_000)))
    assert outcomes.count(Dropped(Reason.LIMIT_EXCEEDED)) > 0
    assert reassembler.bytes_held <= SMALL.bytes_per_source_max


def test_among_equals_only_what_is_quiet_gives_way() -> None:
    reassembler = Reassembler(SMALL)
    datagrams = split(message_of(3_000))
    for host in range(SMALL.messages_max):
        assert isinstance(reassembler.add(f"udp:10.0.0.{host}:1", datagrams[0], 0), Pending)
    reassembler.add("udp:10.0.0.0:1", datagrams[1], 1)
    assert reassembler.add(A, datagrams[0], SMALL.quiet_ms - 1) == Dropped(Reason.LIMIT_EXCEEDED)
    assert isinstance(reassembler.add(A, datagrams[0], SMALL.quiet_ms), Pending)
    assert isinstance(reassembler.add("udp:10.0.0.0:1", datagrams[2], SMALL.quiet_ms), Complete)


@given(
    hostile=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 50), st.integers(0, 200)), max_size=150),
    honest_at=st.integers(0, 150),
)
def test_heavy_sources_cannot_push_out_a_light_one(hostile: list[tuple[int, int, int]], honest_at: int) -> None:
    """Hosts 10.0.0.x flood from any port; a peer that uses less than each of them still gets its message through."""
    reassembler = Reassembler(SMALL)
    flood = [split(message_of(50_000, salt)) for salt in range(3)]
    for host in range(1, 7):
        for port in range(4):
            feed(reassembler, f"udp:10.0.0.{host}:{port}", flood[0][:9])
    honest = split(message_of(2_000))
    outcomes: list[object] = []
    for number, (host, port, index) in enumerate(hostile):
        if number == honest_at:
            outcomes.append(reassembler.add(A, honest[0], number))
        reassembler.add(f"udp:10.0.0.{host}:{port}", flood[index % 3][index % 40], number)
    if not outcomes:
        outcomes.append(reassembler.add(A, honest[0], len(hostile)))
    outcomes.append(reassembler.add(A, honest[1], len(hostile)))
    assert outcomes[-1] == Complete(message_of(2_000))


def test_ports_of_one_host_share_and_ipv6_addresses_of_one_prefix_too() -> None:
    assert group_of("udp:192.0.2.1:1") == group_of("udp:192.0.2.1:2") != group_of("udp:192.0.2.2:1")
    assert (
        group_of("udp:[2001:db8::1]:1") == group_of("udp:[2001:db8::ffff:2]:2") != group_of("udp:[2001:db8:0:1::1]:1")
    )
    assert group_of("udp:[fe80::1%eth0]:1") == group_of("udp:[fe80::2]:1")
    assert group_of("p2p:12D3KooWA") != group_of("p2p:12D3KooWB"), "a libp2p peer is a group of its own"
    for odd in ("", ":", "[", "[]:", "[zz]:1", "host:1", "x", "udp:", "p2p:", "udp:[", "udp:[]:", "udp:[zz]:1"):
        assert isinstance(group_of(odd), str)


@given(st.lists(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: b"CRB2" + tail)))
def test_any_bytes_never_raise(datagrams: list[bytes]) -> None:
    reassembler, cache = Reassembler(SMALL), SentCache()
    for now_ms, datagram in enumerate(datagrams):
        classify(datagram)
        reassembler.add(A, datagram, now_ms)
        cache.answer(A, datagram, now_ms)
    reassembler.requests(10**6)
    reassembler.expire(10**6)


class HostileStreams(RuleBasedStateMachine):
    """Whatever many sources send, in whatever order and time, every bound holds and sums stay right."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0
        self.reassembler = Reassembler(SMALL)
        self.cache = SentCache(SentLimits(bytes_max=30_000, sources_per_message_max=3))
        self.messages = [message_of(size, size) for size in (1_201, 3_000, 9_000, 25_000, 60_000)]
        self.held: dict[str, int] = {}

    sources = st.sampled_from(
        [f"udp:10.0.0.{host}:{port}" for host in range(3) for port in range(3)] + ["udp:[::1]:1", "?"]
    )

    @rule(source=sources, message=st.integers(0, 4), index=st.integers(0, 60), flip=st.booleans())
    def fragment(self, source: str, message: int, index: int, flip: bool) -> None:
        datagrams = split(self.messages[message])
        datagram = datagrams[index % len(datagrams)]
        if flip:
            datagram = datagram[:-1] + bytes([datagram[-1] ^ 1])
        outcome = self.reassembler.add(source, datagram, self.now_ms)
        if isinstance(outcome, Complete):
            assert outcome.message in self.messages

    @rule(source=sources, digest=st.binary(min_size=32, max_size=32), count=st.integers(2, 908), data=st.data())
    def stray(self, source: str, digest: bytes, count: int, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, count - 1))
        total = count * CHUNK_BYTES
        self.reassembler.add(source, header(digest, index, count, min(total, 1024 * 1024)) + FULL, self.now_ms)

    @rule(source=sources, salt=st.integers(0, 20), number=st.integers(1, 30))
    def burst(self, source: str, salt: int, number: int) -> None:
        feed(self.reassembler, source, split(message_of(40_000, salt))[:number], self.now_ms)

    @rule(source=sources, junk=st.binary(max_size=100))
    def junk(self, source: str, junk: bytes) -> None:
        self.reassembler.add(source, junk, self.now_ms)
        self.cache.answer(source, junk, self.now_ms)

    @rule(step_ms=st.integers(0, 5_000))
    def wait(self, step_ms: int) -> None:
        self.now_ms += step_ms

    @rule()
    def tick(self) -> None:
        requests = self.reassembler.requests(self.now_ms)
        assert len(requests) <= limits.REASSEMBLY_REQUESTS_PER_CALL_MAX
        assert all(classify(request) is Shape.REQUEST for _, request in requests)
        self.reassembler.expire(self.now_ms)

    @rule(message=st.integers(0, 4))
    def send(self, message: int) -> None:
        self.cache.split(self.messages[message], self.now_ms)

    @rule(source=sources, message=st.integers(0, 4), indexes=st.sets(st.integers(0, 60), min_size=1))
    def ask(self, source: str, message: int, indexes: set[int]) -> None:
        digest = hashlib.sha256(self.messages[message]).digest()
        answer = self.cache.answer(source, request_datagram(digest, sorted(indexes)), self.now_ms)
        assert sum(map(len, answer)) <= limits.SENT_FRAGMENTS_ANSWER_BYTES_MAX

    @invariant()
    def bounds_hold(self) -> None:
        assert 0 <= self.reassembler.bytes_held <= SMALL.bytes_max
        assert self.reassembler.messages_held <= SMALL.messages_max
        assert (self.reassembler.bytes_held == 0) == (self.reassembler.messages_held == 0)
        assert 0 <= self.cache.bytes_held <= 30_000

    def teardown(self) -> None:
        self.reassembler.expire(self.now_ms + limits.REASSEMBLY_LIFETIME_MS)
        assert self.reassembler.bytes_held == 0
        self.cache.answer("?", b"", self.now_ms + limits.SENT_FRAGMENTS_TTL_MS)
        assert self.cache.bytes_held == 0


TestHostileStreams = HostileStreams.TestCase
