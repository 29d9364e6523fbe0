"""What a relay grants, its limits, and what it refuses. Real hosts on loopback, in this process."""

from __future__ import annotations

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from multiaddr import Multiaddr

from crabnet import limits
from crabnet.p2p.circuit import HOP, STOP, Circuit, is_relayed, read_message, write_message
from crabnet.p2p.network import closed
from tests.core.test_table_walk import WALKS
from tests.support.libp2p_hosts import Peer, peers
from tests.support.table_watch import Watch


async def until_gone(peer: Peer, other: Peer) -> None:
    """Wait until a peer has no connection with another one."""
    while peer.network.get_connections(other.id):
        await trio.sleep(0.01)


@pytest.mark.deep
def test_no_host_gets_more_places_than_its_share() -> None:
    async def go() -> None:
        most = limits.P2P_RELAY_PLACES_PER_HOST_MAX
        async with peers("server", *["off"] * (most + 1)) as (relay, *others):
            for other in others:
                await other.connect(relay)
            answers = [await other.reserve(relay) for other in others]
            assert answers == [pb.OK] * most + [pb.RESERVATION_REFUSED]
            renewed, _ = await others[0].ask_relay(relay, pb.HopMessage(type=pb.HopMessage.RESERVE))
            assert renewed.status == pb.OK, "who has a place renews it"
            assert [Multiaddr(each) for each in renewed.reservation.addrs] == [relay.address]
            await others[1].network.close_peer(relay.id)
            await until_gone(relay, others[1])
            assert await others[-1].reserve(relay) == pb.OK, "the place of who has gone is free"

    trio.run(go)


@pytest.mark.deep
def test_no_peer_gets_more_circuits_than_its_share_and_others_still_get_theirs() -> None:
    async def go() -> None:
        most = limits.P2P_RELAY_CIRCUITS_PER_PEER_MAX
        async with peers("server", "off", "off", "off", "off") as (relay, called, other, greedy, modest):
            for each in (called, other, greedy, modest):
                await each.connect(relay)
            await takes_calls(called, relay)
            await takes_calls(other, relay)
            answers = [await greedy.call(relay, called) for _ in range(most + 1)]
            assert [status for status, _ in answers] == [pb.OK] * most + [pb.RESOURCE_LIMIT_EXCEEDED]
            assert (await modest.call(relay, called))[0] == pb.RESOURCE_LIMIT_EXCEEDED, "the called peer is full"
            assert (await modest.call(relay, other))[0] == pb.OK
            await answers[0][1].reset()
            with trio.fail_after(10):
                while (await modest.call(relay, called))[0] != pb.OK:
                    await trio.sleep(0.05)

    trio.run(go)


async def takes_calls(peer: Peer, relay: Peer) -> None:
    """Have a peer get a place and accept whatever call comes."""

    async def accept(stream: INetStream) -> None:
        await read_message(stream, pb.StopMessage)
        await write_message(stream, pb.StopMessage(type=pb.StopMessage.STATUS, status=pb.OK))
        await trio.sleep_forever()

    peer.host.set_stream_handler(STOP, accept)
    assert await peer.reserve(relay) == pb.OK


def test_a_circuit_ends_when_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "P2P_RELAY_IDLE_MS", 200)

    async def go() -> None:
        async with peers("server", "off", "off") as (relay, called, caller):
            await called.connect(relay)
            await caller.connect(relay)
            await takes_calls(called, relay)
            status, stream = await caller.call(relay, called)
            assert status == pb.OK
            assert await ends(stream)
            assert relay.nat.counters()["relay_circuits"] == 1

    trio.run(go)


def test_a_flood_of_requests_is_refused_and_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "P2P_RELAY_REQUESTS_PER_S", 1e-6)

    async def go() -> None:
        async with peers("server", "off", "off") as (relay, flood, honest):
            await flood.connect(relay)
            await honest.connect(relay)
            answers = [await flood.reserve(relay) for _ in range(limits.P2P_RELAY_REQUESTS + 5)]
            assert answers == [pb.OK] * limits.P2P_RELAY_REQUESTS + [pb.RESOURCE_LIMIT_EXCEEDED] * 5
            assert await honest.reserve(relay) == pb.OK

    trio.run(go)


