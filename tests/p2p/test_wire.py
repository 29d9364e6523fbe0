"""The frames between a node and its libp2p process: cut anywhere, and garbage that is given up, not believed."""

from __future__ import annotations

import itertools
from typing import get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crabnet.errors import Reason
from crabnet.transport.p2p_wire import (
    FRAME_BYTES_MAX,
    LENGTH,
    Arrived,
    Block,
    Book,
    Connected,
    Disconnected,
    Frames,
    Known,
    Learnt,
    Misused,
    Noted,
    Order,
    Path,
    Publish,
    Published,
    Report,
    Send,
    Sent,
    State,
    TopicState,
    frame,
    order_of,
    report_of,
)

REPORTS: list[Report] = [
    Arrived("peer", Path.GOSSIP, "crabnet/v2/default/tasks", [b"{}", b""]),
    Connected("peer", "/ip4/192.0.2.1/tcp/1", True, False),
    Disconnected("peer"),
    Published(1, 2, ""),
    Sent(2**40, Reason.TIMEOUT, "x"),
    Misused("peer", Path.CONNECTION, "malformed", "d", 3, 0, True),
    Noted("topic_unknown", {"peer": "p", "count": 1, "ok": None}),
    Book([Known("/ip4/192.0.2.1/tcp/1", "peer", Learnt.TOLD, 1, 2)]),
    State(1, 2, [TopicState("t", 1, 1)], [], [], "unknown", [], {"gossip_sent": 1}),
]
ORDERS: list[Order] = [Publish(1, ["t"], b"x"), Send(2, "peer", Path.SYNC, [b"a", b"b"]), Block("peer", 3_000)]


@given(
    st.lists(st.one_of(st.sampled_from(REPORTS), st.builds(Published, st.integers(0, 2**53), st.integers(0, 99)))),
    st.lists(st.integers(0, 100_000), max_size=40),
)
def test_reports_come_whole_and_in_order_however_they_are_cut(reports: list[Report], places: list[int]) -> None:
    data = b"".join(map(frame, reports))
    at = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    frames, found = Frames(), list[bytes]()
    for begin, end in itertools.pairwise(at):
        found += frames.add(data[begin:end])
    assert [report_of(each) for each in found] == reports


def test_every_kind_of_report_and_order_is_among_the_examples() -> None:
    assert {type(each) for each in REPORTS} == {*get_args(Report)}
    assert {type(each) for each in ORDERS} == {*get_args(Order)}
    assert [order_of(frame(each)[LENGTH.size :]) for each in ORDERS] == ORDERS


def test_a_frame_that_is_too_long_is_refused_by_its_length_alone() -> None:
    with pytest.raises(ValueError, match="at most"):
        Frames().add(LENGTH.pack(FRAME_BYTES_MAX + 1))
    assert Frames().add(LENGTH.pack(FRAME_BYTES_MAX)) == []


BYTES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(REPORTS).flatmap(
        lambda report: st.tuples(st.just(frame(report)[LENGTH.size :]), st.integers(0, 300), st.integers(0, 255)).map(
            lambda made: bytes(made[2] if at == made[1] % len(made[0]) else byte for at, byte in enumerate(made[0]))
        )
    ),
)
"""Garbage, and reports with one byte changed."""


def believed(content: bytes) -> None:
    """Nothing but what is said not to be a report or an order passes as one."""
    for decode, kinds in ((report_of, get_args(Report)), (order_of, get_args(Order))):
        try:
            found: object = decode(content)
        except (msgspec.MsgspecError, ValueError):  # for these the node gives the process up
            continue
        assert isinstance(found, kinds)


@given(BYTES)
@example(msgspec.msgpack.encode(["Arrived", "p" * 10_000, "gossip", "", []]))
@example(msgspec.msgpack.encode(["Misused", "p", "gossip", "r", "d", -1, 0, True]))
@example(msgspec.msgpack.encode(["Book", [["/ip4/192.0.2.1/tcp/1", "p", "told", -1, 0]]]))
@example(msgspec.msgpack.encode(["Noted", "kind", {"a": {"b": {}}}]))
@example(msgspec.msgpack.encode(["Unknown", 1]))
@example(msgspec.msgpack.encode({"type": "Arrived"}))
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x91" * 5_000)
@example(b"\x95\xa7Arrived" + b"\x91" * 5_000)
def test_garbage_is_no_report(content: bytes) -> None:
    believed(content)


@pytest.mark.deep
@settings(max_examples=2_000)
@given(st.lists(BYTES, max_size=5), st.lists(st.integers(0, 1_000), max_size=5))
def test_streams_of_garbage_are_no_reports(contents: list[bytes], places: list[int]) -> None:
    frames = Frames()
    data = b"".join(LENGTH.pack(len(each)) + each if at % 2 else each for at, each in enumerate(contents))
    at = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    for begin, end in itertools.pairwise(at):
        try:
            found = frames.add(data[begin:end])
        except ValueError:  # the node gives the process up
            return
        for each in found:
            believed(each)
