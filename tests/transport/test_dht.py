"""The node's end of its libp2p process: reports come, answers find who asked, and garbage is not believed."""

from __future__ import annotations

import msgspec
import pytest
import trio
from trio.testing import memory_stream_pair

from crabnet.transport.dht import DhtTransport
from crabnet.transport.p2p_wire import (
    FRAME_BYTES_MAX,
    LENGTH,
    Block,
    Disconnected,
    Frames,
    Path,
    Published,
    Report,
    Send,
    Sent,
    frame,
    order_of,
)


class Process:
    """The other end, which says what the test wants."""

    def __init__(self) -> None:
        near, self.far = memory_stream_pair()
        self.transport = DhtTransport(near)  # type: ignore[arg-type]
        self._frames = Frames()

    async def says(self, *reports: Report) -> None:
        """Tell the node something."""
        await self.far.send_all(b"".join(map(frame, reports)))

    async def heard(self) -> object:
        """The next order of the node."""
        while True:
            for content in self._frames.add(bytes(await self.far.receive_some())):
                return order_of(content)


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(LENGTH.pack(FRAME_BYTES_MAX + 1), id="too long"),
        pytest.param(LENGTH.pack(3) + b"\xc1\xff\xff", id="no msgpack"),
        pytest.param(LENGTH.pack(0), id="empty"),
        pytest.param(LENGTH.pack(1) + b"\x80", id="another type"),
        pytest.param(frame(Block("peer", 1)), id="an order"),
        pytest.param(LENGTH.pack(14) + msgspec.msgpack.encode(["Disconnected"]), id="a field too few"),
    ],
)
async def test_garbage_is_not_believed(garbage: bytes) -> None:
    process = Process()
    await process.far.send_all(garbage)
    with pytest.raises((ValueError, msgspec.MsgspecError)):
        await process.transport.receive()


async def test_the_end_of_the_process_is_an_error_for_all_who_wait() -> None:
    process = Process()
    await process.far.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await process.transport.receive()
    with pytest.raises(trio.BrokenResourceError):
        await process.transport.publish(b"x", ["t"])


async def test_whoever_waits_for_an_answer_hears_that_the_process_is_gone() -> None:
    """An outbox that waits for ever would publish nothing in the next life of the process."""
    process = Process()

    async def ask() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await process.transport.publish(b"x", ["t"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await process.heard()
        process.transport.end()
    with pytest.raises(trio.BrokenResourceError):
        await process.transport.send([b"x"], "peer", Path.SYNC)


async def test_answers_find_who_asked_in_whatever_order_they_come() -> None:
    process = Process()
    answers: dict[str, object] = {}

    async def publish() -> None:
        answers["publish"] = await process.transport.publish(b"x", ["t"])

    async def send() -> None:
        answers["send"] = await process.transport.send([b"y"], "peer", Path.SYNC)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        first = await process.heard()
        nursery.start_soon(send)
        second = await process.heard()
        assert (type(first).__name__, type(second)) == ("Publish", Send)
        await process.says(Sent(99), Published(98, 7), Sent(2, "timeout"), Disconnected("gone"), Published(1, 3))
        assert await process.transport.receive() == [Disconnected("gone")]
    assert answers == {"publish": Published(1, 3), "send": Sent(2, "timeout")}


async def test_an_answer_of_the_wrong_kind_is_a_failure() -> None:
    process = Process()
    found: list[Published] = []

    async def publish() -> None:
        found.append(await process.transport.publish(b"x", ["t"]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        await process.heard()
        await process.says(Sent(1), Disconnected("gone"))
        await process.transport.receive()
    assert (found[0].peers, found[0].reason) == (0, "internal")