def test_what_a_relay_refuses() -> None:
    async def go() -> None:
        async with peers("server", "off", "off") as (relay, one, other):
            await one.connect(relay)
            await other.connect(relay)
            assert (await one.call(relay, other))[0] == pb.NO_RESERVATION
            assert await other.reserve(relay) == pb.OK
            assert (await other.call(relay, other))[0] == pb.NO_RESERVATION
            assert (await one.call(relay, other))[0] == pb.CONNECTION_FAILED, "the other does not know the protocol"
            status = pb.HopMessage(type=pb.HopMessage.STATUS)
            assert (await one.ask_relay(relay, status))[0].status == pb.MALFORMED_MESSAGE
            assert relay.errors == []
            stream = await one.open(relay, HOP)
            await stream.write(b"\x05\xff\xff\xff\xff\xff")
            assert await ends(stream)
            stream = await one.open(relay, HOP)
            await stream.write(b"\xff\xff\xff\xff\x0f")
            assert await ends(stream)
            assert len(relay.errors) == 2, "what is no message counts against its sender"
            assert await one.reserve(relay) == pb.OK

    trio.run(go)


async def ends(stream: INetStream) -> bool:
    """Wait until the other side ends a stream."""
    with trio.fail_after(10):
        try:
            return not await stream.read(1)
        except Exception:  # noqa: BLE001 - the library raises many things when a stream is reset
            return True


def test_peers_connect_through_a_relay_which_serves_no_peer_behind_it() -> None:
    async def go() -> None:
        async with peers("server", "behind", "behind") as (relay, called, caller):
            await called.connect(relay)
            with trio.fail_after(20):
                while not called.nat.relays():
                    await trio.sleep(0.05)
            (address,) = called.nat.relays()
            await caller.network.dial(Multiaddr(address), called.id)
            (connection,) = caller.network.get_connections(called.id)
            assert is_relayed(connection)
            call = pb.StopMessage(type=pb.StopMessage.CONNECT, peer=pb.PeerId(id=caller.id.to_bytes()))
            stream = await relay.open(called, STOP)
            await write_message(stream, call)
            assert (await read_message(stream, pb.StopMessage)).status == pb.OK, "its relay may call"
            stream = await caller.open(called, STOP)
            await write_message(stream, call)
            assert (await read_message(stream, pb.StopMessage)).status == pb.PERMISSION_DENIED, "nobody else may"
            stream = await relay.open(called, STOP)
            await write_message(stream, call)
            assert (await read_message(stream, pb.StopMessage)).status == pb.OK
            forged = await relay.network._upgrade(Circuit(stream, Multiaddr(address), is_initiator=True))
            await relay.network.add_conn(forged, "outbound")
            with trio.fail_after(10):
                await closed(forged)  # its relay calls for itself
                while any(map(is_relayed, called.network.get_connections(relay.id))):
                    await trio.sleep(0.01)
            await caller.network.close_peer(relay.id)
            assert (await called.call(relay, caller))[0] == pb.NO_RESERVATION

    trio.run(go)


@pytest.mark.deep
def test_a_node_keeps_places_at_few_relays_and_renews_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "P2P_RELAY_PLACE_S", 2)
    monkeypatch.setattr(limits, "P2P_RELAY_PLACE_MS_MIN", 2_000)
    monkeypatch.setattr(limits, "P2P_RELAY_LOOK_MS", 100)

    async def go() -> None:
        async with peers("server", "server", "server", "behind") as (*relays, peer):
            watch = Watch(peer.nat)
            for relay in relays:
                await peer.connect(relay)
            with trio.fail_after(30):
                while sum(each.nat.counters()["relay_reserved"] for each in relays) < 8:
                    await trio.sleep(0.05)
                    watch.look()
            assert len(peer.nat.relays()) == limits.P2P_RELAYS_WANTED
            assert watch.filled >= WALKS["places"]
            (gone,) = [each for each in relays if str(each.id) in peer.nat.relays()[0].split("/p2p-circuit")[0]]
            await peer.network.close_peer(gone.id)
            with trio.fail_after(20):
                while str(gone.id) in str(peer.nat.relays()) or len(peer.nat.relays()) < 2:
                    await trio.sleep(0.05)

    trio.run(go)


@pytest.mark.deep
def test_a_relay_serves_nobody_over_a_relayed_connection() -> None:
    async def go() -> None:
        async with peers("server", "off", "behind server", "behind") as (relay, other, called, caller):
            await called.connect(relay)
            with trio.fail_after(20):
                while not called.nat.relays():
                    await trio.sleep(0.05)
            await caller.network.dial(Multiaddr(called.nat.relays()[0]), called.id)
            await called.connect(other)
            assert await caller.reserve(called) == pb.PERMISSION_DENIED
            assert (await caller.call(called, other))[0] == pb.PERMISSION_DENIED

    trio.run(go)
