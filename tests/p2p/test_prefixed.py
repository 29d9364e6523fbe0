"""Messages on a stream: cut anywhere, too long, and lengths that are none."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.p2p.prefixed import MalformedStreamError, Prefixed, prefixed

MESSAGES = st.lists(st.binary(max_size=400), max_size=20)
BYTES_MAX = 400


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The parts between these places."""
    at = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[begin:end] for begin, end in itertools.pairwise(at)]


@given(MESSAGES, st.lists(st.integers(0, 10_000), max_size=30))
def test_messages_come_whole_and_in_order_however_they_are_cut(messages: list[bytes], places: list[int]) -> None:
    cutter = Prefixed(BYTES_MAX)
    found = [each for part in cut(b"".join(map(prefixed, messages)), places) for each in cutter.add(part)]
    assert found == messages
    assert len(cutter) == 0


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10))
def test_whatever_comes_is_cut_or_refused_alike_whichever_way_it_comes(data: bytes, places: list[int]) -> None:
    def outcome(parts: list[bytes]) -> tuple[list[bytes], bool]:
        cutter, found = Prefixed(64), list[bytes]()
        try:
            for part in parts:
                found += cutter.add(part)
        except MalformedStreamError:
            return [], True
        assert len(cutter) <= 64 + 5
        return found, False

    assert outcome([data]) == outcome(cut(data, places))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x80\x80\x80\x80\x80\x01", id="too long"),
        pytest.param(b"\x85\x00", id="not the shortest"),
        pytest.param(b"\xff\xff\xff\xff\x0f", id="4 GiB"),
        pytest.param(b"\x91\x03", id="one more than the most"),
    ],
)
def test_lengths_that_are_none_are_refused_before_anything_else_comes(data: bytes) -> None:
    with pytest.raises(MalformedStreamError):
        Prefixed(BYTES_MAX).add(data)


def test_the_largest_message_passes() -> None:
    assert Prefixed(BYTES_MAX).add(prefixed(bytes(BYTES_MAX))) == [bytes(BYTES_MAX)]
