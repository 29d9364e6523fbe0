"""Sources: rates, penalties, blocks that grow and decay, and tables that strangers cannot fill."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.core.budgets.sources import SourceGate, SourceRates
from crabnet.errors import Reason

START_MS = 1_767_225_600_000
PEER = "udp:198.51.100.7:9012"
STRANGER = "udp:203.0.113.9:40000"
RATES = SourceRates(
    threshold_per_s=100,
    rejects_per_s=10,
    block_ms=3_000,
    block_ms_max=20_000,
    strangers_per_s=500,
    peer_per_s=300,
    total_per_s=1_000,
)


def misbehave(gate: SourceGate, source: str, now_ms: int, *, proven: bool = False) -> int:
    """Send junk until a block begins; how much that took."""
    for number in range(1, 10_000):
        gate.check(source, now_ms, proven=proven)
        gate.reject(source, now_ms, proven=proven)
        if gate.blocked:
            return number
    raise AssertionError("no block")


def test_rejects_block_a_stranger_for_longer_each_time_up_to_a_bound() -> None:
    gate = SourceGate(RATES)
    now_ms = START_MS
    durations = []
    for _ in range(5):
        assert misbehave(gate, STRANGER, now_ms) == RATES.rejects_per_s + 1
        [block] = gate.take_blocks()
        assert (block.source, block.reason) == ("udp:203.0.113.9", Reason.MISUSE)
        durations.append(block.duration_ms)
        assert gate.check(STRANGER, now_ms + block.duration_ms - 1) is Reason.SOURCE_BLOCKED
        assert gate.check("udp:203.0.113.9:1", now_ms) is Reason.SOURCE_BLOCKED, "another port is the same host"
        assert gate.check("udp:203.0.113.10:40000", now_ms) is None
        now_ms += block.duration_ms
        assert gate.check(STRANGER, now_ms) is None
    assert durations == [3_000, 6_000, 12_000, 20_000, 20_000]


def test_time_without_misuse_takes_strikes_back() -> None:
    gate = SourceGate(RATES)
    misbehave(gate, STRANGER, START_MS)
    misbehave(gate, STRANGER, START_MS + 10_000)
    assert [block.duration_ms for block in gate.take_blocks()] == [3_000]
    misbehave(gate, STRANGER, START_MS + 20_000)
    assert gate.take_blocks()[-1].duration_ms == 6_000
    misbehave(gate, STRANGER, START_MS + 30_000 + 3 * limits.SOURCE_FORGIVE_MS)
    assert gate.take_blocks()[-1].duration_ms == 3_000


def test_good_messages_make_up_for_misuse() -> None:
    gate = SourceGate(RATES)
    misbehave(gate, STRANGER, START_MS)
    gate.take_blocks()
    now_ms = START_MS + 3_000
    for _ in range(limits.SOURCE_GOOD_MIN):
        assert gate.check(STRANGER, now_ms) is None
        gate.praise(STRANGER)
    misbehave(gate, STRANGER, now_ms)
    assert gate.take_blocks()[0].duration_ms == 3_000


def test_a_few_rejects_now_and_then_block_nobody() -> None:
    gate = SourceGate(RATES)
    for second in range(1_000):
        for _ in range(RATES.rejects_per_s // 2):
            assert gate.check(STRANGER, START_MS + second * 1_000) is None
            gate.reject(STRANGER, START_MS + second * 1_000)
    assert not gate.blocked


def test_a_stranger_over_its_rate_is_blocked_and_a_proven_peer_is_not() -> None:
    gate = SourceGate(RATES)
    answers = [gate.check(STRANGER, START_MS) for _ in range(RATES.threshold_per_s + 2)]
    assert answers[-3:] == [None, Reason.RATE_LIMITED, Reason.SOURCE_BLOCKED]
    assert [block.reason for block in gate.take_blocks()] == [Reason.RATE_LIMITED]
    answers = [gate.check(PEER, START_MS, proven=True) for _ in range(RATES.peer_per_s + 5)]
    assert answers == [None] * RATES.peer_per_s + [Reason.RATE_LIMITED] * 5
    assert not gate.blocked
    assert gate.check(PEER, START_MS + 1_000, proven=True) is None


def test_strangers_share_a_budget_that_proven_peers_do_not_touch() -> None:
    gate = SourceGate(RATES)
    through = sum(gate.check(f"udp:10.{number >> 8}.{number & 255}.1:1", START_MS) is None for number in range(5_000))
    assert through == RATES.strangers_per_s
    assert gate.check(PEER, START_MS, proven=True) is None


def test_every_proven_peer_has_its_share_when_the_total_is_used_up() -> None:
    gate = SourceGate(SourceRates(total_per_s=1))
    for number in range(10):
        greedy = f"udp:198.51.100.{number}:1"
        through = sum(gate.check(greedy, START_MS, proven=True) is None for _ in range(1_000))
        assert through in {limits.SOURCE_SHARE_PER_S, limits.SOURCE_SHARE_PER_S + 1}


def test_forged_junk_slows_a_proven_peer_down_but_does_not_silence_it() -> None:
    gate = SourceGate(RATES)
    misbehave(gate, PEER, START_MS, proven=True)
    assert gate.take_blocks()[0].source == PEER
    through = sum(gate.check(PEER, START_MS + ms, proven=True) is None for ms in range(0, 2_000, 2))
    assert through >= 2 * limits.SOURCE_TRICKLE_PER_S
    assert gate.check(PEER, START_MS + 3_000, proven=True) is None


def test_forged_junk_without_end_slows_down_for_a_bounded_time_only() -> None:
    gate = SourceGate(RATES)
    now_ms = START_MS
    for _ in range(20):
        misbehave(gate, PEER, now_ms, proven=True)
        [block] = gate.take_blocks()
        assert block.duration_ms <= limits.SOURCE_SLOWED_FACTOR_MAX * RATES.block_ms
        now_ms += block.duration_ms
    answers = [gate.check(PEER, now_ms + 1, proven=True) for _ in range(RATES.threshold_per_s)]
    assert set(answers) == {None}


def test_a_proven_peer_ends_its_block_by_good_messages() -> None:
    gate = SourceGate(RATES)
    misbehave(gate, PEER, START_MS, proven=True)
    for _ in range(limits.SOURCE_GOOD_MIN):
        gate.praise(PEER, proven=True)
    answers = [gate.check(PEER, START_MS + 1, proven=True) for _ in range(2 * limits.SOURCE_TRICKLE_PER_S)]
    assert set(answers) == {None}


def test_junk_of_strangers_at_a_peers_host_does_not_concern_the_peer() -> None:
    gate = SourceGate(RATES)
    misbehave(gate, "udp:198.51.100.7:555", START_MS)
    assert gate.check("udp:198.51.100.7:555", START_MS) is Reason.SOURCE_BLOCKED
    assert gate.check(PEER, START_MS, proven=True) is None


def spoof(gate: SourceGate) -> None:
    """A misbehaving proven peer, a stranger with good history, then 100,000 sources that send junk."""
    misbehave(gate, PEER, START_MS, proven=True)
    gate.check(STRANGER, START_MS)
    for _ in range(limits.SOURCE_GOOD_MIN):
        gate.praise(STRANGER)
    for number in range(100_000):
        source = f"udp:{10 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.1:{number & 65_535}"
        gate.check(source, START_MS + number // 100)
        gate.reject(source, START_MS + number // 100)


def test_spoofed_sources_fill_no_table_and_displace_nobody() -> None:
    gate = SourceGate(RATES)
    spoof(gate)
    assert len(gate) <= limits.SOURCES_MAX + 2
    assert len(gate.take_dropped()) <= limits.SOURCES_REPORTED_MAX + len(Reason)
    assert len(gate.take_blocks()) <= limits.SOURCES_REPORTED_MAX
    answers = [gate.check(STRANGER, START_MS + 1_000) for _ in range(RATES.threshold_per_s)]
    assert set(answers) == {None}, "good history keeps its row and does not share the strangers' budget"
    assert gate.check(PEER, START_MS + 1_000, proven=True) is None


@pytest.mark.deep
def test_spoofed_sources_fill_no_memory() -> None:
    gate = SourceGate(RATES)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        spoof(gate)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 10 * 1024 * 1024


def test_drops_are_counted_by_source_and_reason_all_of_them() -> None:
    gate = SourceGate(SourceRates(threshold_per_s=1, block_ms=1_000))
    for number in range(1_000):
        for _ in range(4):
            gate.check(f"udp:10.0.{number >> 8}.{number & 255}:1", START_MS)
    dropped = gate.take_dropped()
    assert sum(count for _, reason, count in dropped if reason is Reason.RATE_LIMITED) == 1_000
    assert sum(count for _, reason, count in dropped if reason is Reason.SOURCE_BLOCKED) == 2_000
    assert len(dropped) <= limits.SOURCES_REPORTED_MAX + len(Reason)
    assert gate.take_dropped() == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["check", "reject", "praise"]), st.integers(0, 30), st.booleans(), st.integers(0, 5_000)
        ),
        max_size=300,
    )
)
def test_whatever_happens_a_proven_peer_is_heard_within_a_second(
    steps: list[tuple[str, int, bool, int]],
) -> None:
    gate = SourceGate(RATES)
    now_ms = START_MS
    for action, number, proven, pause_ms in steps:
        now_ms += pause_ms // 100
        source = f"udp:192.0.2.{number}:{number}"
        if action == "check":
            gate.check(source, now_ms, proven=proven)
        elif action == "reject":
            gate.reject(source, now_ms, proven=proven)
        else:
            gate.praise(source, proven=proven)
    assert len(gate) <= 62
    assert gate.check("udp:192.0.2.1:1", now_ms + 1_000, proven=True) is None


def test_strangers_have_less_while_the_socket_is_crowded_and_proven_peers_do_not() -> None:
    gate = SourceGate(RATES)
    strangers = [f"udp:203.0.{n // 250}.{n % 250}:1" for n in range(RATES.strangers_per_s)]
    answers = [gate.check(source, START_MS, crowded=True) for source in strangers]
    assert answers.count(None) == RATES.strangers_per_s // limits.SOURCE_CROWDED_WEIGHT
    answers = [gate.check(PEER, START_MS, proven=True, crowded=True) for _ in range(RATES.peer_per_s)]
    assert answers == [None] * RATES.peer_per_s


@pytest.mark.parametrize("proven", [False, True])
def test_a_large_datagram_counts_like_the_small_ones_that_it_could_be(proven: bool) -> None:
    rate = RATES.peer_per_s if proven else RATES.strangers_per_s

    def through(size_bytes: int) -> int:
        gate = SourceGate(RATES)
        sources = [PEER] * rate if proven else [f"udp:203.0.{n // 250}.{n % 250}:1" for n in range(rate)]
        answers = [gate.check(source, START_MS, proven=proven, size_bytes=size_bytes) for source in sources]
        return answers.count(None)

    assert through(limits.DATAGRAM_BYTES_MAX) == rate
    assert through(limits.DATAGRAM_BYTES_MAX + 1) == rate // 2
    assert 1 <= through(limits.DATAGRAM_RECEIVE_BYTES_MAX) <= 1 + rate // 50


def test_hosts_that_lose_their_good_name_displace_strangers_but_take_no_more_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "SOURCES_MAX", 8)
    monkeypatch.setattr(limits, "SOURCE_PEERS_MAX", 8)
    gate = SourceGate(SourceRates(rejects_per_s=1))
    fallen = [f"udp:198.51.100.{number}:1" for number in range(8)]
    for source in fallen:
        gate.check(source, START_MS)
        for _ in range(limits.SOURCE_GOOD_MIN):
            gate.praise(source)
    for number in range(8):
        gate.check(f"udp:203.0.113.{number}:1", START_MS)
    assert len(gate) == 16
    for source in fallen:
        misbehave(gate, source, START_MS)
        gate.take_blocks()
        assert gate.check(source, START_MS) is Reason.SOURCE_BLOCKED
    assert len(gate) == 8
