"""Sends messages to neighbours, and handles questions and notices about this node's own feed (ADR 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crabnet import limits
from crabnet.core.config import CoreConfig
from crabnet.core.effects import Effects, FieldValue, Notice, Send
from crabnet.core.replica.replica import Replica
from crabnet.core.sync.feed_guard import FeedWait
from crabnet.core.sync.neighbour_parts import NeighbourParts
from crabnet.core.sync.peers import LostPeer
from crabnet.errors import Reason
from crabnet.protocol import sync
from crabnet.protocol.envelope import seal
from crabnet.protocol.identity import Signer
from crabnet.source import for_everybody


class Talking(NeighbourParts):
    """Signs and sends messages to neighbours, and knows whether there are peers to wait for."""

    def __init__(self, config: CoreConfig, signer: Signer, replica: Replica, entropy: Callable[[], int]) -> None:
        super().__init__(config, signer.node_id, replica, entropy)
        self._signer = signer

    def _say(self, talk: sync.Talk, to: str | None, now_ms: int, effects: Effects) -> None:
        self._say_all(talk, [to], now_ms, effects)

    def tell(self, talk: sync.Talk, addresses: Sequence[str], now_ms: int, effects: Effects) -> None:
        """Say something to neighbours at these addresses."""
        if self._config.talk:
            self._say_all(talk, addresses, now_ms, effects)

    def _say_all(self, talk: sync.Talk, to: Sequence[str | None], now_ms: int, effects: Effects) -> None:
        if not to:
            return
        kind, payload = sync.payload_of(talk)
        envelope = seal(
            self._signer,
            kind=kind,
            namespace=self._replica.namespace,
            ts=now_ms // 1000,
            nonce=self._entropy(),
            payload=payload,
        )
        self._replica.seen.add(envelope.meta.id, now_ms // 1000)
        effects.sends += [Send(envelope.raw, kind, envelope.meta.id, address) for address in to]

    def _hello(self, *, challenge: str = "", echo: str = "") -> sync.Hello:
        identity = sync.NodeIdentity(self._signer.node_id, self._config.alias, self._config.agent)
        return sync.Hello(identity, challenge, echo)

    def _token(self) -> str:
        return f"{self._entropy():x}{self._entropy():x}"

    def _gap_notice(self, author: str, first: int, last: int, source: str, effects: Effects) -> None:
        fields: dict[str, FieldValue] = {
            "author": author,
            "first_seq": first,
            "last_seq": last,
            "address": source,
        }
        effects.notices.append(Notice("gap_detected", fields))

    def _tell_lost(self, lost: list[LostPeer], reason: str, effects: Effects) -> None:
        effects.notices.extend(
            Notice("peer_lost", {"address": each.address, "peer": each.node_id, "reason": reason})
            for each in lost
            if self.presence.lose(each.address)
        )

    def _look_for_peers(self, now_ms: int, effects: Effects) -> None:
        """Report the peers that were found, and those that have been silent for too long."""
        if not self._config.stays or not self.presence.due(now_ms):
            return
        heard = [
            (address, node_id, heard_ms)
            for address in self.around()
            if (node_id := self.peers.node_id(address)) and (heard_ms := self.peers.last_heard_ms(address)) is not None
        ]
        found, lost = self.presence.look(heard, now_ms)
        for each in found:
            effects.notices.append(Notice("peer_found", {"address": each.address, "peer": each.node_id}))
        for each in lost:
            fields: dict[str, FieldValue] = {"address": each.address, "peer": each.node_id, "reason": "timeout"}
            effects.notices.append(Notice("peer_lost", {**fields, "duration_ms": each.silent_ms}))

    @property
    def has_peers(self) -> bool:
        """True if there is a specific peer, configured or remembered, whose answer the node can wait for."""
        configured = any(not for_everybody(address) for address in self.trusted)
        return self._config.talk and (configured or len(self.book) > 0 or self.expects_p2p)

    def wait_for_word(self, wait: FeedWait, now_ms: int) -> None:
        """Write nothing until a peer has said how far this node's feed goes (ADR 6). Does nothing without peers."""
        if self.has_peers and not self._replica.feeds.get(self._signer.node_id).end:
            self.guard.wait_for_word(now_ms, wait)

    def _ask_for_own_feed(self, seq: int, to: str | None, now_ms: int, effects: Effects) -> None:
        """Ask a neighbour, or all if ``to`` is None, for this node's feed after its head, or from ``seq`` if lower."""
        own = self._replica.feeds.get(self._signer.node_id)
        first = min(seq or own.head_seq + 1, own.head_seq + 1)
        want = sync.Want(own.author, first, first + limits.SYNC_WANT_ENTRIES_MAX - 1)
        self._say(sync.Request([want]), to, now_ms, effects)

    def warn(self, detail: str, effects: Effects) -> None:
        """Report that this node may not write into its feed, and why."""
        told: dict[str, FieldValue] = {"reason": Reason.FEED_RISK.value, "detail": detail}
        effects.notices.append(self._about_own_feed("feed_at_risk", told))

    def _about_own_feed(self, kind: str, told: dict[str, FieldValue]) -> Notice:
        own = self._replica.feeds.get(self._signer.node_id)
        return Notice(kind, {"namespace": self._replica.namespace, "last_seq": own.head_seq, **told})

    def _clear(self, now_ms: int, effects: Effects) -> None:
        if self.guard.waited_in_vain(now_ms):
            outcome = "waits" if self.guard.blocks(now_ms) else "writes"
            effects.notices.append(self._about_own_feed("feed_unconfirmed", {"outcome": outcome}))
        cleared = self.guard.tick(now_ms)
        if cleared is None:
            return
        if cleared.first_seq:
            adopted: dict[str, FieldValue] = {"first_seq": cleared.first_seq, "address": cleared.adopted_from}
            effects.notices.append(self._about_own_feed("feed_adopted", adopted))
        effects.notices.append(self._about_own_feed("feed_confirmed", {"address": cleared.confirmed_by}))
