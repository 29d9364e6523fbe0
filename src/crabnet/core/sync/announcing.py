"""What a node tells its neighbours by itself: what it holds, who it is, and whether they are still there."""

from __future__ import annotations

from collections.abc import Callable

from crabnet import limits
from crabnet.core.config import CoreConfig
from crabnet.core.effects import Effects
from crabnet.core.mending import Part
from crabnet.core.replica.replica import Replica
from crabnet.core.sync.talking import Talking
from crabnet.protocol import sync
from crabnet.protocol.identity import Signer
from crabnet.source import GOSSIP, for_everybody, is_p2p, is_udp


class Announcing(Talking):
    """The periodic messages to neighbours, and the look at who they are."""

    def __init__(self, config: CoreConfig, signer: Signer, replica: Replica, entropy: Callable[[], int]) -> None:
        super().__init__(config, signer, replica, entropy)
        self._announce_at_ms = 0
        self._look_at_ms = 0
        self._introduce_at_ms = 0
        self._introduced_ms = 0

    def renew(self, part: Part) -> None:
        """Make a part anew."""
        super().renew(part)
        if part is Part.RELAY:
            self._look_at_ms = 0

    def _lose_silent(self, now_ms: int, effects: Effects) -> None:
        self._tell_lost(self.peers.expire(now_ms), "timeout", effects)

    def _introduce(self, now_ms: int, effects: Effects) -> None:
        """Tell all libp2p peers now and then who this node is, those that are no neighbours, too."""
        if now_ms < self._introduce_at_ms or not self._config.stays:
            return
        self._introduced_ms, self._introduce_at_ms = now_ms, now_ms + limits.INTRODUCE_MS * self._introducing()
        if any(map(is_p2p, self.peers.confirmed())):
            self._say(self._hello(), GOSSIP, now_ms, effects)

    def _introduce_soon(self, now_ms: int) -> None:
        """There is somebody who does not know this node. However many come, introductions have a pause between them."""
        pause_ms = limits.INTRODUCE_PAUSE_MS * self._introducing()
        soon_ms = max(now_ms + limits.INTRODUCE_SOON_MS, self._introduced_ms + pause_ms)
        self._introduce_at_ms = min(self._introduce_at_ms, soon_ms)

    def _introducing(self) -> int:
        """How many times rarer introductions are than in a small network. What all nodes together say does not grow
        with their number, or with the number of newcomers that somebody invents.
        """
        return 1 + (len(self.peers.others()) + len(self.peers.confirmed())) // limits.INTRODUCE_NODES

    def _invite(self, now_ms: int, effects: Effects) -> None:
        for address in self.book.due(now_ms, self.proven):
            challenge = self.peers.invite(address, self._token, now_ms)
            if challenge:
                self._say(self._hello(challenge=challenge), address, now_ms, effects)

    def _ask_for_time(self, now_ms: int, effects: Effects) -> None:
        asked = self.clocks.due(self._token, now_ms)
        if asked is None:
            return
        configured = [address for address in sorted(self.trusted) if not for_everybody(address)]
        self._say_all(self._hello(challenge=asked.configured), configured, now_ms, effects)
        if len(configured) < len(self.trusted) or self.peers.confirmed():
            self._say(self._hello(challenge=asked.others), None, now_ms, effects)

    def _announce(self, now_ms: int, effects: Effects) -> None:
        if now_ms < self._announce_at_ms:
            return
        # A quarter more or less, so that nodes that were started together do not always announce at the same time.
        interval_ms = self._config.sync_interval_ms
        self._announce_at_ms = now_ms + interval_ms * 3 // 4 + self._entropy() % (interval_ms // 2 + 1)
        known = [*sorted(self.trusted), *(each for each in self.peers.confirmed() if each not in self.trusted)]
        chosen = self.announcer.choose(known, self._config.sync_fanout, self._entropy)
        if self.digests.root():
            self._tell_holdings(chosen, now_ms, effects)
        else:
            self._say_all(self._hello(), chosen, now_ms, effects)
        if self.guard.at_risk or self.guard.waits:
            self._ask_for_own_feed(0, None, now_ms, effects)

    def _prune(self, now_ms: int, effects: Effects) -> None:
        for address, prune in self.relay.prunes(now_ms, self._config.sync_interval_ms):
            self._say(prune, address, now_ms, effects)

    def _tell_holdings(self, addresses: list[str], now_ms: int, effects: Effects) -> None:
        """Announce the holdings: their digest and some heads. Peers that may not know digests get more heads."""
        root = self.digests.root()
        if not root:
            return
        brief = [address for address in addresses if self.peers.tells_digests(address)]
        full = [address for address in addresses if address not in brief]
        if brief:
            self._say_all(sync.Heads(self.announcer.recent(), root), brief, now_ms, effects)
        if full:
            heads = self.announcer.heads(limits.SYNC_HEADS_PER_DATAGRAM)
            self._say_all(sync.Heads(heads, root), full, now_ms, effects)

    def _look_around(self, now_ms: int, _: Effects, *, again: bool = False) -> None:
        """Update the neighbours for relaying, every RELAY_LOOK_MS or if ``again`` is true.

        A configured address counts only after a message came from it. So nothing is relayed to a broadcast address.
        """
        if now_ms < self._look_at_ms and not again:
            return
        self._look_at_ms = now_ms + limits.RELAY_LOOK_MS
        around = self.around()
        links = [(address, self.peers.node_id(address)) for address in around if is_udp(address)]
        if len(links) < len(around):
            links.append((GOSSIP, ""))
        self.relay.surrounded_by(links)
