"""The node's end of its libp2p process: nobody waits for the answer of a process that is gone."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from crabnet.transport.dht import DhtTransport
from crabnet.transport.p2p_wire import Path, Published, Sent, frame

PEER = "12D3KooWKRyzVWW6ChFjQjK4miCty85Niy48tpPV95XdKu1BcvMA"
Ask = Callable[[DhtTransport], Awaitable[Published | Sent]]
ASKS: list[Ask] = [lambda each: each.publish(b"{}", ["t"]), lambda each: each.send([b"{}"], PEER, Path.SYNC)]


@asynccontextmanager
async def process() -> AsyncIterator[tuple[DhtTransport, socket.socket]]:
    """A transport, and the end of the process."""
    ours, theirs = socket.socketpair()
    with theirs, trio.fail_after(10):
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
            yield DhtTransport(stream), theirs


@pytest.mark.parametrize("ask", ASKS)
def test_a_process_that_ends_before_it_answers_is_an_error(ask: Ask) -> None:
    async def scenario() -> None:
        async with process() as (transport, theirs), trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await ask(transport)

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            theirs.shutdown(socket.SHUT_WR)
            with pytest.raises(trio.BrokenResourceError):
                await transport.receive()
            transport.end()
            with pytest.raises(trio.BrokenResourceError):
                await ask(transport)

    trio.run(scenario)


def test_an_answer_goes_to_whoever_asked() -> None:
    async def scenario() -> None:
        answers: dict[str, Published | Sent] = {}
        async with process() as (transport, theirs), trio.open_nursery() as nursery:

            async def publish(name: str) -> None:
                answers[name] = await transport.publish(b"{}", [name])
                if len(answers) == 2:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(transport.receive)
            nursery.start_soon(publish, "first")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(publish, "second")
            await trio.testing.wait_all_tasks_blocked()
            theirs.sendall(frame(Published(2, 9)) + frame(Published(7, 1)) + frame(Published(1, 3)))
        assert answers == {"first": Published(1, 3), "second": Published(2, 9)}

    trio.run(scenario)
