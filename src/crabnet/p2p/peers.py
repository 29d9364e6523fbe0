"""The peers of this host: whom it dials, who is connected, who is blocked."""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction
from multiaddr import Multiaddr as Address

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.errors import NetworkError, Reason
from crabnet.p2p.dialling import DialBook, Entry
from crabnet.p2p.network import Network, addresses_of
from crabnet.p2p.streams import Streams
from crabnet.settings.kinds import Wrong
from crabnet.settings.multiaddr import parse_multiaddr
from crabnet.transport.p2p_wire import Book, Connected, Disconnected, Given, Known, Learnt, Noted, Report

_LASTING: frozenset[Reason] = frozenset({Reason.WRONG_PEER, Reason.OWN_ADDRESS, Reason.ADDRESS_INVALID})
"""Reasons for which another try of the same address is pointless for a long time."""


class Watcher(Protocol):
    """Is told of connections. It must not raise."""

    def found(self, connection: INetConn) -> None:
        """A peer is connected."""

    def gone(self, connection: INetConn) -> None:
        """A connection has ended."""


class Peers:
    """Connections and addresses."""

    def __init__(
        self,
        given: Given,
        network: Network,
        streams: Streams,
        tell: Callable[[Report], None],
        random: Callable[[], float],
    ) -> None:
        self._given = given
        self._network = network
        self._streams = streams
        self._tell = tell
        self.own = str(network.get_peer_id())
        self.book = DialBook(self.own, limits.PEERS_REMEMBERED_MAX, random)
        self._blocked: BoundedTable[str, int] = BoundedTable(limits.SOURCES_MAX)
        """Until when (ms) a peer is refused."""
        self._greeted: set[str] = set()
        """Peers that are connected and speak the sync protocol."""
        self._wake = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._told: list[Known] = []
        self.watchers: list[Watcher] = []
        """Who else is told of connections."""
        network.admits = self.admits
        network.register_notifee(_Watch(self))
        for each in given.bootstrap:
            parsed = parse_multiaddr(each)
            self.book.configure(str(parsed), parsed.peer)
        self.book.load(given.known)

    # --- admission -------------------------------------------------------------------------------------

    def admits(self, peer: ID) -> bool:
        """True unless the peer is blocked at the moment."""
        until_ms = self._blocked.get(str(peer))
        return until_ms is None or _steady_ms() >= until_ms

    def admits_stream(self, stream: INetStream) -> bool:
        """True unless the peer has too many streams already."""
        connection = getattr(stream, "swarm_conn", None)
        return connection is None or len(connection.get_streams()) <= limits.P2P_STREAMS_PER_PEER_MAX

    def block(self, peer: str, duration_ms: int) -> None:
        """Refuse a peer for a while, and disconnect it."""
        self._blocked.put(peer, _steady_ms() + duration_ms)
        if self._nursery is not None:
            self._nursery.start_soon(self._disconnect, ID.from_string(peer))

    async def _disconnect(self, peer: ID) -> None:
        for connection in self._network.get_connections(peer):
            await connection.close()

    # --- addresses -------------------------------------------------------------------------------------

    def listening_addresses(self) -> list[Address]:
        """The addresses to listen on, with free ports for those in use if falling back was asked for.

        Raises NetworkError (ADDRESS_IN_USE, ADDRESS_INVALID).
        """
        found = []
        for text in self._given.listen:
            try:
                _try_to_bind(text)
            except NetworkError as error:
                if error.reason is not Reason.ADDRESS_IN_USE or not self._given.listen_fallback:
                    raise
                parsed = parse_multiaddr(text)._replace(port=0)
                self._tell(Noted("listener_fallback", {"address": text, "detail": error.message}))
                text = str(parsed)
            found.append(Address(text))
        return found

    # --- jobs ------------------------------------------------------------------------------------------

    def jobs(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What is to run while the host runs."""
        return [self._dial_all, self._remember]

    async def _dial_all(self) -> None:
        async with trio.open_nursery() as self._nursery:
            while True:
                wanted = limits.P2P_PEERS_WANTED - len(self._greeted)
                for entry in self.book.due(_steady_ms(), self._connected(), wanted):
                    self._nursery.start_soon(self._dial, entry)
                with trio.move_on_after(limits.P2P_LOOK_MS / 1000):
                    await self._wake.wait()
                self._wake = trio.Event()

    def _connected(self) -> set[str]:
        return {str(peer) for peer in self._network.connections}

    async def _dial(self, entry: Entry) -> None:
        try:
            for address in await self._resolved(entry.address):
                peer = ID.from_string(entry.peer) if entry.peer else None
                connection = await self._network.dial(address, peer)
                found = str(connection.muxed_conn.peer_id)
                self.book.succeeded(entry.address, found, _steady_ms(), int(time.time()))
                return
            raise NetworkError(f"{entry.address} names no address", Reason.ADDRESS_INVALID)
        except NetworkError as error:
            lasting = error.reason in _LASTING
            first = entry.failures == 0
            aside = self.book.failed(entry.address, _steady_ms(), for_good=lasting)
            if entry.learnt is Learnt.CONFIGURED and (first or aside is not None):
                self._tell(
                    Noted(
                        "bootstrap_failed" if first else "bootstrap_set_aside",
                        {
                            "address": entry.address,
                            "reason": error.reason.value,
                            "detail": error.message[: limits.EVENT_DETAIL_CHARS],
                            "failures": entry.failures,
                        },
                    )
                )

    async def _resolved(self, text: str) -> list[Address]:
        """The addresses behind an address: itself, or what the name service says."""
        parsed = parse_multiaddr(text)
        if parsed.transport != "dnsaddr":
            return [Address(text)]
        with trio.move_on_after(limits.P2P_DIAL_MS / 1000):
            try:
                found = await Address(text).resolve()
            except Exception as error:
                raise NetworkError(f"cannot resolve {text}: {error}", Reason.ADDRESS_INVALID) from error
            return [each for each in found if _is_dialable(str(each))]
        raise NetworkError(f"no answer about {text}", Reason.TIMEOUT)

    async def _remember(self) -> None:
        while True:
            await trio.sleep(limits.P2P_REMEMBER_MS / 1000)
            known = self.book.known()
            if known != self._told:
                self._told = known
                self._tell(Book(known))

    # --- connections -----------------------------------------------------------------------------------

    def found(self, connection: INetConn) -> None:
        """A peer is connected."""
        peer = connection.muxed_conn.peer_id
        for watcher in self.watchers:
            watcher.found(connection)
        self._wake.set()
        if self._nursery is not None and str(peer) not in self._greeted:
            self._nursery.start_soon(self._greet, peer, connection)

    async def _greet(self, peer: ID, connection: INetConn) -> None:
        name = str(peer)
        for _ in range(limits.P2P_GREETINGS_MAX):
            if await self._streams.greet(peer):
                break
            if not self._network.get_connections(peer):
                return
            await trio.sleep(limits.P2P_LOOK_MS / 1000)
        else:
            return
        if name in self._greeted:
            return
        self._greeted.add(name)
        address = next(map(str, addresses_of(connection)), "")
        outbound = isinstance(connection, SwarmConn) and connection.direction is Direction.OUTBOUND
        self._tell(Connected(name, address, outbound, "p2p-circuit" in address))

    def gone(self, connection: INetConn) -> None:
        """A connection has ended."""
        peer = connection.muxed_conn.peer_id
        for watcher in self.watchers:
            watcher.gone(connection)
        if self._network.get_connections(peer):
            return
        self._streams.forget(peer)
        self.book.lost(str(peer), _steady_ms())
        if str(peer) in self._greeted:
            self._greeted.discard(str(peer))
            self._tell(Disconnected(str(peer)))
        self._wake.set()


class _Watch(INotifee):
    """Passes the events of the network on. The library waits for each of these methods."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Nothing to do."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Nothing to do."""

    async def listen(self, network: INetwork, multiaddr: Address) -> None:
        """Nothing to do."""

    async def listen_close(self, network: INetwork, multiaddr: Address) -> None:
        """Nothing to do."""

    async def connected(self, network: INetwork, conn: INetConn) -> None:  # noqa: ARG002 - the name is that of the library
        """See ``Peers.found``."""
        self._peers.found(conn)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:  # noqa: ARG002 - as above
        """See ``Peers.gone``."""
        self._peers.gone(conn)


def _steady_ms() -> int:
    return int(trio.current_time() * 1000)


def _is_dialable(text: str) -> bool:
    try:
        return parse_multiaddr(text).transport == "tcp"
    except Wrong:
        return False


def _try_to_bind(text: str) -> None:
    """Raises NetworkError if this address cannot be listened on. The library shares a port that is in use."""
    parsed = parse_multiaddr(text)
    family = socket.AF_INET6 if parsed.family == "ip6" else socket.AF_INET
    kind = socket.SOCK_STREAM if parsed.transport == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((parsed.host, parsed.port))
            if parsed.transport == "tcp":
                probe.listen(1)
        except OSError as error:
            reason = Reason.ADDRESS_IN_USE if error.errno == 98 else Reason.ADDRESS_INVALID
            raise NetworkError(f"cannot listen on {text}: {error.strerror}", reason) from error
