"""The lossy relay that other tests build on, and fragments passing through it."""

from __future__ import annotations

import pytest
import trio

from crabnet.protocol.fragments import Complete, Reassembler, SentCache, Shape, classify
from crabnet.transport.base import Address, parse_address
from crabnet.transport.udp import UdpTransport
from tests.support.datagrams import message_of
from tests.support.relay import LossyRelay, RelayCounts


async def open_node() -> tuple[UdpTransport, Address]:
    node = await UdpTransport.open(Address("127.0.0.1", 0))
    address = node.local_address
    assert address is not None
    return node, address


async def receive_number(node: UdpTransport, number: int) -> list[tuple[bytes, Address]]:
    received: list[tuple[bytes, Address]] = []
    with trio.fail_after(20):
        while len(received) < number:
            received += await node.receive()
    return received


async def settled(relay: LossyRelay, received: int) -> RelayCounts:
    """The counts once the relay got this many datagrams and passed on all that it will."""
    with trio.fail_after(20):
        while True:
            total = relay.total()
            if total.received == received and total.delivered == received - total.dropped + total.duplicated:
                return total
            await trio.sleep(0.005)


async def test_without_faults_everything_arrives_in_order_and_is_answered() -> None:
    a, _ = await open_node()
    b, b_address = await open_node()
    async with a, b, LossyRelay({"ab": b_address}, loss=0, duplicate=0, reorder=0) as relay:
        for number in range(100):
            await a.send(bytes([number]), relay.address("ab"))
        received = await receive_number(b, 100)
        assert [data[0] for data, _ in received] == list(range(100))
        [source] = {source for _, source in received}
        assert source != relay.address("ab")
        await b.send(b"answer", source)
        assert await receive_number(a, 1) == [(b"answer", relay.address("ab"))]
        assert relay.counts("ab") == RelayCounts(received=101, delivered=101)


async def test_clients_of_one_route_are_told_apart() -> None:
    a, _ = await open_node()
    c, _ = await open_node()
    b, b_address = await open_node()
    async with a, b, c, LossyRelay({"to-b": b_address}, loss=0, duplicate=0, reorder=0) as relay:
        for node, word in ((a, b"a"), (c, b"c")):
            await node.send(word, relay.address("to-b"))
        for word, source in await receive_number(b, 2):
            await b.send(b"for " + word, source)
        assert [data for data, _ in await receive_number(a, 1)] == [b"for a"]
        assert [data for data, _ in await receive_number(c, 1)] == [b"for c"]


async def faults_of(seed: int) -> tuple[RelayCounts, list[int]]:
    a, _ = await open_node()
    b, b_address = await open_node()
    async with a, b, LossyRelay({"ab": b_address}, seed=seed) as relay:
        for number in range(300):
            await a.send(number.to_bytes(2, "big"), relay.address("ab"))
        total = await settled(relay, 300)
        return total, [int.from_bytes(data, "big") for data, _ in await receive_number(b, total.delivered)]


async def test_datagrams_are_lost_doubled_and_reordered_as_the_seed_says() -> None:
    counts, numbers = await faults_of(1)
    assert 30 <= counts.dropped <= 90
    assert 10 <= counts.duplicated <= 60
    assert 20 <= counts.reordered <= 90
    assert len(set(numbers)) == 300 - counts.dropped
    assert len(numbers) == counts.delivered
    assert numbers != sorted(numbers)
    again, same_numbers = await faults_of(1)
    assert again == counts
    assert sorted(same_numbers) == sorted(numbers)
    other, _ = await faults_of(2)
    assert other != counts


async def test_a_route_can_be_cut_and_mended() -> None:
    a, a_address = await open_node()
    b, b_address = await open_node()
    routes = {"ab": b_address, "ba": a_address}
    async with a, b, LossyRelay(routes, loss=0, duplicate=0, reorder=0) as relay:
        relay.cut("ab")
        await a.send(b"lost", relay.address("ab"))
        await b.send(b"passes", relay.address("ba"))
        assert [data for data, _ in await receive_number(a, 1)] == [b"passes"]
        await settled(relay, 2)
        relay.mend()
        await a.send(b"passes too", relay.address("ab"))
        assert [data for data, _ in await receive_number(b, 1)] == [b"passes too"]
        assert relay.counts("ab").dropped == 1


async def test_errors_of_the_test_come_out_as_they_are() -> None:
    _, address = await open_node_closed()
    with pytest.raises(ZeroDivisionError):
        async with LossyRelay({"x": address}):
            raise ZeroDivisionError
    with trio.move_on_after(0.01) as limited:
        async with LossyRelay({"x": address}):
            await trio.sleep_forever()
    assert limited.cancelled_caught


async def open_node_closed() -> tuple[UdpTransport, Address]:
    node, address = await open_node()
    await node.aclose()
    return node, address


def now_ms() -> int:
    return int(trio.current_time() * 1_000)


async def answer_requests(sender: UdpTransport, cache: SentCache) -> None:
    while True:
        for datagram, source in await sender.receive():
            assert classify(datagram) is Shape.REQUEST
            for answer in cache.answer(str(source), datagram, now_ms()):
                await sender.send(answer, source)


async def ask_again(receiver: UdpTransport, reassembler: Reassembler) -> None:
    while True:
        for source, request in reassembler.requests(now_ms()):
            await receiver.send(request, parse_address(source))
        await trio.sleep(0.02)


async def receive_message(receiver: UdpTransport, reassembler: Reassembler) -> bytes:
    while True:
        for datagram, source in await receiver.receive():
            outcome = reassembler.add(str(source), datagram, now_ms())
            if isinstance(outcome, Complete):
                return outcome.message


async def test_a_large_message_gets_through_in_fragments() -> None:
    """Sender and receiver as a node would run them, over real sockets with the default faults."""
    message = message_of(200_000)
    sender, _ = await open_node()
    receiver, receiver_address = await open_node()
    cache, reassembler = SentCache(), Reassembler()
    async with sender, receiver, LossyRelay({"sr": receiver_address}, seed=3) as relay, trio.open_nursery() as nursery:
        nursery.start_soon(answer_requests, sender, cache)
        nursery.start_soon(ask_again, receiver, reassembler)
        for datagram in cache.split(message, now_ms()):
            await sender.send(datagram, relay.address("sr"))
        with trio.fail_after(30):
            assert await receive_message(receiver, reassembler) == message
        assert relay.total().dropped > 0
        nursery.cancel_scope.cancel()
