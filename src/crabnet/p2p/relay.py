"""Being a relay for others, within limits (libp2p specification "circuit relay v2").

The limits are on places, circuits, requests and bytes a second. A circuit has no end in bytes or time, because a node
behind a relay fetches a whole history through it. The answers therefore name no limit: peers of other implementations
run gossip only over connections without one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import trio
from libp2p.abc import IHost, INetStream
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from multiaddr import Multiaddr

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.p2p.circuit import HOP, READ_BYTES, STOP, connection_of, contained, is_relayed, read_message, write_message
from crabnet.p2p.clock import steady_ms
from crabnet.p2p.network import Network, host_group

_MS: Final = 1000


class Refused(Exception):  # noqa: N818 - a signal within this module
    """A request that is refused, with the status to answer."""

    def __init__(self, status: pb.Status.ValueType) -> None:
        super().__init__(pb.Status.Name(status))
        self.status = status


class Relay:
    """The places and circuits of others at this node. ``addresses`` are those at which this node can be dialled."""

    def __init__(self, host: IHost, network: Network, addresses: Callable[[], Iterable[Multiaddr]]) -> None:
        self._host = host
        self._network = network
        self._addresses = addresses
        self._places: dict[ID, int] = {}
        """Until when (ms) a peer has a place. At most P2P_RELAY_PLACES_MAX; no newcomer takes a place from a peer."""
        self._groups: Counter[str] = Counter()
        """Places by IPv4 address or IPv6 network."""
        self._group_of: dict[ID, str] = {}
        self._circuits: Counter[ID] = Counter()
        """Circuits of a peer, whether it has called or was called."""
        self._requests: BoundedTable[ID, TokenBucket] = BoundedTable(limits.P2P_CONNECTIONS_MAX)
        self._rate = TokenBucket(limits.P2P_RELAY_BYTES_PER_S, limits.P2P_RELAY_BYTES_PER_S)
        self.counters: Counter[str] = Counter()

    def offer(self) -> None:
        """Accept requests for places and circuits from now on."""
        self._host.set_stream_handler(HOP, contained(self._requested))

    @property
    def circuits(self) -> int:
        """The number of open circuits."""
        return self._circuits.total() // 2

    def gone(self, peer: ID) -> None:
        """A peer is not connected any more: its place is free."""
        if self._places.pop(peer, None) is None:
            return
        group = self._group_of.pop(peer)
        self._groups[group] -= 1
        if not self._groups[group]:
            del self._groups[group]

    async def _requested(self, stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        request = await read_message(stream, pb.HopMessage)
        try:
            self._check(peer, stream)
            if request.type == pb.HopMessage.RESERVE:
                await self._reserve(peer, stream)
            elif request.type == pb.HopMessage.CONNECT and request.peer.id:
                await self._connect(peer, ID(request.peer.id), stream)
            else:
                raise Refused(pb.MALFORMED_MESSAGE)
        except Refused as refused:
            self.counters["relay_refused"] += 1
            await write_message(stream, pb.HopMessage(type=pb.HopMessage.STATUS, status=refused.status))
            await stream.close()

    def _check(self, peer: ID, stream: INetStream) -> None:
        if is_relayed(connection_of(stream)):
            raise Refused(pb.PERMISSION_DENIED)
        if not self._rate_of(peer).take(steady_ms()):
            raise Refused(pb.RESOURCE_LIMIT_EXCEEDED)

    def _rate_of(self, peer: ID) -> TokenBucket:
        requests = self._requests.get(peer) or TokenBucket(limits.P2P_RELAY_REQUESTS_PER_S, limits.P2P_RELAY_REQUESTS)
        self._requests.put(peer, requests)
        return requests

    # --- places ----------------------------------------------------------------------------------------

    async def _reserve(self, peer: ID, stream: INetStream) -> None:
        self._expire()
        if peer not in self._places:
            group = host_group(stream.get_remote_address())
            full = len(self._places) >= limits.P2P_RELAY_PLACES_MAX
            if full or self._groups[group] >= limits.P2P_RELAY_PLACES_PER_HOST_MAX:
                raise Refused(pb.RESERVATION_REFUSED)
            self._groups[group] += 1
            self._group_of[peer] = group
        self._places[peer] = steady_ms() + limits.P2P_RELAY_PLACE_S * _MS
        self.counters["relay_reserved"] += 1
        own = Multiaddr(f"/p2p/{self._host.get_id()}")
        addresses = [each.encapsulate(own).to_bytes() for each in self._addresses()][: limits.P2P_RELAY_ADDRESSES_MAX]
        place = pb.Reservation(expire=int(time.time()) + limits.P2P_RELAY_PLACE_S, addrs=addresses)
        answer = pb.HopMessage(type=pb.HopMessage.STATUS, status=pb.OK, reservation=place)
        await write_message(stream, answer)
        await stream.close()

    def _expire(self) -> None:
        now_ms = steady_ms()
        for peer in [peer for peer, until_ms in self._places.items() if now_ms >= until_ms]:
            self.gone(peer)

    # --- circuits --------------------------------------------------------------------------------------

    async def _connect(self, caller: ID, called: ID, stream: INetStream) -> None:
        self._expire()
        if called not in self._places or caller == called:
            raise Refused(pb.NO_RESERVATION)
        most_of_one = max(self._circuits[caller], self._circuits[called])
        if most_of_one >= limits.P2P_RELAY_CIRCUITS_PER_PEER_MAX or self.circuits >= limits.P2P_RELAY_CIRCUITS_MAX:
            raise Refused(pb.RESOURCE_LIMIT_EXCEEDED)
        self._circuits.update((caller, called))
        far: INetStream | None = None
        try:
            far = await self._call(caller, called)
            await write_message(stream, pb.HopMessage(type=pb.HopMessage.STATUS, status=pb.OK))
            self.counters["relay_circuits"] += 1
            await self._carry(stream, far)
        finally:
            self._circuits.subtract((caller, called))
            self._circuits += Counter()  # forgets those that are zero
            if far is not None:
                with trio.CancelScope(shield=True):
                    for each in (stream, far):
                        with suppress(Exception):
                            await each.reset()

    async def _call(self, caller: ID, called: ID) -> INetStream:
        """Open the stream to the called peer. Raises Refused if it does not take the call."""
        far: INetStream | None = None
        try:
            if not any(not is_relayed(each) for each in self._network.get_connections(called)):
                raise Refused(pb.NO_RESERVATION)
            with trio.fail_after(limits.P2P_HANDSHAKE_MS / _MS):
                far = await self._host.new_stream(called, [STOP])
            call = pb.StopMessage(type=pb.StopMessage.CONNECT, peer=pb.PeerId(id=caller.to_bytes()))
            await write_message(far, call)
            answer = await read_message(far, pb.StopMessage)
            if answer.type != pb.StopMessage.STATUS or answer.status != pb.OK:
                raise Refused(pb.CONNECTION_FAILED)
        except Exception as error:
            if far is not None:
                with suppress(Exception):
                    await far.reset()
            raise Refused(error.status if isinstance(error, Refused) else pb.CONNECTION_FAILED) from error
        return far

    async def _carry(self, one: INetStream, other: INetStream) -> None:
        """Carry bytes in both directions until either side ends, or nothing moves for long."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, one, other, nursery.cancel_scope)
            nursery.start_soon(self._pump, other, one, nursery.cancel_scope)

    async def _pump(self, source: INetStream, to: INetStream, circuit: trio.CancelScope) -> None:
        with suppress(Exception):  # the library raises many things when a stream ends
            while True:
                circuit.deadline = trio.current_time() + limits.P2P_RELAY_IDLE_MS / _MS
                data = await source.read(READ_BYTES)
                if not data:
                    break
                while not self._rate.take(now_ms := steady_ms(), len(data)):  # noqa: ASYNC110 - time is waited for
                    await trio.sleep(self._rate.wait_ms(now_ms, len(data)) / _MS)
                with trio.fail_after(limits.P2P_WRITE_MS / _MS):
                    await to.write(data)
                self.counters["relay_bytes"] += len(data)
        circuit.cancel()
