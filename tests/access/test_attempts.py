"""Failed attempts block an address for longer and longer; the table is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.access.attempts import Attempts, source_of

HERE = "192.0.2.1"
FREE = limits.ATTEMPTS_FREE


def fail(attempts: Attempts, times: int, now_ms: int = 0) -> list[int]:
    return [attempts.failed(HERE, now_ms) for _ in range(times)]


def test_blocks_double_up_to_a_maximum() -> None:
    attempts = Attempts()
    assert fail(attempts, FREE) == [0] * FREE
    blocks = fail(attempts, 14)
    expected = [min(limits.ATTEMPTS_BLOCK_MS * 2**number, limits.ATTEMPTS_BLOCK_MS_MAX) for number in range(14)]
    assert blocks == expected
    assert blocks[-1] == limits.ATTEMPTS_BLOCK_MS_MAX
    assert fail(attempts, 10_000)[-1] == limits.ATTEMPTS_BLOCK_MS_MAX


def test_a_block_ends() -> None:
    attempts = Attempts()
    fail(attempts, FREE + 2, now_ms=1_000)
    end_ms = 1_000 + 2 * limits.ATTEMPTS_BLOCK_MS
    assert attempts.blocked_ms(HERE, 1_000) == 2 * limits.ATTEMPTS_BLOCK_MS
    assert attempts.blocked_ms(HERE, end_ms - 1) == 1
    assert attempts.blocked_ms(HERE, end_ms) == 0
    assert attempts.blocked_ms("192.0.2.2", 1_000) == 0


def test_failures_are_forgotten_after_a_quiet_time() -> None:
    attempts = Attempts()
    fail(attempts, FREE + 1)
    quiet_ms = limits.ATTEMPTS_BLOCK_MS + limits.ATTEMPTS_QUIET_MS
    assert attempts.failed(HERE, quiet_ms - 1) == 2 * limits.ATTEMPTS_BLOCK_MS
    fresh = Attempts()
    fail(fresh, FREE + 1)
    assert fresh.failed(HERE, quiet_ms) == 0


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("no address", "no address"),
    ],
)
def test_what_an_address_counts_as(address: str, source: str) -> None:
    assert source_of(address) == source


@given(st.text(max_size=200))
def test_any_text_is_a_source(address: str) -> None:
    attempts = Attempts()
    for _ in range(FREE + 1):
        attempts.failed(address, 0)
    assert attempts.blocked_ms(address, 0) == limits.ATTEMPTS_BLOCK_MS
    assert len(source_of(address)) <= limits.REPORT_ADDRESS_CHARS_MAX


def test_all_addresses_of_a_network_share_a_block() -> None:
    attempts = Attempts()
    for number in range(FREE + 1):
        attempts.failed(f"2001:db8::{number:x}", 0)
    assert attempts.blocked_ms("2001:db8::abcd", 0) == limits.ATTEMPTS_BLOCK_MS
