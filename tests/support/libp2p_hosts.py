"""libp2p hosts in the process of the test, on loopback, made of the modules of the libp2p process. Needs libp2p: see
``tests/p2p/conftest.py``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio
from google.protobuf.message import Message
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from multiaddr import Multiaddr

from crabnet.p2p.circuit import HOP, read_message, write_message
from crabnet.p2p.identity import Host
from crabnet.p2p.nat import Nat
from crabnet.p2p.network import Network
from crabnet.transport.p2p_wire import Given


class _Watch(INotifee):
    """Tells what ``Peers`` tells in the libp2p process."""

    def __init__(self, nat: Nat) -> None:
        self._nat = nat

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Nothing to do."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Nothing to do."""

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Nothing to do."""

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Nothing to do."""

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        """A peer is connected."""
        self._nat.found(conn)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        """A connection has ended."""
        self._nat.gone(conn)


class Peer:
    """A host, and what it knows of its own reachability."""

    def __init__(self, number: int, relay: str) -> None:
        seed = number.to_bytes(32, "big")
        listen = [] if relay.startswith("behind") else ["/ip4/127.0.0.1/tcp/0"]
        relay = {"behind": "client", "behind server": "server"}.get(relay, relay)
        self.given = Given(seed=seed, namespace="default", listen=listen, publish=[], subscribe=[], relay=relay)
        keys = create_new_key_pair(seed)
        self.network = Network(keys, network_key=b"", connections_max=64, host_connections_max=64)
        self.nat = Nat(self.given, self.network)
        self.host = Host(self.network, lambda *_: None)
        self.nat.attach(self.host)
        self.network.set_stream_handler(self._handle)
        self.network.register_notifee(_Watch(self.nat))
        self.errors: list[Exception] = []

    async def _handle(self, stream: INetStream) -> None:
        try:
            await self.host._swarm_stream_handler(stream)
        except Exception as error:  # noqa: BLE001 - as the process does
            self.errors.append(error)
            with suppress(Exception):
                await stream.reset()

    @property
    def id(self) -> ID:
        """Its peer id."""
        return self.host.get_id()

    @property
    def address(self) -> Multiaddr:
        """Where it listens, with its id."""
        return Multiaddr(f"{self.host.get_transport_addrs()[0]}/p2p/{self.id}")

    async def connect(self, other: Peer) -> None:
        """Dial another peer, and wait until that knows the connection too."""
        await self.network.dial(other.address, other.id)
        while not other.network.get_connections(self.id):
            await trio.sleep(0.01)

    async def open(self, other: Peer, protocol: TProtocol) -> INetStream:
        """A new stream to a connected peer."""
        return await self.host.new_stream(other.id, [protocol])

    async def ask_relay(self, relay: Peer, request: pb.HopMessage) -> tuple[pb.HopMessage, INetStream]:
        """Send one request to a relay; its answer, and the stream."""
        stream = await self.open(relay, HOP)
        await write_message(stream, request)
        return await read_message(stream, pb.HopMessage), stream

    async def reserve(self, relay: Peer) -> pb.Status.ValueType:
        """Ask a relay for a place."""
        return (await self.ask_relay(relay, pb.HopMessage(type=pb.HopMessage.RESERVE)))[0].status

    async def call(self, relay: Peer, called: Peer) -> tuple[pb.Status.ValueType, INetStream]:
        """Ask a relay for a circuit."""
        who = pb.PeerId(id=called.id.to_bytes())
        answer, stream = await self.ask_relay(relay, pb.HopMessage(type=pb.HopMessage.CONNECT, peer=who))
        return answer.status, stream


async def exchange(stream: INetStream, request: Message, kind: type[Message]) -> Message:
    """Write one message, and read one."""
    await write_message(stream, request)
    return await read_message(stream, kind)


@asynccontextmanager
async def peers(*relays: str) -> AsyncIterator[list[Peer]]:
    """As many running hosts as there are words. A word is the setting ``dht_relay`` of one, or ``behind``, or ``behind
    server``, for one that cannot be dialled.
    """
    made = [Peer(number, relay) for number, relay in enumerate(relays, start=1)]
    async with trio.open_nursery() as nursery:
        for peer in made:
            await nursery.start(_run, peer)
        try:
            yield made
        finally:
            with trio.move_on_after(10, shield=True):
                for peer in made:
                    await peer.host.close()
            nursery.cancel_scope.cancel()


async def _run(peer: Peer, task_status: trio.TaskStatus[None]) -> None:
    async with peer.host.run([Multiaddr(each) for each in peer.given.listen]), trio.open_nursery() as nursery:
        for job in peer.nat.jobs():
            nursery.start_soon(job)
        task_status.started()
