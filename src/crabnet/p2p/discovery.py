"""How this node finds peers: the rendezvous in the DHT, multicast DNS, and what peers say of themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from libp2p.host.basic_host import BasicHost
from libp2p.peer.id import ID

from crabnet import limits
from crabnet.p2p.clock import steady_ms
from crabnet.p2p.dialling import DialBook
from crabnet.p2p.kad import KadNode
from crabnet.p2p.kad_tables import rendezvous_key
from crabnet.p2p.mdns import Mdns, service_type
from crabnet.p2p.network import Network, addresses_of
from crabnet.p2p.own_addresses import expanded
from crabnet.p2p.rendezvous import OFF, Rendezvous
from crabnet.p2p.scope import Scope, scope_of, scope_of_text, told
from crabnet.settings.multiaddr import parse_multiaddr
from crabnet.transport.p2p_wire import Given, Learnt


class Discovery:
    """Puts addresses of peers into the address book. Whom to dial is decided there."""

    def __init__(
        self,
        given: Given,
        host: BasicHost,
        network: Network,
        book: DialBook,
        wanted: Callable[[], int],
        refused: Callable[[ID, Exception], None],
    ) -> None:
        """``wanted`` says how many more peers the node would like to have."""
        self._given = given
        self._host = host
        self._network = network
        self._book = book
        self.wanted = wanted
        self.reachability: Callable[[], str] = lambda: "unknown"
        """Says whether others can dial this node."""
        self._own = str(host.get_id())
        self.kad = KadNode(host, self.scope, refused)
        key = rendezvous_key(given.namespace, given.network_key)
        self.rendezvous = Rendezvous(given.rendezvous, key, self.kad, network, self)
        self._mdns = Mdns(
            service_type(given.namespace, given.network_key), self._own, self.own_addresses, self._found_on_link
        )

    def jobs(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What is to run while the host runs."""
        jobs: list[Callable[[], Awaitable[None]]] = []
        if self._given.rendezvous != OFF:
            jobs.append(self.rendezvous.run)
        if self._given.mdns:
            jobs.append(self._mdns.run)
        return jobs

    def look(self) -> None:
        """Learn what connected peers tell of themselves by identify, and whether this node can be reached by now."""
        self.rendezvous.new_mode()
        for peer in list(self._network.connections):
            for address in self.addresses_of(peer):
                self._book.learn(address, str(peer), Learnt.IDENTIFY, steady_ms())

    def counters(self) -> dict[str, int]:
        """Counts for the node's metrics."""
        return {
            "dht_searches": self.rendezvous.searches,
            "dht_asked": self.kad.asked,
            "dht_answered": self.kad.answered,
            "dht_servers": len(self.kad.servers),
            "dht_providers": len(self.kad.providers),
            "dht_is_server": int(self.kad.is_server),
            "mdns_failures": self._mdns.failures,
        }

    # --- what the search needs (``Surroundings``) ------------------------------------------------------

    def scope(self, peer: ID) -> Scope:
        """The scope of the address of a connected peer: the widest of its connections."""
        found = [scope_of_text(str(next(iter(addresses_of(each)), ""))) for each in self._network.get_connections(peer)]
        return max(found, default=Scope.PUBLIC)

    def own_addresses(self) -> list[str]:
        """The addresses at which others may reach this node."""
        return expanded(map(str, self._host.get_addrs()))

    def addresses_of(self, peer: ID) -> list[str]:
        """The addresses that a connected peer tells of itself, as far as they count."""
        try:
            texts = list(map(str, self._network.peerstore.addrs(peer)))[: limits.KAD_ADDRESSES_READ_MAX]
        except Exception:  # noqa: BLE001 - the library raises for a peer of which it knows nothing
            return []
        return told(texts, str(peer), self.scope(peer))

    def is_reachable(self) -> bool:
        """True if others can probably connect to this node: the default of ``dht_rendezvous``."""
        if self._given.announce or self.reachability() == "public":
            return True
        if self.reachability() == "private":  # its addresses are those of relays
            return False
        scopes = [scope_of(parse_multiaddr(each)) for each in self._given.listen]
        if any(scope in (Scope.PRIVATE, Scope.PUBLIC) for scope in scopes):
            return True
        return Scope.PUBLIC in [scope_of(parse_multiaddr(each)) for each in self.own_addresses()]

    def learn(self, address: str, peer: str, learnt: Learnt) -> None:
        """Take an address of a peer that provides the key of the namespace."""
        self._book.learn(address, peer, learnt, steady_ms())

    def is_provider(self, peer: ID) -> bool:
        """True if the address book has an address of this peer."""
        return self._book.knows(str(peer))

    def _found_on_link(self, address: str, peer: str) -> None:
        self._book.learn(address, peer, Learnt.MDNS, steady_ms())
