"""The DHT: what a server keeps and answers, whatever strangers send."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.abc import IHost
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from multiaddr import Multiaddr as Address

from crabnet import limits
from crabnet.p2p.kad import KadNode
from crabnet.p2p.kad_messages import Ask, Kad, MalformedKadError, Named, bytes_of, kad_of, name_of
from crabnet.p2p.kad_tables import Providers, Server, Servers, place, rendezvous_key
from crabnet.p2p.network import Network
from crabnet.p2p.scope import Scope

KEY = rendezvous_key("default", b"")
PUBLIC, PRIVATE = "/ip4/1.1.1.1/tcp/1", "/ip4/10.0.0.1/tcp/1"


def peer(number: int) -> ID:
    return ID.from_pubkey(create_new_key_pair(number.to_bytes(32, "big")).public_key)


PEERS = [peer(number) for number in range(40)]


def a_host() -> IHost:
    network = Network(create_new_key_pair(b"o" * 32), network_key=b"", connections_max=8, host_connections_max=8)
    return BasicHost(network)


def node(scope: Scope = Scope.PUBLIC) -> KadNode:
    return KadNode(a_host(), lambda _: scope, lambda _peer, _error: None)


def provided(by: ID, *addresses: str, key: bytes = KEY) -> Kad:
    return Kad(Ask.ADD_PROVIDER, key, providers=[Named(by.to_bytes(), list(addresses))])


def asked(made: KadNode, by: ID, key: bytes = KEY) -> list[str]:
    answer = made.answer(by, Kad(Ask.GET_PROVIDERS, key))
    assert answer is not None
    return [name_of(each.peer) for each in answer.providers]


def test_the_key_of_a_namespace_is_its_own_and_that_of_its_private_network() -> None:
    keys = {rendezvous_key(name, secret) for name in ("default", "other") for secret in (b"", b"k" * 32)}
    assert len(keys) == 4
    assert all(len(key) == 34 and key.startswith(b"\x12\x20") for key in keys)


async def test_a_peer_provides_itself_and_nobody_else() -> None:
    made = node()
    made.answer(PEERS[0], provided(PEERS[0], PUBLIC))
    made.answer(PEERS[1], provided(PEERS[2], PUBLIC))
    assert asked(made, PEERS[3]) == [str(PEERS[0])]
    assert asked(made, PEERS[0]) == [], "it knows itself"


async def test_addresses_of_a_network_that_the_provider_is_not_in_do_not_count() -> None:
    made = node()
    made.answer(PEERS[0], provided(PEERS[0], PRIVATE, "/ip4/127.0.0.1/tcp/22"))
    assert asked(made, PEERS[3]) == []
    inside = node(Scope.PRIVATE)
    inside.answer(PEERS[0], provided(PEERS[0], PRIVATE, "/ip4/127.0.0.1/tcp/22"))
    answer = inside.answer(PEERS[3], Kad(Ask.GET_PROVIDERS, KEY))
    assert answer is not None
    assert [each.addresses for each in answer.providers] == [[f"{PRIVATE}/p2p/{PEERS[0]}"]]


async def test_a_stranger_from_outside_does_not_learn_of_inner_addresses() -> None:
    scopes = {PEERS[0]: Scope.PRIVATE}
    made = KadNode(a_host(), lambda each: scopes.get(each, Scope.PUBLIC), lambda _peer, _error: None)
    made.answer(PEERS[0], provided(PEERS[0], PRIVATE))
    made.servers.answered(Server(PEERS[0].to_bytes(), [f"{PRIVATE}/p2p/{PEERS[0]}"], 0))
    answer = made.answer(PEERS[1], Kad(Ask.GET_PROVIDERS, KEY))
    assert answer == Kad(Ask.GET_PROVIDERS, KEY)


def test_values_are_neither_kept_nor_told() -> None:
    for kind in (Message.PUT_VALUE, Message.GET_VALUE):
        with pytest.raises(MalformedKadError):
            kad_of(Message(type=kind, key=KEY).SerializeToString())


def test_providers_are_bounded_and_end() -> None:
    made = Providers(random.Random(1).sample)
    for number in range(2 * limits.KAD_KEYS_PER_PEER_MAX):
        assert made.add(b"key%d" % number, b"peer", [PUBLIC], 0) == (number < limits.KAD_KEYS_PER_PEER_MAX)
    for number in range(3 * limits.KAD_PROVIDERS_PER_KEY_MAX):
        made.add(KEY, b"peer%d" % number, [PUBLIC], 0)
    assert len(made.of(KEY, 1)) == limits.KAD_TOLD_MAX
    assert len(made) == limits.KAD_KEYS_PER_PEER_MAX + limits.KAD_PROVIDERS_PER_KEY_MAX
    for number in range(3 * limits.KAD_KEYS_MAX):
        made.add(b"other%d" % number, b"q%d" % number, [PUBLIC], 0)
    assert len(made) <= limits.KAD_KEYS_MAX + limits.KAD_PROVIDERS_PER_KEY_MAX
    assert not made.add(b"", b"peer", [PUBLIC], 0)
    assert not made.add(b"k" * 81, b"peer", [PUBLIC], 0)
    made = Providers(random.Random(1).sample)
    made.add(KEY, b"peer", [PUBLIC], 0)
    assert [each.peer for each in made.of(KEY, limits.KAD_PROVIDER_S * 1000 - 1)] == [b"peer"]
    assert made.of(KEY, limits.KAD_PROVIDER_S * 1000) == []


@given(st.sets(st.binary(min_size=1, max_size=8), max_size=200), st.binary(max_size=8))
def test_servers_are_told_by_distance_and_bounded(peers: set[bytes], key: bytes) -> None:
    made = Servers(b"own")
    for each in peers:
        made.answered(Server(each, [PUBLIC], 0))
    found = [server.peer for server in made.closest(key, 20)]
    assert found == sorted(found, key=lambda each: place(key) ^ place(each))
    assert len(made) <= len(peers - {b"own"})
    if len(made) == len(peers - {b"own"}):
        assert set(found) == set(sorted(peers - {b"own"}, key=lambda each: place(key) ^ place(each))[:20])
    for each in found:
        made.failed(each)
    assert not {server.peer for server in made.closest(key, 20)} & set(found)


def test_strangers_that_are_far_away_fill_their_own_places_only() -> None:
    own = peer(1).to_bytes()
    made = Servers(own)
    for number in range(2_000):
        made.answered(Server(b"%d" % number, [PUBLIC], 0))
    assert len(made) < 12 * limits.KAD_BUCKET


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        found = kad_of(data)
    except MalformedKadError:
        return
    assert kad_of(bytes_of(found)) == found


@given(
    st.sampled_from(Ask),
    st.binary(max_size=80),
    st.lists(st.tuples(st.binary(max_size=40), st.lists(st.binary(max_size=30), max_size=20)), max_size=30),
)
def test_named_peers_are_bounded_and_have_ids(ask: Ask, key: bytes, named: list[tuple[bytes, list[bytes]]]) -> None:
    message = Message(type=ask.value, key=key)
    for each, addresses in [*named, (PEERS[0].to_bytes(), [Address(PUBLIC).to_bytes()] * 30)]:
        message.closerPeers.add(id=each, addrs=addresses)
    found = kad_of(message.SerializeToString())
    assert len(found.closer) <= limits.KAD_TOLD_MAX
    for closer in found.closer:
        assert len(closer.addresses) <= limits.KAD_ADDRESSES_READ_MAX
        assert name_of(closer.peer)
    assert found.closer[-1:] == [Named(PEERS[0].to_bytes(), [PUBLIC] * limits.KAD_ADDRESSES_READ_MAX)]
