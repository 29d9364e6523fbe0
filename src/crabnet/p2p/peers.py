"""The peers of this host: whom it dials, who is connected, who is blocked."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.host.basic_host import BasicHost
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction
from multiaddr import Multiaddr as Address

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.errors import NetworkError, Reason
from crabnet.p2p.clock import steady_ms
from crabnet.p2p.dialling import DialBook, Entry
from crabnet.p2p.discovery import Discovery
from crabnet.p2p.network import Network, addresses_of
from crabnet.p2p.resolving import Names
from crabnet.p2p.settling import Place, surplus
from crabnet.p2p.streams import Streams
from crabnet.settings.multiaddr import parse_multiaddr
from crabnet.transport.p2p_addresses import check_bootstrap, check_listener
from crabnet.transport.p2p_wire import Book, Connected, Disconnected, Given, Known, Learnt, Noted, Report

_LASTING: frozenset[Reason] = frozenset({Reason.WRONG_PEER, Reason.OWN_ADDRESS})
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
        host: BasicHost,
        network: Network,
        streams: Streams,
        tell: Callable[[Report], None],
        random: Callable[[], float],
        refused: Callable[[ID, Exception], None],
    ) -> None:
        """``refused`` gets streams of discovery that a peer has broken."""
        self._given = given
        self._network = network
        self._streams = streams
        self._tell = tell
        self.own = str(host.get_id())
        self.book = DialBook(self.own, limits.P2P_BOOK_MAX, random)
        self._names = Names()
        self.discovery = Discovery(given, host, network, self.book, self._wanted, refused)
        self._blocked: BoundedTable[str, int] = BoundedTable(limits.SOURCES_MAX)
        """Until when (ms) a peer is refused."""
        self._greeted: set[str] = set()
        """Peers that are connected and speak the sync protocol."""
        self._wake = trio.Event()
        self._to_remember = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._told: list[Known] = []
        self.watchers: list[Watcher] = []
        """Who else is told of connections."""
        network.admits = self.admits
        network.register_notifee(_Watch(self))
        for each in given.bootstrap:
            parsed = parse_multiaddr(each)
            self.book.configure(str(parsed), parsed.peer)
        self.book.load(given.known, int(time.time()))

    # --- admission -------------------------------------------------------------------------------------

    def admits(self, peer: ID) -> bool:
        """True unless the peer is blocked at the moment."""
        until_ms = self._blocked.get(str(peer))
        return until_ms is None or steady_ms() >= until_ms

    def admits_stream(self, stream: INetStream) -> bool:
        """True unless the peer has too many streams already."""
        connection = getattr(stream, "swarm_conn", None)
        return connection is None or len(connection.get_streams()) <= limits.P2P_STREAMS_PER_PEER_MAX

    def block(self, peer: str, duration_ms: int) -> None:
        """Refuse a peer for a while, and disconnect it."""
        self._blocked.put(peer, steady_ms() + duration_ms)
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
                check_listener(text)
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
        return [self._dial_all, self._remember, *self.discovery.jobs()]

    async def _dial_all(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._check_bootstrap()
            while True:
                connected = self._connected()
                for peer in self.book.up() - connected:
                    self._lost(peer)  # the library tells later of a lost connection
                for entry in self.book.due(steady_ms(), connected, self._wanted()):
                    self._nursery.start_soon(self._dial, entry)
                with trio.move_on_after(limits.P2P_LOOK_MS / 1000):
                    await self._wake.wait()
                self._wake = trio.Event()

    def _connected(self) -> set[str]:
        return {str(peer) for peer in self._network.connections}

    def _wanted(self) -> int:
        """How many more peers the node would like to have."""
        return limits.P2P_PEERS_WANTED - len(self._greeted)

    def _check_bootstrap(self) -> None:
        """Report what is wrong with configured addresses before the first of them is dialled."""
        for entry in self.book.entries():
            if entry.learnt is Learnt.CONFIGURED:
                try:
                    check_bootstrap(entry.address, self.own, self._given.listen)
                except NetworkError as error:
                    self._failed(entry, error)

    async def _dial(self, entry: Entry) -> None:
        peer = ID.from_string(entry.expected) if entry.expected else None
        failure = NetworkError(f"{entry.address} names no address", Reason.ADDRESS_INVALID)
        try:
            for address in await self._names.addresses(entry.address):
                wanted = ID.from_string(address.peer) if address.peer else peer
                try:
                    connection = await self._network.dial(Address(str(address)), wanted)
                except NetworkError as error:
                    if failure.reason is Reason.ADDRESS_INVALID or error.reason not in _LASTING:
                        failure = error
                    continue
                found = str(connection.muxed_conn.peer_id)
                self.book.succeeded(entry.address, found, steady_ms(), int(time.time()))
                self._to_remember.set()
                return
        except NetworkError as error:
            failure = error
        self._failed(entry, failure)

    def _failed(self, entry: Entry, error: NetworkError) -> None:
        first = entry.failures == 0
        aside = self.book.failed(entry.address, steady_ms(), for_good=error.reason in _LASTING)
        self._report(entry, error, first=first, aside=aside is not None)

    def _report(self, entry: Entry, error: NetworkError, *, first: bool, aside: bool) -> None:
        if entry.learnt is Learnt.CONFIGURED and (first or aside):
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

    async def _remember(self) -> None:
        while True:
            with trio.move_on_after(limits.P2P_REMEMBER_MS / 1000):
                await self._to_remember.wait()
            self._to_remember = trio.Event()
            self.discovery.look()
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
        if self._nursery is not None and len(self._network.get_connections(peer)) > 1:
            self._nursery.start_soon(self._settle, peer)
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
        if name in self._greeted or not self._network.get_connections(peer):
            return
        self._greeted.add(name)
        address = next(map(str, addresses_of(connection)), "")
        outbound = isinstance(connection, SwarmConn) and connection.direction is Direction.OUTBOUND
        self._tell(Connected(name, address, outbound, "p2p-circuit" in address))
        await self.discovery.rendezvous.met(peer)

    async def _settle(self, peer: ID) -> None:
        """Keep one of several connections with a peer."""
        await trio.sleep(limits.P2P_SETTLE_MS / 1000)
        found = [each for each in self._network.get_connections(peer) if isinstance(each, SwarmConn)]
        places = [Place(each._created_at, each.direction is Direction.OUTBOUND, _is_relayed(each)) for each in found]
        for number in surplus(places, is_first=self.own < str(peer)):
            with suppress(Exception):
                await found[number].close()

    def gone(self, connection: INetConn) -> None:
        """A connection has ended."""
        peer = connection.muxed_conn.peer_id
        for watcher in self.watchers:
            watcher.gone(connection)
        self._streams.forget(peer)
        if self._network.get_connections(peer):
            return
        self._lost(str(peer))
        self.discovery.rendezvous.lost()
        if str(peer) in self._greeted:
            self._greeted.discard(str(peer))
            self._tell(Disconnected(str(peer)))
        self._wake.set()

    def _lost(self, peer: str) -> None:
        for entry in self.book.lost(peer, steady_ms()):
            closed = NetworkError(f"{peer} closed the connection at once", Reason.NODE_UNREACHABLE)
            self._report(entry, closed, first=entry.failures == 1, aside=entry.failures == limits.P2P_FAILURES_ASIDE)


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


def _is_relayed(connection: INetConn) -> bool:
    return any("p2p-circuit" in str(each) for each in addresses_of(connection))
