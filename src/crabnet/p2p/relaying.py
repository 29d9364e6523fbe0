"""Being reachable through relays, and reaching others through them (libp2p specification "circuit relay v2")."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio
from libp2p.abc import IHost, INetConn, INetStream, IRawConnection
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from msgspec import Struct
from multiaddr import Multiaddr

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.errors import NetworkError, Reason
from crabnet.p2p.circuit import (
    CIRCUIT,
    HOP,
    STOP,
    Circuit,
    connection_of,
    contained,
    is_relayed,
    read_message,
    write_message,
)
from crabnet.p2p.clock import steady_ms
from crabnet.p2p.network import Network, addresses_of
from crabnet.settings.kinds import Wrong
from crabnet.settings.multiaddr import parse_multiaddr

_MS: Final = 1000


class Reservation(Struct):
    """A place at a relay. Times are steady."""

    addresses: list[str]
    """Those of the relay, with its peer id."""
    renew_ms: int
    expires_ms: int


class RelayClient:
    """The places of this node at relays. ``wants`` says whether it needs any; ``changed`` is called when its addresses
    are others.
    """

    def __init__(self, host: IHost, network: Network, wants: Callable[[], bool], changed: Callable[[], None]) -> None:
        self._host = host
        self._network = network
        self._wants = wants
        self._changed = changed
        self._own: ID = host.get_id()
        self._places: BoundedTable[ID, Reservation] = BoundedTable(limits.P2P_RELAYS_WANTED)
        self._later: BoundedTable[ID, int] = BoundedTable(limits.P2P_CONNECTIONS_MAX)
        """Relays that refused, and when they may be asked again."""
        self._wake = trio.Event()
        self.counters: Counter[str] = Counter()

    def offer(self) -> None:
        """Accept connections through relays at which this node has a place."""
        self._host.set_stream_handler(STOP, contained(self._called))

    def addresses(self) -> list[str]:
        """The addresses of this node through its relays, without its own id."""
        return [f"{address}/{CIRCUIT}" for place in self._places.values() for address in place.addresses]

    def wake(self) -> None:
        """Look at once whether places are needed."""
        self._wake.set()

    def gone(self, peer: ID) -> None:
        """A peer is not connected any more. A relay forgets a place with its connection."""
        if self._places.pop(peer) is not None:
            self._changed()
        self._wake.set()

    # --- places at relays ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Get places while they are needed, and keep them."""
        while True:
            with trio.move_on_after(limits.P2P_RELAY_LOOK_MS / _MS):
                await self._wake.wait()
            self._wake = trio.Event()
            await self._look()

    async def _look(self) -> None:
        now_ms = steady_ms()
        wanted = self._wants()
        for relay, place in list(self._places.items()):
            if now_ms >= place.expires_ms or not wanted:
                self._places.pop(relay)
                self._changed()
            elif now_ms >= place.renew_ms:
                await self._reserve(relay)
        if not wanted:
            return
        for relay in self._relays(now_ms):
            if len(self._places) >= limits.P2P_RELAYS_WANTED:
                return
            await self._reserve(relay)

    def _relays(self, now_ms: int) -> list[ID]:
        """The connected peers to ask for a place: those that this node has dialled itself, and that offer it."""
        found = []
        for peer, connections in list(self._network.connections.items()):
            if peer in self._places or now_ms < (self._later.get(peer) or 0):
                continue
            if _dialled(connections) is not None and self._offers(peer):
                found.append(peer)
        return found

    def _offers(self, peer: ID) -> bool:
        try:
            return HOP in self._host.get_peerstore().get_protocols(peer)
        except Exception:  # noqa: BLE001 - a peer that has gone meanwhile
            return False

    async def _reserve(self, relay: ID) -> None:
        connection = _dialled(self._network.connections.get(relay, []))
        try:
            if connection is None:
                raise NetworkError(f"{relay} is not connected", Reason.NODE_UNREACHABLE)
            answer = await self._ask(relay, pb.HopMessage(type=pb.HopMessage.RESERVE))
        except Exception:  # noqa: BLE001 - the library raises many things; each means that there is no place
            self.counters["relay_places_failed"] += 1
            self._later.put(relay, steady_ms() + limits.P2P_RELAY_RETRY_MS)
            return
        now_ms = steady_ms()
        kept_ms = (answer.reservation.expire - int(time.time())) * _MS
        kept_ms = min(max(kept_ms, limits.P2P_RELAY_PLACE_MS_MIN), limits.P2P_RELAY_PLACE_S * _MS)
        told = [bytes(each) for each in answer.reservation.addrs]
        self._keep(relay, Reservation(_addresses(connection, relay, told), now_ms + kept_ms // 2, now_ms + kept_ms))

    def _keep(self, relay: ID, place: Reservation) -> None:
        fresh = relay not in self._places
        self._places.put(relay, place)
        self.counters["relay_places"] += 1
        if fresh:
            self._changed()

    async def _ask(self, relay: ID, request: pb.HopMessage) -> pb.HopMessage:
        """Raises NetworkError if the relay refuses, and whatever the library raises."""
        stream = await self._hop(relay)
        try:
            return await _exchange(stream, request)
        finally:
            with trio.CancelScope(shield=True), suppress(Exception):
                await stream.reset()

    async def _hop(self, relay: ID) -> INetStream:
        with trio.fail_after(limits.P2P_HANDSHAKE_MS / _MS):
            return await self._host.new_stream(relay, [HOP])

    # --- connections through relays --------------------------------------------------------------------

    async def dial(self, address: Multiaddr) -> IRawConnection:
        """Open a circuit to the peer that ``address`` names behind its relay.

        Raises NetworkError (ADDRESS_INVALID, NODE_UNREACHABLE and what a dial of the relay raises), and whatever the
        library raises.
        """
        parsed = parse_multiaddr(str(address))
        through = parse_multiaddr(parsed.via)
        relay, peer = ID.from_string(through.peer), ID.from_string(parsed.peer)
        if self._own in (relay, peer):
            raise NetworkError(f"{address} leads to this node itself", Reason.OWN_ADDRESS)
        if not any(not is_relayed(each) for each in self._network.get_connections(relay)):
            await self._network.dial(Multiaddr(parsed.via), relay)
        stream = await self._hop(relay)
        try:
            request = pb.HopMessage(type=pb.HopMessage.CONNECT, peer=pb.PeerId(id=peer.to_bytes()))
            await _exchange(stream, request)
        except BaseException:
            with trio.CancelScope(shield=True), suppress(Exception):
                await stream.reset()
            raise
        self.counters["relay_dials"] += 1
        return Circuit(stream, address, is_initiator=True)

    async def _called(self, stream: INetStream) -> None:
        """Somebody calls through a relay. Returns when the connection has ended."""
        relay = stream.muxed_conn.peer_id
        request = await read_message(stream, pb.StopMessage)
        place = self._places.get(relay)
        status, caller = pb.OK, ID(request.peer.id)
        if request.type != pb.StopMessage.CONNECT or not request.peer.id:
            status = pb.MALFORMED_MESSAGE
        elif place is None or is_relayed(connection_of(stream)) or not self._network.admits(caller):
            status = pb.PERMISSION_DENIED
        elif caller == self._own:
            status = pb.CONNECTION_FAILED
        await write_message(stream, pb.StopMessage(type=pb.StopMessage.STATUS, status=status))
        if status != pb.OK or place is None:
            self.counters["relay_calls_refused"] += 1
            await stream.close()
            return
        self.counters["relay_calls"] += 1
        address = Multiaddr(f"{place.addresses[0]}/{CIRCUIT}/p2p/{caller}")
        await self._network.accept_relayed(Circuit(stream, address, is_initiator=False), address, relay, caller)


async def _exchange(stream: INetStream, request: pb.HopMessage) -> pb.HopMessage:
    await write_message(stream, request)
    answer = await read_message(stream, pb.HopMessage)
    if answer.type != pb.HopMessage.STATUS or answer.status != pb.OK:
        raise NetworkError(f"the relay refuses: {_name(answer.status)}", Reason.NODE_UNREACHABLE)
    return answer


def _name(status: int) -> str:
    try:
        return pb.Status.Name(pb.Status.ValueType(status)).lower()
    except ValueError:
        return str(status)


def _dialled(connections: list[INetConn]) -> INetConn | None:
    """The direct connection that this node has made."""
    for each in connections:
        if getattr(each, "direction", None) is Direction.OUTBOUND and not is_relayed(each):
            return each
    return None


def _addresses(connection: INetConn, relay: ID, told: list[bytes]) -> list[str]:
    """The addresses of a relay: the one that this node has dialled, then further ones that the relay tells."""
    dialled = parse_multiaddr(str(addresses_of(connection)[0]))
    found = [f"{dialled._replace(peer='')}/p2p/{relay}"]
    for each in told[: limits.P2P_RELAY_ADDRESSES_MAX]:
        try:
            parsed = parse_multiaddr(str(Multiaddr(each)))
        except (Wrong, ValueError, LookupError):
            continue
        text = f"{parsed._replace(peer='', via='')}/p2p/{relay}"
        usable = not parsed.via and parsed.transport == "tcp" and parsed.peer in ("", str(relay))
        if usable and text not in found and parsed.port and parsed.is_loopback == dialled.is_loopback:
            found.append(text)
    return found[: limits.P2P_RELAY_ADDRESSES_MAX]
