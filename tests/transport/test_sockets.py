"""Which sockets there are, and which of them a datagram leaves by."""

from __future__ import annotations

import socket

import pytest

from crabnet.errors import NetworkError, Reason
from crabnet.transport import sockets
from crabnet.transport.base import Address, parse_address
from crabnet.transport.interfaces import Interface
from crabnet.transport.resolver import literal_endpoint
from crabnet.transport.sockets import Sockets
from crabnet.transport.udp import UdpTransport
from tests.support.ports import reserved_port
from tests.transport.test_udp import need, receive_number

LEFT = Interface(11, "192.0.2.1", True)
RIGHT = Interface(12, "198.51.100.1", False)
SIX_ONLY = Interface(13, "", True)


async def test_all_addresses_of_ipv6_serve_ipv4_too() -> None:
    need("::1")
    async with await UdpTransport.open(Address("::", 0)) as node, await UdpTransport.open() as client:
        six, four = node.local_addresses
        assert (six.host, four.host, six.port) == ("::", "0.0.0.0", four.port)
        assert node.unserved == ""
        for target in (Address("127.0.0.1", four.port), Address("::1", six.port)):
            await client.send(b"asked", target)
            ((data, source),) = await receive_number(node, 1)
            assert data == b"asked"
            await node.send(b"answered", source)
            assert await receive_number(client, 1) == [(b"answered", target)]


async def test_a_node_says_that_ipv4_is_taken_by_somebody_else() -> None:
    need("::1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 0))
        port = other.getsockname()[1]
        async with await UdpTransport.open(Address("::", port)) as node:
            assert node.local_addresses == [Address("::", port)]
            assert node.unserved == f"[::]:{port} serves IPv6 only, not IPv4: Address already in use"


async def test_several_addresses_are_listened_on_and_answers_leave_by_the_one_that_was_asked() -> None:
    wanted = [Address("127.0.0.1", 0), Address("127.0.0.2", 0)]
    async with await UdpTransport.open(*wanted) as node, await UdpTransport.open(Address("127.0.0.1", 0)) as client:
        assert [address.host for address in node.local_addresses] == ["127.0.0.1", "127.0.0.2"]
        for address in node.local_addresses:
            await client.send(b"asked", address)
            ((_, source),) = await receive_number(node, 1)
            await node.send(b"answered", source)
            assert await receive_number(client, 1) == [(b"answered", address)]


async def test_if_one_of_several_addresses_cannot_be_had_none_is_kept() -> None:
    free = Address("127.0.0.1", reserved_port())
    with pytest.raises(NetworkError) as caught:
        await UdpTransport.open(free, Address("203.0.113.77", 0))
    assert caught.value.reason is Reason.ADDRESS_INVALID
    async with await UdpTransport.open(free) as again:
        assert again.local_address == free


def interfaces_of_ways(made: Sockets, target: str) -> list[tuple[object, ...]]:
    """Where each way leads: its address, and the interface if it names one."""
    address = parse_address(target)
    endpoint = literal_endpoint(address)
    assert endpoint is not None
    found: list[tuple[object, ...]] = []
    for way in made.ways(address, endpoint):
        by = int.from_bytes(way.control[0][2][:4], "little") if way.control else 0
        found.append((*way.to, by) if by else way.to)
    return found


@pytest.mark.parametrize(
    ("listen", "target", "ways"),
    [
        ("0.0.0.0:0", "255.255.255.255:9", [("255.255.255.255", 9, 11), ("255.255.255.255", 9, 12)]),
        ("", "255.255.255.255:9", [("255.255.255.255", 9, 11), ("255.255.255.255", 9, 12)]),
        ("127.0.0.1:0", "255.255.255.255:9", [("255.255.255.255", 9)]),
        ("[::]:0", "[ff02::1]:9", [("ff02::1", 9, 0, 11), ("ff02::1", 9, 0, 13)]),
        ("0.0.0.0:0", "[ff02::1]:9", [("ff02::1", 9, 0, 11), ("ff02::1", 9, 0, 13)]),
        ("[::]:0", "255.255.255.255:9", [
            ("255.255.255.255", 9, 11), ("255.255.255.255", 9, 12), ("ff02::1", 9, 0, 11), ("ff02::1", 9, 0, 13)]),
        ("0.0.0.0:0", "192.0.2.255:9", [("192.0.2.255", 9)]),
    ],
)  # fmt: skip
async def test_what_is_for_everybody_leaves_by_every_interface(
    monkeypatch: pytest.MonkeyPatch, listen: str, target: str, ways: list[tuple[object, ...]]
) -> None:
    need("::1")
    monkeypatch.setattr(sockets, "interfaces", lambda: [LEFT, RIGHT, SIX_ONLY])
    made = Sockets(65_536, lambda: None)
    try:
        for text in [listen] if listen else []:
            endpoint = literal_endpoint(parse_address(text))
            assert endpoint is not None
            made.listen(endpoint)
        assert interfaces_of_ways(made, target) == ways
    finally:
        made.close()
