"""Reaching this node: its addresses, whether others can dial them, and its places at relays (ADR 43)."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio
from libp2p.abc import INetConn
from libp2p.host.observed_addr_manager import NATDeviceType
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from crabnet import limits
from crabnet.p2p.autonat import AUTONAT, AutoNat, remote_of
from crabnet.p2p.circuit import is_relayed
from crabnet.p2p.clock import steady_ms
from crabnet.p2p.identity import Host
from crabnet.p2p.network import Network, host_group
from crabnet.p2p.own_addresses import expanded
from crabnet.p2p.punching import Puncher
from crabnet.p2p.reachability import Observations, Reachability, Votes, is_global
from crabnet.p2p.relay import Relay
from crabnet.p2p.relaying import RelayClient
from crabnet.settings.multiaddr import parse_multiaddr
from crabnet.transport.p2p_wire import Given

_MS: Final = 1000


class Nat:
    """What a node behind a router needs, and what it does for others that are."""

    def __init__(self, given: Given, network: Network) -> None:
        self._given = given
        self._network = network
        self._announce = [Multiaddr(each) for each in given.announce]
        self._votes = Votes()
        self._observations = Observations()
        self._wake = trio.Event()
        self._since_ms: int | None = None
        """Since when a peer is connected."""
        self._stale = False
        """The addresses have changed since they were last told to the connected peers."""

    def attach(self, host: Host) -> None:
        """Take part in the protocols of a host."""
        self._host = host
        host.told = self._announced
        host._observed_addr_manager = _Observer(self._observations)  # type: ignore[assignment]
        self._autonat = AutoNat(host, self._network)
        self._client = RelayClient(host, self._network, self._wants_relays, self._changed)
        self._relay = Relay(host, self._network, self._direct)
        self._puncher = Puncher(host, self._network, self._outside)
        self._autonat.offer()
        if self._given.relay != "off":
            self._network.through = self._client.dial
            self._client.offer()
            self._puncher.offer()
        if self._given.relay == "server":
            self._relay.offer()

    # --- what is known ---------------------------------------------------------------------------------

    @property
    def reachability(self) -> Reachability:
        """Whether others can dial this node."""
        return self._votes.verdict if self._given.listen else Reachability.PRIVATE

    def observed(self) -> list[str]:
        """The IP addresses under which several hosts see this node."""
        return self._observations.confirmed()

    def relays(self) -> list[str]:
        """The addresses of this node through relays."""
        own = self._network.get_peer_id()
        return [f"{each}/p2p/{own}" for each in self._client.addresses()]

    def counters(self) -> Counter[str]:
        """Counts for the report of the process."""
        return self._autonat.counters + self._client.counters + self._relay.counters + self._puncher.counters

    # --- addresses -------------------------------------------------------------------------------------

    def _announced(self) -> list[Multiaddr]:
        """The addresses that the host tells its peers, without its own id."""
        return [*self._direct(), *map(Multiaddr, self._client.addresses())]

    def _direct(self) -> list[Multiaddr]:
        """The addresses at which this node can perhaps be dialled: those of ``announce_addrs``; or those at which it
        was dialled, and those of its interfaces.
        """
        if self._announce:
            return self._announce
        proven = self._votes.addresses() if self.reachability is Reachability.PUBLIC else []
        listening = list(map(Multiaddr, expanded(map(str, self._host.get_transport_addrs()))))
        beyond = [each for each in listening if not parse_multiaddr(str(each)).is_loopback]
        return list(dict.fromkeys([*map(Multiaddr, proven), *(beyond or listening)]))

    def _candidates(self, connection: INetConn) -> list[Multiaddr]:
        """Where the peer of a connection may try to dial this node: at the IP address that it sees."""
        seen = self._observations.by(id(connection))
        if not seen:
            return []
        family = f"ip{ipaddress.ip_address(seen).version}"
        ports = [parse_multiaddr(str(each)) for each in self._host.get_transport_addrs()]
        found = [
            Multiaddr(str(each._replace(host=seen)))
            for each in ports
            if each.transport == "tcp" and each.family == family and _fits(each.host, seen)
        ]
        told = [each for each in self._announce if parse_multiaddr(str(each)).host == seen]
        return [*told, *found][: limits.P2P_DIAL_BACK_ADDRESSES_MAX]

    def _outside(self) -> list[Multiaddr]:
        """Where this node probably is for others, if its router keeps the port on which it listens."""
        listeners = [parse_multiaddr(str(each)) for each in self._host.get_transport_addrs()]
        return [
            Multiaddr(str(each._replace(host=seen)))
            for seen in self._observations.all()
            if is_global(seen)
            for each in listeners
            if each.transport == "tcp" and each.family == f"ip{ipaddress.ip_address(seen).version}"
        ]

    def _changed(self) -> None:
        self._stale = True
        self._wake.set()

    # --- connections -----------------------------------------------------------------------------------

    def found(self, connection: INetConn) -> None:
        """A peer is connected."""
        if self._since_ms is None:
            self._since_ms = steady_ms()
        self._wake.set()
        self._client.wake()
        self._puncher.found(connection)

    def gone(self, connection: INetConn) -> None:
        """A connection has ended."""
        peer = connection.muxed_conn.peer_id
        self._observations.forget(id(connection))
        if not any(not is_relayed(each) for each in self._network.get_connections(peer)):
            self._client.gone(peer)
            self._relay.gone(peer)

    def _wants_relays(self) -> bool:
        if self._given.relay == "off" or self.reachability is Reachability.PUBLIC:
            return False
        waited_ms = 0 if self._since_ms is None else steady_ms() - self._since_ms
        return self.reachability is Reachability.PRIVATE or waited_ms >= limits.P2P_REACHABILITY_WAIT_MS

    # --- jobs ------------------------------------------------------------------------------------------

    def jobs(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What is to run while the host runs."""
        return [self._watch, self._client.run, self._puncher.run]

    async def _watch(self) -> None:
        """Find out whether others can dial this node, and tell peers its addresses when they change."""
        while True:
            before = self.reachability, self._votes.addresses()
            await self._ask()
            if before != (self.reachability, self._votes.addresses()):
                self._stale = True
                self._client.wake()
            if self._stale:
                self._stale = False
                await self._host._push_identify_to_all_peers()
            with trio.move_on_after(limits.P2P_RELAY_LOOK_MS / _MS):
                await self._wake.wait()
            self._wake = trio.Event()

    async def _ask(self) -> None:
        """Ask peers on hosts that have not been asked lately, all at once."""
        if not self._given.listen:
            return
        async with trio.open_nursery() as nursery:
            for peer, connections in list(self._network.connections.items()):
                connection = next((each for each in connections if not is_relayed(each)), None)
                if connection is None or not self._observations.by(id(connection)) or not self._answers(peer):
                    continue
                host = host_group(remote_of(connection))
                if host and self._votes.ask(host, steady_ms()):
                    nursery.start_soon(self._ask_one, peer, host, self._candidates(connection))

    async def _ask_one(self, peer: ID, host: str, candidates: list[Multiaddr]) -> None:
        try:
            answer = await self._autonat.ask(peer, candidates) if candidates else ""
        except Exception:  # noqa: BLE001 - the library raises many things when a peer is gone
            return
        if answer is not None:
            self._votes.put(host, answer)

    def _answers(self, peer: ID) -> bool:
        try:
            return AUTONAT in self._host.get_peerstore().get_protocols(peer)
        except Exception:  # noqa: BLE001 - a peer that has gone meanwhile
            return False


