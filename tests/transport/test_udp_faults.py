"""The UDP transport when the kernel says no: a socket that fails on demand stands in for a real one."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from crabnet import limits
from crabnet.errors import NetworkError, Reason
from crabnet.transport.base import Address
from crabnet.transport.udp import UdpTransport

SO_RCVBUFFORCE = 33


class FaultySocket(socket.socket):
    """A socket whose next sends and receives fail with the given error numbers, and that has no privileges."""

    send_errors: list[int]
    receive_errors: list[int]

    def sendto(self, *args: object) -> int:
        if FaultySocket.send_errors:
            raise_errno(FaultySocket.send_errors.pop(0))
        return super().sendto(*args)  # type: ignore[call-overload, no-any-return]

    def recvfrom(self, *args: int) -> tuple[bytes, tuple[str, int]]:
        if FaultySocket.receive_errors:
            raise_errno(FaultySocket.receive_errors.pop(0))
        return super().recvfrom(*args)

    def setsockopt(self, level: int, name: int, value: int) -> None:  # type: ignore[override]
        if (level, name) == (socket.SOL_SOCKET, SO_RCVBUFFORCE):
            raise_errno(errno.EPERM)
        super().setsockopt(level, name, value)


def raise_errno(number: int) -> None:
    raise OSError(number, os.strerror(number))


@pytest.fixture(autouse=True)
def faulty_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    FaultySocket.send_errors = []
    FaultySocket.receive_errors = []
    with monkeypatch.context() as patch:
        patch.setattr("crabnet.transport.udp.socket.socket", FaultySocket)
        yield


async def open_pair() -> tuple[UdpTransport, UdpTransport, Address]:
    node = await UdpTransport.open(Address("127.0.0.1", 0))
    address = node.local_address
    assert address is not None
    return node, await UdpTransport.open(), address


async def receive_one(node: UdpTransport) -> bytes:
    with trio.fail_after(20):
        [(data, _)] = await node.receive()
        return data


async def test_errors_reported_for_earlier_sends_do_not_stop_receiving() -> None:
    node, client, address = await open_pair()
    async with node, client:
        await client.send(b"x", address)
        FaultySocket.receive_errors = [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENOBUFS]
        assert await receive_one(node) == b"x"
        assert node.stats.receive_errors == 3


async def test_an_error_that_stays_does_not_keep_the_processor_busy(mock_clock: trio.testing.MockClock) -> None:
    """The receiver rests between tries: on a clock that stands still it comes to a stop after the first."""
    node, client, _ = await open_pair()
    async with node, client, trio.open_nursery() as nursery:
        FaultySocket.receive_errors = [errno.ENOMEM] * 10_000
        nursery.start_soon(node.receive)
        await trio.testing.wait_all_tasks_blocked()
        assert node.stats.receive_errors == limits.UDP_DRAIN_DATAGRAMS_MAX
        nursery.cancel_scope.cancel()


async def test_an_error_of_an_earlier_datagram_does_not_swallow_this_one() -> None:
    node, client, address = await open_pair()
    async with node, client:
        FaultySocket.send_errors = [errno.ECONNREFUSED]
        await client.send(b"x", address)
        assert await receive_one(node) == b"x"


async def test_a_full_send_buffer_is_waited_for() -> None:
    node, client, address = await open_pair()
    async with node, client:
        FaultySocket.send_errors = [errno.EAGAIN] * 5
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(client.send, b"x", address)
        with trio.fail_after(20):
            received = 0
            while received < 3:
                received += len(await node.receive())


async def test_a_send_buffer_that_stays_full_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UDP_SEND_WAIT_MS", 20)
    node, client, address = await open_pair()
    async with node, client:
        FaultySocket.send_errors = [errno.EAGAIN] * 100_000
        with pytest.raises(NetworkError, match="stayed full for 20 ms") as caught:
            await client.send(b"x", address)
        assert caught.value.reason is Reason.SEND_FAILED


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EPERM, errno.EACCES, errno.ENOBUFS, errno.EMFILE])
async def test_a_failed_send_is_told_with_the_words_of_the_kernel(number: int) -> None:
    node, client, address = await open_pair()
    async with node, client:
        FaultySocket.send_errors = [number, number]
        with pytest.raises(NetworkError, match=os.strerror(number)) as caught:
            await client.send(b"x", address)
        assert caught.value.reason is Reason.SEND_FAILED
        FaultySocket.send_errors = []
        await client.send(b"y", address)
        assert await receive_one(node) == b"y"


async def test_without_privileges_the_receive_buffer_is_what_the_kernel_grants() -> None:
    node, client, _ = await open_pair()
    async with node, client:
        assert node.receive_buffer_bytes > 0
