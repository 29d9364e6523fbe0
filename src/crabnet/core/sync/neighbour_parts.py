"""The state of ``Neighbours``, in parts that can each be made anew (ADR 27)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from crabnet import limits
from crabnet.core.config import CoreConfig
from crabnet.core.mending import Part
from crabnet.core.replica.replica import Replica
from crabnet.core.sync.address_book import AddressBook
from crabnet.core.sync.announcer import Announcer
from crabnet.core.sync.clocks import Clocks
from crabnet.core.sync.feed_guard import FeedGuard
from crabnet.core.sync.peers import Peers
from crabnet.core.sync.planner import SyncPlanner
from crabnet.core.sync.presence import Presence
from crabnet.core.sync.reconcile import Reconciler
from crabnet.core.sync.relay import Relay
from crabnet.core.sync.wants import Wants
from crabnet.protocol.digests import DigestTree
from crabnet.protocol.sync import ForkMark, Named

_PARTS: Final = (
    Part.PEERS,
    Part.ADDRESS_BOOK,
    Part.WANTS,
    Part.DIGESTS,
    Part.PROOFS,
    Part.NAMED,
    Part.RELAY,
    Part.ANNOUNCER,
    Part.FEED_GUARD,
    Part.CLOCKS,
    Part.PRESENCE,
)
"""All parts but the comparisons, which are made together with the digests."""


class NeighbourParts:
    """The neighbours, what they hold, and what this node wants from them."""

    peers: Peers
    book: AddressBook
    planner: SyncPlanner
    digests: DigestTree
    reconciler: Reconciler
    proofs: Wants[ForkMark]
    named: Wants[Named]
    relay: Relay
    announcer: Announcer
    guard: FeedGuard
    clocks: Clocks
    presence: Presence

    def __init__(self, config: CoreConfig, node_id: str, replica: Replica, entropy: Callable[[], int]) -> None:
        self._config = config
        self._node_id = node_id
        self._replica = replica
        self._entropy = entropy
        self.trusted: frozenset[str] = frozenset()
        self.expects_p2p = False
        """True if libp2p peers are configured or remembered, so that one of them is likely to join."""
        for part in _PARTS:
            self._make(part)

    def proven(self, source: str) -> bool:
        """True if this address is configured or has proved itself."""
        return source in self.trusted or self.peers.is_confirmed(source)

    def around(self) -> list[str]:
        """The addresses of present peers: those that have proved themselves, and configured ones that were heard."""
        return sorted({*self.peers.confirmed(), *filter(self.peers.present, self.trusted)})

    def parts(self) -> dict[Part, object]:
        """The present parts."""
        return {
            Part.PEERS: self.peers,
            Part.ADDRESS_BOOK: self.book,
            Part.WANTS: self.planner,
            Part.DIGESTS: self.digests,
            Part.COMPARISONS: self.reconciler,
            Part.PROOFS: self.proofs,
            Part.NAMED: self.named,
            Part.RELAY: self.relay,
            Part.ANNOUNCER: self.announcer,
            Part.FEED_GUARD: self.guard,
            Part.CLOCKS: self.clocks,
            Part.PRESENCE: self.presence,
        }

    def renew(self, part: Part) -> None:
        """Make a part anew. It learns its content again, as after a start. A feed at risk stays at risk."""
        guard = self.guard
        self._make(part)
        if part is Part.FEED_GUARD:
            self.guard.inherit(guard)

    def _make(self, part: Part) -> None:
        config, replica = self._config, self._replica
        if part is Part.PEERS:
            self.peers = Peers()
        elif part is Part.ADDRESS_BOOK:
            self.book = AddressBook(config.peers_remembered)
        elif part is Part.WANTS:
            pace = config.sync_fetch_bytes_per_s
            self.planner = SyncPlanner(replica.feeds, replica.parking, fetch_bytes_per_s=pace, proven=self.proven)
        elif part is Part.DIGESTS:
            self.digests = DigestTree(replica.feeds)
            self.reconciler = Reconciler(self.digests)
        elif part is Part.COMPARISONS:
            self.reconciler = Reconciler(self.digests)
        elif part is Part.PROOFS:
            self.proofs = Wants(limits.FORK_WANTS_MAX, limits.WANT_ATTEMPTS_MAX)
        elif part is Part.NAMED:
            self.named = Wants(limits.NAMED_WANTS_MAX)
        elif part is Part.RELAY:
            self.relay = Relay(config.relay_fanout if config.talk else 0, self._entropy)
        else:
            self._make_watcher(part)

    def _make_watcher(self, part: Part) -> None:
        config, replica = self._config, self._replica
        if part is Part.ANNOUNCER:
            self.announcer = Announcer(replica.feeds, self._node_id)
        elif part is Part.FEED_GUARD:
            self.guard = FeedGuard(self._node_id, replica.feeds, accepted=config.accept_feed_risk)
        elif part is Part.CLOCKS:
            self.clocks = Clocks(config.policy.future_skew_s)
        elif part is Part.PRESENCE:
            self.presence = Presence(config.peer_silence_ms)
