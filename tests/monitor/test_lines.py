"""The line scanner: the same events however the bytes are cut, and past any damage."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.limits import EVENT_LINE_BYTES_MAX, INTEGER_MAX
from crabnet.monitor.events import Event, EventEncoder
from crabnet.monitor.lines import LineScanner, aside_moment_ms, aside_name, rotated_first_id, rotated_name
from tests.monitor.support import accepted


def lines(first_id: int, count: int) -> list[bytes]:
    """Lines of ``count`` events from ``first_id`` on."""
    events = [accepted(number) for number in range(count)]
    for event_id, event in enumerate(events, first_id):
        event.id = event_id
    return EventEncoder().lines(events).splitlines(keepends=True)


def scan(data: bytes, cuts: list[int] | None = None) -> tuple[list[Event], LineScanner]:
    """All events of ``data``, fed in pieces that end at ``cuts``."""
    scanner = LineScanner()
    events: list[Event] = []
    edges = [0, *sorted({min(cut, len(data)) for cut in cuts or []}), len(data)]
    for start, end in pairwise(edges):
        events += scanner.feed(data[start:end])
    return events + scanner.finish(), scanner


def ids(events: list[Event]) -> list[int]:
    """The ids of ``events``."""
    return [event.id for event in events]


@given(
    st.lists(
        st.sampled_from([b"good", b"", b"junk", b"{}", b"\xff\xfe", b"\0" * 90, b"[" * 5000, b"x" * 300]), max_size=12
    ),
    st.binary(max_size=40).filter(lambda tail: b"\n" not in tail),
    st.lists(st.integers(0, 3000), max_size=8),
)
def test_pieces_do_not_matter(kinds: list[bytes], torn: bytes, cuts: list[int]) -> None:
    good = iter(lines(5, len(kinds)))
    parts = [next(good) if kind == b"good" else kind + b"\n" for kind in kinds]
    data = b"".join(parts) + torn
    whole, scanner = scan(data)
    pieces, other = scan(data, cuts)
    assert pieces == whole
    assert ids(whole) == list(range(5, 5 + kinds.count(b"good")))
    assert scanner.damaged_lines == other.damaged_lines == len(kinds) - kinds.count(b"good")
    last_good = max((index for index, kind in enumerate(kinds) if kind == b"good"), default=-1)
    assert scanner.valid_end == other.valid_end == len(b"".join(parts[: last_good + 1]))


@pytest.mark.parametrize(
    ("damaged", "wrong_id"),
    [
        (damaged, b"%d" % wrong_id)
        for damaged in range(6)
        for wrong_id in (1, 11, 19, 999_999_999, 0, -5)
        if wrong_id != 10 + damaged
    ],
)
def test_an_id_that_does_not_fit_hides_no_other_event(damaged: int, wrong_id: bytes) -> None:
    all_lines = lines(10, 6)
    right_id = b'{"id":%d,' % (10 + damaged)
    all_lines[damaged] = all_lines[damaged].replace(right_id, b'{"id":%s,' % wrong_id)
    events, scanner = scan(b"".join(all_lines))
    expected = [10 + index for index in range(6) if index != damaged]
    found = ids(events)
    # when the very first line lies, nothing tells at once which of two neighbours is wrong
    assert set(expected) - set(found) <= ({10, 11} if damaged <= 1 else set())
    assert len(found) + scanner.damaged_lines == 6
    assert scanner.last_id == (14 if damaged == 5 else 15)


def test_every_bit_flip_costs_at_most_the_lines_it_touches() -> None:
    data = b"".join(lines(1, 4))
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            events, _ = scan(bytes(flipped))
            assert len(events) >= 2, (position, bit)
            assert ids(events) == sorted(set(ids(events)))


def test_a_line_without_end_is_passed_over_in_bounded_memory() -> None:
    before, after = lines(1, 2)
    endless = b"x" * (4 * EVENT_LINE_BYTES_MAX)
    scanner = LineScanner()
    events = scanner.feed(before)
    for start in range(0, len(endless), 64 * 1024):
        events += scanner.feed(endless[start : start + 64 * 1024])
    events += scanner.feed(b"\n" + after) + scanner.finish()
    assert ids(events) == [1, 2]
    assert scanner.damaged_lines == 1
    assert scanner.valid_end == len(before) + len(endless) + 1 + len(after)


@given(st.integers(1, INTEGER_MAX))
def test_file_names(number: int) -> None:
    assert rotated_first_id(rotated_name(number)) == number
    assert aside_moment_ms(aside_name(number)) == number
    assert rotated_first_id(aside_name(number)) is None
    assert aside_moment_ms(rotated_name(number)) is None


@pytest.mark.parametrize(
    "name", ["events.ndjson", "events-.ndjson", "events-0.ndjson", "events-01.ndjson", "x-1.ndjson"]
)
def test_other_names_are_no_rotated_files(name: str) -> None:
    assert rotated_first_id(name) is None
