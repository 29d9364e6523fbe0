"""The UDP transport on loopback, IPv4 and IPv6."""

from __future__ import annotations

import socket
import sys

import pytest
import trio
import trio.testing

from crabnet import limits
from crabnet.errors import NetworkError, Reason
from crabnet.transport.base import Address, Transport
from crabnet.transport.resolver import Endpoint, Resolver
from crabnet.transport.udp import UdpTransport
from tests.support.ports import reserved_port

LOOPBACKS = ["127.0.0.1", "::1"]


def need(host: str) -> None:
    """Skip, saying so, where the machine lacks this loopback address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError as error:
        pytest.skip(f"this machine has no loopback address {host}: {error}")


async def listen_on(host: str) -> tuple[UdpTransport, Address]:
    need(host)
    transport = await UdpTransport.open(Address(host, 0))
    address = transport.local_address
    assert address is not None
    return transport, address


async def receive_number(transport: UdpTransport, number: int) -> list[tuple[bytes, Address]]:
    received: list[tuple[bytes, Address]] = []
    with trio.fail_after(20):
        while len(received) < number:
            received += await transport.receive()
    return received


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_datagrams_go_both_ways_between_listeners(host: str) -> None:
    one, one_address = await listen_on(host)
    two, two_address = await listen_on(host)
    as_transport: Transport = one
    async with one, two:
        assert one_address.host == host
        assert one_address.port != 0
        await as_transport.send(b"{}", two_address)
        assert await receive_number(two, 1) == [(b"{}", one_address)]
        await two.send(b"answer", one_address)
        assert await receive_number(one, 1) == [(b"answer", two_address)]
        assert (one.stats.datagrams_sent, one.stats.bytes_sent) == (1, 2)
        assert (one.stats.datagrams_received, one.stats.bytes_received) == (1, 6)


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_without_a_listener_answers_come_back_too(host: str) -> None:
    server, address = await listen_on(host)
    async with server, await UdpTransport.open() as client:
        assert client.local_address is None
        await client.send(b"question", address)
        [(_, source)] = await receive_number(server, 1)
        await server.send(b"answer", source)
        assert await receive_number(client, 1) == [(b"answer", address)]


@pytest.mark.parametrize(("own", "other"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1")])
async def test_the_other_family_is_reached_and_answers_while_receiving(own: str, other: str) -> None:
    node, _ = await listen_on(own)
    peer, peer_address = await listen_on(other)
    answers: list[tuple[bytes, Address]] = []

    async def collect() -> None:
        answers.extend(await receive_number(node, 1))

    async with node, peer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            await trio.testing.wait_all_tasks_blocked()
            await node.send(b"question", peer_address)
            [(_, source)] = await receive_number(peer, 1)
            await peer.send(b"answer", source)
        assert answers == [(b"answer", peer_address)]


async def test_the_wildcard_address_receives() -> None:
    node, address = await listen_on("0.0.0.0")
    async with node, await UdpTransport.open() as client:
        await client.send(b"x", Address("127.0.0.1", address.port))
        assert [data for data, _ in await receive_number(node, 1)] == [b"x"]


@pytest.mark.parametrize("host", LOOPBACKS)
@pytest.mark.parametrize("size", [0, 1, limits.DATAGRAM_BYTES_MAX, limits.DATAGRAM_RECEIVE_BYTES_MAX])
async def test_any_size_arrives_uncut(host: str, size: int) -> None:
    node, address = await listen_on(host)
    async with node, await UdpTransport.open() as client:
        await client.send(bytes(size), address)
        assert [len(data) for data, _ in await receive_number(node, 1)] == [size]


async def test_a_datagram_too_large_for_udp_is_refused_and_sending_goes_on() -> None:
    node, address = await listen_on("127.0.0.1")
    async with node, await UdpTransport.open() as client:
        with pytest.raises(NetworkError, match="too long") as caught:
            await client.send(bytes(limits.DATAGRAM_RECEIVE_BYTES_MAX + 1), address)
        assert caught.value.reason is Reason.SEND_FAILED
        assert str(address) in caught.value.message
        assert client.stats.send_errors == 1
        await client.send(b"x", address)
        assert len(await receive_number(node, 1)) == 1


async def test_a_burst_is_taken_or_counted_as_dropped() -> None:
    node, address = await listen_on("127.0.0.1")
    async with node, await UdpTransport.open() as client:
        for number in range(1_000):
            await client.send(number.to_bytes(4, "big") + bytes(1_196), address)
        dropped = node.dropped_by_kernel()
        received = await receive_number(node, 1_000 - dropped)
        numbers = [int.from_bytes(data[:4], "big") for data, _ in received]
        assert numbers == sorted(set(numbers))
        assert len(numbers) + dropped == 1_000


async def test_one_call_takes_many_datagrams_but_not_all() -> None:
    node, address = await listen_on("127.0.0.1")
    async with node, await UdpTransport.open() as client:
        for _ in range(limits.UDP_DRAIN_DATAGRAMS_MAX + 10):
            await client.send(b"x", address)
        if node.dropped_by_kernel():
            pytest.skip("the kernel's receive buffer is too small for this many datagrams")
        with trio.fail_after(20):
            assert len(await node.receive()) == limits.UDP_DRAIN_DATAGRAMS_MAX
            assert len(await node.receive()) == 10


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the drops of a socket")
async def test_what_the_kernel_dropped_is_told() -> None:
    need("127.0.0.1")
    node = await UdpTransport.open(Address("127.0.0.1", 0), receive_buffer_bytes=4_096)
    address = node.local_address
    assert address is not None
    async with node, await UdpTransport.open() as client:
        assert 0 < node.receive_buffer_bytes < 100_000
        for _ in range(200):
            await client.send(bytes(1_200), address)
        assert node.dropped_by_kernel() > 0


async def test_the_receive_buffer_is_larger_than_the_default() -> None:
    node, _ = await listen_on("127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        default_bytes = plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    async with node:
        assert node.receive_buffer_bytes >= default_bytes


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_refusals_by_the_network_do_not_stop_the_transport(host: str) -> None:
    """A datagram to a closed port brings an ICMP error; neither sending nor receiving may fail for good."""
    node, address = await listen_on(host)
    gone, gone_address = await listen_on(host)
    await gone.aclose()
    async with node, await UdpTransport.open() as client:
        for _ in range(20):
            await node.send(b"into the void", gone_address)
        await client.send(b"still there?", address)
        [(data, source)] = await receive_number(node, 1)
        assert data == b"still there?"
        await node.send(b"yes", source)
        assert len(await receive_number(client, 1)) == 1


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_a_port_in_use_is_refused(host: str) -> None:
    node, address = await listen_on(host)
    async with node:
        with pytest.raises(NetworkError, match="in use") as caught:
            await UdpTransport.open(address)
        assert caught.value.reason is Reason.ADDRESS_IN_USE
        assert str(address) in caught.value.message


@pytest.mark.parametrize("host", ["203.0.113.77", "2001:db8::77"])
async def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(NetworkError, match="cannot listen on UDP address") as caught:
        await UdpTransport.open(Address(host, 0))
    assert caught.value.reason is Reason.ADDRESS_INVALID


async def test_a_host_name_can_be_listened_on_and_sent_to() -> None:
    need("127.0.0.1")
    resolver = Resolver(lambda host, port: [Endpoint(socket.AF_INET, ("127.0.0.1", port))])
    node = await UdpTransport.open(Address("node.example", 0), resolver=resolver)
    address = node.local_address
    assert address is not None
    assert address.host == "127.0.0.1"
    async with node, await UdpTransport.open(resolver=resolver) as client:
        await client.send(b"x", Address("node.example", address.port))
        assert len(await receive_number(node, 1)) == 1


async def test_an_unknown_host_is_refused() -> None:
    def lookup(host: str, port: int) -> list[Endpoint]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    resolver = Resolver(lookup)
    with pytest.raises(NetworkError, match=r"nowhere\.example") as caught:
        await UdpTransport.open(Address("nowhere.example", 0), resolver=resolver)
    assert caught.value.reason is Reason.ADDRESS_INVALID
    async with await UdpTransport.open(resolver=resolver) as client:
        with pytest.raises(NetworkError, match="not known"):
            await client.send(b"x", Address("nowhere.example", 1))


@pytest.mark.parametrize("address", [Address("127.0.0.1", 0), Address("", 9), Address("fe80::1%nosuchzone", 9)])
async def test_an_impossible_target_is_refused(address: Address) -> None:
    async with await UdpTransport.open() as client:
        with pytest.raises(NetworkError):
            await client.send(b"x", address)


async def test_broadcast_is_permitted() -> None:
    """Whether a route exists depends on the machine; that the socket may broadcast does not."""
    async with await UdpTransport.open() as client:
        await client.send(b"x", Address("127.255.255.255", reserved_port()))
        failure = ""
        try:
            await client.send(b"x", Address("255.255.255.255", reserved_port()))
        except NetworkError as error:
            failure = error.message
    assert "Permission" not in failure


async def test_cancelling_a_receive_loses_nothing() -> None:
    node, address = await listen_on("127.0.0.1")
    async with node, await UdpTransport.open() as client:
        with trio.CancelScope() as scope:
            scope.cancel()
            await node.receive()
        assert scope.cancelled_caught
        await client.send(b"x", address)
        with trio.CancelScope() as scope:
            scope.cancel()
            await node.receive()
        assert await receive_number(node, 1) != []


async def test_closing_wakes_the_receiver_and_frees_the_port() -> None:
    node, address = await listen_on("127.0.0.1")

    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await node.receive()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await node.aclose()
    await node.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await node.send(b"x", address)
    async with await UdpTransport.open(address) as again:
        assert again.local_address == address


@pytest.mark.parametrize("steps", range(6))
async def test_closing_at_any_step_of_a_receive_is_told_as_such(steps: int) -> None:
    """Also between the decision to wait for a socket and the waiting."""

    async def receive(transport: UdpTransport) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await transport.receive()

    for _ in range(40):  # trio draws which of two tasks goes first
        node, _ = await listen_on("127.0.0.1")
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, node)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                await node.aclose()


async def test_cancellation_closes() -> None:
    node, address = await listen_on("127.0.0.1")
    with trio.CancelScope() as scope:
        async with node:
            scope.cancel()
            await node.receive()
    async with await UdpTransport.open(address) as again:
        assert again.local_address == address


async def test_a_receiver_without_sockets_wakes_on_close() -> None:
    client = await UdpTransport.open()

    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await client.receive()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await client.receive()
            await client.aclose()
