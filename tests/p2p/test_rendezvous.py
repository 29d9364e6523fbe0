"""The search for peers in the DHT, and hostile streams to a server of it. Real hosts on loopback, in this process."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.host.exceptions import StreamFailure
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from libp2p.utils.varint import encode_varint_prefixed

from crabnet import limits
from crabnet.p2p.kad import PROTOCOL, KadNode
from crabnet.p2p.kad_messages import Ask, Kad, MalformedKadError, Named, bytes_of
from crabnet.p2p.kad_tables import rendezvous_key
from crabnet.p2p.rendezvous import Rendezvous
from crabnet.p2p.scope import Scope
from crabnet.transport.p2p_wire import Learnt
from tests.support.libp2p_hosts import Peer, peers

KEY = rendezvous_key("default", b"")


class Searching:
    """A host with the DHT, on a network where everybody listens on loopback."""

    def __init__(self, peer: Peer, everybody: list[Peer], mode: str, namespace: str = "default") -> None:
        self.peer = peer
        self._listening = {each.id: str(each.host.get_transport_addrs()[0]) for each in everybody}
        self.found: dict[str, Learnt] = {}
        self.refused: list[Exception] = []
        self.kad = KadNode(peer.host, self.scope, lambda _, error: self.refused.append(error))
        key = rendezvous_key(namespace, b"")
        self.rendezvous = Rendezvous(mode, key, self.kad, peer.network, self)
        self.rendezvous.new_mode()

    def wanted(self) -> int:
        return 8

    def scope(self, peer: ID) -> Scope:
        return Scope.LOOPBACK if peer in self._listening else Scope.PUBLIC

    def own_addresses(self) -> list[str]:
        return [self._listening[self.peer.id]]

    def addresses_of(self, peer: ID) -> list[str]:
        return [f"{self._listening[peer]}/p2p/{peer}"]

    def is_reachable(self) -> bool:
        return True

    def learn(self, address: str, peer: str, learnt: Learnt) -> None:
        assert address.endswith(f"/p2p/{peer}")
        self.found[peer] = learnt

    def is_provider(self, peer: ID) -> bool:
        return str(peer) in self.found

    def connected(self) -> set[ID]:
        return set(self.peer.network.connections)


def test_a_search_goes_from_server_to_server_and_leaves_those_of_others() -> None:
    """Servers of another namespace stand in a row, each connected to the next. The two at its ends find each other."""

    async def go() -> None:
        async with peers(*["off"] * 6) as hosts:
            row = [Searching(each, hosts, "server", "elsewhere") for each in hosts[:4]]
            one, other = (Searching(each, hosts, "client") for each in hosts[4:])
            for left, right in pairwise(row):
                await left.peer.connect(right.peer)
                await left.rendezvous.met(right.peer.id)
                await right.rendezvous.met(left.peer.id)
            await other.peer.connect(row[-1].peer)
            await other.rendezvous.met(row[-1].peer.id)
            await one.peer.connect(row[0].peer)
            await one.rendezvous.search()
            assert one.found == {str(other.peer.id): Learnt.RENDEZVOUS}
            assert one.connected() == {row[0].peer.id}
            assert not any(each.found.keys() & {str(one.peer.id), str(other.peer.id)} for each in row)

    trio.run(go)


def test_neighbours_tell_of_each_other() -> None:
    async def go() -> None:
        async with peers(*["off"] * 3) as hosts:
            hub = Searching(hosts[0], hosts, "auto")
            one, other = (Searching(each, hosts, "client") for each in hosts[1:])
            for each in (one, other):
                await each.peer.connect(hub.peer)
                await each.rendezvous.met(hub.peer.id)
            assert other.found == {str(one.peer.id): Learnt.TOLD}
            await hub.rendezvous.met(one.peer.id)
            assert not hub.kad.may_ask(one.peer.id), "a client is not asked again at once"

    trio.run(go)


def test_who_tells_too_much_is_not_heard() -> None:
    async def go() -> None:
        async with peers(*["off"] * 2) as hosts:
            hub, one = (Searching(each, hosts, mode) for each, mode in zip(hosts, ("server", "client"), strict=True))
            await one.peer.connect(hub.peer)
            taken = [one.rendezvous.allows(hub.peer.id) for _ in range(2 * limits.RENDEZVOUS_TOLD_PER_MINUTE)]
            assert taken.count(True) <= limits.RENDEZVOUS_TOLD_PER_MINUTE + 1
            for number in range(1, 5):
                provider = ID(b"\x00\x04pee" + bytes([number]))
                address = f"/ip4/127.0.0.1/tcp/{number}/p2p/{provider}"
                hub.kad.providers.add(KEY, provider.to_bytes(), [address], 0)
            await one.rendezvous.met(hub.peer.id)
            assert not one.found

    trio.run(go)


HOSTILE = {
    "garbage": b"\xff" * 64,
    "no message": encode_varint_prefixed(b"\xff\xff\xff"),
    "a huge length": b"\xff\xff\xff\x7f",
    "an endless length": b"\x80" * 64,
    "a message that does not go on": encode_varint_prefixed(bytes_of(Kad(Ask.GET_PROVIDERS, KEY)))[:-1],
    "nothing in it": b"\x00",
    "a value": encode_varint_prefixed(Message(type=Message.PUT_VALUE, key=b"k").SerializeToString()),
    "a long key": encode_varint_prefixed(Message(type=Message.FIND_NODE, key=b"k" * 5_000).SerializeToString()),
    "many questions": encode_varint_prefixed(bytes_of(Kad(Ask.FIND_NODE, KEY))) * 200,
    "no key": encode_varint_prefixed(bytes_of(Kad(Ask.ADD_PROVIDER))) * 3,
}


def test_a_server_serves_others_whatever_a_peer_sends() -> None:
    async def go() -> None:
        async with peers(*["off"] * 3) as hosts:
            server, honest = Searching(hosts[0], hosts, "server"), Searching(hosts[2], hosts, "client")
            hostile = hosts[1]
            await hostile.connect(server.peer)
            await honest.peer.connect(server.peer)
            for data in HOSTILE.values():
                stream = await hostile.open(server.peer, PROTOCOL)
                await stream.write(data)
            with suppress(StreamFailure):  # a bound on streams of any kind may come first
                for _ in range(2 * limits.KAD_STREAMS_MAX):
                    await hostile.open(server.peer, PROTOCOL)
            with trio.fail_after(30):
                while await honest.kad.ask(server.peer.id, KEY, []) is None:
                    honest.kad.is_known(server.peer.id, [])  # ask again at once
            assert len(server.kad.providers) == 0
            assert {type(each) for each in server.refused} == {MalformedKadError}

    trio.run(go)


ANSWERS = {
    "garbage": b"\xff" * 64,
    "a huge length": b"\xff\xff\xff\x7f",
    "an answer to another question": encode_varint_prefixed(bytes_of(Kad(Ask.PING))),
    "nothing": b"",
    "a value": encode_varint_prefixed(Message(type=Message.GET_VALUE, key=KEY).SerializeToString()),
}


def answers(server: Peer, data: bytes) -> None:
    """Have a hostile server answer each question in this way."""

    async def handle(stream: INetStream) -> None:
        await stream.write(data)
        await trio.sleep_forever()

    server.host.set_stream_handler(PROTOCOL, handle)


def test_no_answer_of_a_server_stops_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KAD_ANSWER_MS", 300)

    async def go() -> None:
        async with peers(*["off"] * (1 + len(ANSWERS))) as hosts:
            one = Searching(hosts[0], hosts, "client")
            for server, data in zip(hosts[1:], ANSWERS.values(), strict=True):
                answers(server, data)
                await one.peer.connect(server)
            await one.rendezvous.search()
            assert not one.found
            assert one.kad.asked == 0
            assert not any(one.kad.may_ask(server.id) for server in hosts[1:])

    trio.run(go)


def test_a_server_that_names_others_without_end_causes_few_connections() -> None:
    """A hostile server would have this node connect to an address many times, as if many servers were there."""

    async def go() -> None:
        knocks = 0

        async def close(connection: trio.SocketStream) -> None:
            nonlocal knocks
            knocks += 1
            await connection.aclose()

        async with peers("off", "off") as (host, server), trio.open_nursery() as nursery:
            one = Searching(host, [host, server], "client")
            listeners = await nursery.start(trio.serve_tcp, close, 0)
            port = listeners[0].socket.getsockname()[1]
            named = [
                Named(b"\x00\x04" + number.to_bytes(4, "big"), [f"/ip4/127.0.0.1/tcp/{port}"]) for number in range(500)
            ]
            many = Kad(Ask.GET_PROVIDERS, KEY, closer=named, providers=named)
            answers(server, encode_varint_prefixed(bytes_of(many)))
            await one.peer.connect(server)
            await one.rendezvous.search()
            assert 0 < knocks <= limits.KAD_DIALS_MAX
            assert 0 < len(one.found) <= limits.KAD_TOLD_MAX
            nursery.cancel_scope.cancel()

    trio.run(go)
