"""A node that dials hostile peers: whatever answers, it goes on, says why it is not connected, and keeps its memory."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
import trio

from tests.support.dht import DhtNode, dht_node, needs_libp2p
from tests.support.nodes import Nodes, wait_for

pytestmark = [needs_libp2p, pytest.mark.deep]
Answer = Callable[[trio.SocketStream], Awaitable[None]]
CHILD_MIB_MAX = 200
HELLO = b"\x13/multistream/1.0.0\n"
NOISE = b"\x07/noise\n"
NOT_THAT = b"\x03na\n"


async def nothing(stream: trio.SocketStream) -> None:
    """Ends at once."""


async def silence(stream: trio.SocketStream) -> None:
    """Says nothing."""
    await trio.sleep_forever()


async def garbage(stream: trio.SocketStream) -> None:
    """Says anything, for ever."""
    while True:
        await stream.send_all(bytes(range(256)) * 256)


async def endless(stream: trio.SocketStream) -> None:
    """Begins a message of 2^62 bytes, and goes on with it."""
    await stream.send_all(HELLO + b"\xff" * 8 + b"\x3f")
    while True:
        await stream.send_all(b"A" * 65_536)


async def refusals(stream: trio.SocketStream) -> None:
    """Speaks no protocol, for ever."""
    await stream.send_all(HELLO)
    while True:
        await stream.send_all(NOT_THAT * 1_000)


async def handshake(stream: trio.SocketStream) -> None:
    """Answers noise with 64 KiB."""
    await stream.send_all(HELLO + NOISE + b"\xff\xff" + bytes(65_535))
    await trio.sleep_forever()


async def slow(stream: trio.SocketStream) -> None:
    """Says what it should, a byte in a while."""
    for byte in HELLO + NOISE:
        await stream.send_all(bytes([byte]))
        await trio.sleep(0.5)


ANSWERS: tuple[Answer, ...] = (nothing, silence, garbage, endless, refusals, handshake, slow)


@contextmanager
def hostile_servers() -> Iterator[list[str]]:
    """One of each, in a thread: their addresses."""
    addresses: list[str] = []
    ready, over = threading.Event(), trio.Event()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def serve(answer: Answer, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await answer(stream)

    async def serve_all() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        async with trio.open_nursery() as nursery:
            for at, answer in enumerate(ANSWERS):
                (listener,) = await trio.open_tcp_listeners(0, host=f"127.9.0.{at + 1}")
                host, port = listener.socket.getsockname()
                addresses.append(f"/ip4/{host}/tcp/{port}")

                async def one(stream: trio.SocketStream, answer: Answer = answer) -> None:
                    await serve(answer, stream)

                nursery.start_soon(trio.serve_listeners, one, [listener])
            ready.set()
            await over.wait()
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(serve_all,))
    thread.start()
    try:
        assert ready.wait(20)
        yield addresses
    finally:
        tokens[0].run_sync_soon(over.set)
        thread.join()


def test_hostile_bootstrap_peers_end_nothing(nodes: Nodes) -> None:
    honest = dht_node(nodes, "honest")
    with hostile_servers() as addresses:
        node = DhtNode(nodes, "dialler", [*addresses, honest.multiaddr], []).start()
        child = cast(int, node.child()["pid"])
        node.knows(1)
        for address in addresses:
            node.await_event("bootstrap_failed", address=address)
        ours, theirs = node.publish(), honest.publish()
        wait_for("the honest one hears of it", lambda: honest.status(ours))
        wait_for("the honest one is heard", lambda: node.status(theirs))
        assert node.child()["pid"] == child
        status = Path(f"/proc/{child}/status").read_text(encoding="ascii")
        assert int(status.split("VmHWM:")[1].split()[0]) // 1024 < CHILD_MIB_MAX
