"""Being dialled back: only at the address of who asks, and not often. Real hosts on loopback, in this process."""

from __future__ import annotations

import socket

import pytest
import trio
from libp2p.host.autonat.pb.autonat_pb2 import Message
from multiaddr import Multiaddr

from crabnet import limits
from crabnet.p2p.autonat import AUTONAT
from crabnet.p2p.circuit import read_message, write_message
from tests.support.libp2p_hosts import Peer, peers
from tests.support.ports import reserved_port


async def ask(peer: Peer, server: Peer, *addresses: str, about: Peer | None = None) -> Message.DialResponse:
    """Ask a server to dial addresses, in the name of this peer or of another one."""
    who = (about or peer).id.to_bytes()
    told = Message.PeerInfo(id=who, addrs=[Multiaddr(each).to_bytes() for each in addresses])
    stream = await peer.open(server, AUTONAT)
    await write_message(stream, Message(type=Message.DIAL, dial=Message.Dial(peer=told)))
    return (await read_message(stream, Message, 30_000)).dialResponse


def test_only_the_address_of_who_asks_is_dialled() -> None:
    async def go() -> None:
        async with peers("off", "off") as (server, peer):
            await peer.connect(server)
            before = peer.network.refused_connections
            elsewhere = socket.create_server(("127.0.0.2", 0))
            elsewhere.setblocking(False)
            port = elsewhere.getsockname()[1]
            foreign = [f"/ip4/127.0.0.2/tcp/{port}", f"/dns4/localhost/tcp/{port}", "/ip4/127.0.0.1"]
            assert (await ask(peer, server, *foreign)).status == Message.E_DIAL_REFUSED
            with elsewhere, pytest.raises(BlockingIOError):
                elsewhere.accept()
            own = str(peer.host.get_transport_addrs()[0])
            answer = await ask(peer, server, *foreign, own)
            assert (answer.status, str(Multiaddr(answer.addr))) == (Message.OK, own)
            assert len(server.network.get_connections(peer.id)) == 1, "no connection is kept"
            assert peer.network.refused_connections == before

    trio.run(go)


def test_who_is_not_there_is_not_reached() -> None:
    async def go() -> None:
        async with peers("off", "off", "off") as (server, peer, other):
            await peer.connect(server)
            assert (await ask(peer, server, f"/ip4/127.0.0.1/tcp/{reserved_port()}")).status == Message.E_DIAL_ERROR
            there = str(other.host.get_transport_addrs()[0])
            assert (await ask(peer, server, there)).status == Message.E_DIAL_ERROR, "somebody else is there"
            assert (await ask(peer, server, there, about=other)).status == Message.E_BAD_REQUEST

    trio.run(go)


def test_a_host_is_dialled_back_only_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "P2P_DIAL_BACK_HOST_MS", 10**9)

    async def go() -> None:
        async with peers("off", "behind") as (server, peer):
            await peer.connect(server)
            asked = range(limits.P2P_DIAL_BACK_HOST_BURST + 3)
            answers = [(await ask(peer, server, "/ip4/127.0.0.1/tcp/1")).status for _ in asked]
            assert answers.count(Message.E_DIAL_REFUSED) == 3

    trio.run(go)


def test_a_node_finds_out_that_others_can_dial_it_and_tells_where() -> None:
    async def go() -> None:
        async with peers("client", "client", "behind") as (one, other, behind):
            assert one.nat.reachability == "unknown"
            await other.connect(one)
            with trio.fail_after(20):
                while one.nat.reachability == "unknown":
                    await trio.sleep(0.05)
            assert one.nat.reachability == "public"
            assert one.host.get_addrs() == [one.address]
            assert behind.nat.reachability == "private"
            assert behind.host.get_addrs() == []

    trio.run(go)