class _Observer:
    """Stands in for the library's table of observed addresses, which trusts four peers and takes any port."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations

    def record_observation(self, conn: INetConn, observed_addr: Multiaddr, _local_addrs: list[Multiaddr]) -> None:
        """Called when a peer has reported under which address it sees this node."""
        observed, host = parse_multiaddr(str(observed_addr)), host_group(remote_of(conn))
        same_kind = is_global(observed.host) == is_global(host)
        if host and observed.family in ("ip4", "ip6") and not observed.via and same_kind:
            self._observations.put(id(conn), host, observed.host)

    def remove_conn(self, conn: INetConn) -> None:
        """Called when a connection has ended."""
        self._observations.forget(id(conn))

    def addrs(self) -> list[Multiaddr]:
        """None: ``Nat.announced`` says all addresses."""
        return []

    def get_nat_type(self) -> tuple[NATDeviceType, NATDeviceType]:
        """Not looked at."""
        return NATDeviceType.UNKNOWN, NATDeviceType.UNKNOWN


def _fits(listener: str, seen: str) -> bool:
    """False for a listener on loopback if somebody sees this node from elsewhere, and the other way round."""
    ip = ipaddress.ip_address(listener)
    return ip.is_unspecified or ip.is_loopback == ipaddress.ip_address(seen).is_loopback
