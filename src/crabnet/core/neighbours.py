"""Talk with neighbours: hellos, heads, requests, and the healing of gaps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from crabnet import limits
from crabnet.core.effects import Effects, FieldValue, Notice, Send, Serve
from crabnet.core.peers import Peers
from crabnet.core.replica import Replica
from crabnet.core.syncing import SyncPlanner
from crabnet.protocol import sync
from crabnet.protocol.admission import Admitted
from crabnet.protocol.envelope import EnvelopeMeta, seal
from crabnet.protocol.identity import Signer
from crabnet.protocol.payloads import PayloadRefusedError

if TYPE_CHECKING:
    from crabnet.core.core import CoreConfig


class Neighbours:
    """Who is there, what they hold, and what we want of them."""

    def __init__(self, config: CoreConfig, signer: Signer, replica: Replica, entropy: Callable[[], int]) -> None:
        self.peers = Peers()
        self.planner = SyncPlanner(replica.feeds, replica.parking)
        self.trusted: frozenset[str] = frozenset()
        self.feed_heads: dict[str, int] = {}
        self._config = config
        self._signer = signer
        self._replica = replica
        self._entropy = entropy
        self._announce_at_ms = 0

    def heard(self, source: str, now_ms: int, effects: Effects) -> None:
        """Something verified came from ``source``: ask it to prove its address, if it has not yet."""
        if not self._config.talk:
            return
        self.peers.heard(source, now_ms)
        if source in self.trusted:
            return
        token = f"{self._entropy():x}{self._entropy():x}"
        if self.peers.due_challenge(source, token, now_ms):
            self._say(self._hello(challenge=token), source, now_ms, effects)

    def talk(self, admitted: Admitted, source: str, now_ms: int, effects: Effects) -> None:
        """A message that belongs to no feed."""
        meta = admitted.envelope.meta
        if meta.from_ == self._signer.node_id:
            return
        try:
            said = sync.talk_of(admitted.envelope, admitted.kind)
        except PayloadRefusedError as error:
            fields: dict[str, FieldValue] = {
                "address": source,
                "envelope_id": meta.id,
                "author": meta.from_,
                "kind": meta.kind,
                "reason": error.reason.value,
                "detail": error.detail[: limits.EVENT_DETAIL_CHARS],
            }
            effects.notices.append(Notice("envelope_rejected", fields))
            return
        self.heard(source, now_ms, effects)
        if not self._config.talk:
            return
        if isinstance(said, sync.Hello):
            self._hello_from(said, source, now_ms, effects)
        elif isinstance(said, sync.Heads):
            for head in said.heads:
                if head.author == self._signer.node_id:
                    self.feed_heads[source] = head.seq
                if self.planner.hear(head, source, now_ms):
                    held = self._replica.feeds.get(head.author).head_seq
                    self._gap_notice(head.author, held + 1, head.seq, source, effects)
        elif source in self.trusted or self.peers.is_confirmed(source):
            for want in said.wants:
                last = min(want.to_seq, want.from_seq + limits.SYNC_WANT_ENTRIES_MAX - 1)
                effects.serves.append(Serve(want.author, want.from_seq, last, source))

    def gap(self, meta: EnvelopeMeta, source: str, now_ms: int, effects: Effects) -> None:
        """An envelope came that is ahead of what is held, or does not link to it."""
        held = self._replica.feeds.get(meta.from_).head_seq
        if self._config.talk and self.planner.note(meta.from_, max(meta.seq - 1, 1), source, now_ms):
            self._gap_notice(meta.from_, held + 1, meta.seq - 1, source, effects)

    def progressed(self, author: str, now_ms: int, effects: Effects) -> None:
        """A feed has moved on."""
        self.planner.changed(author)
        closed = self.planner.progressed(author, now_ms)
        if closed is not None:
            first, last, duration_ms = closed
            fields: dict[str, FieldValue] = {
                "author": author,
                "first_seq": first,
                "last_seq": last,
                "duration_ms": duration_ms,
            }
            effects.notices.append(Notice("gap_filled", fields))

    def tick(self, now_ms: int, effects: Effects) -> None:
        """Announce heads, ask for what is missing, forget the silent."""
        if not self._config.talk:
            return
        for address, node_id in self.peers.expire(now_ms):
            effects.notices.append(Notice("peer_lost", {"address": address, "peer": node_id, "reason": "timeout"}))
        for source, wants in self.planner.requests(now_ms):
            for want in wants:
                fields: dict[str, FieldValue] = {
                    "author": want.author,
                    "first_seq": want.from_seq,
                    "last_seq": want.to_seq,
                    "address": source,
                }
                effects.notices.append(Notice("gap_requested", fields))
            self._say(sync.Request(wants), source, now_ms, effects)
        if now_ms >= self._announce_at_ms:
            self._announce_at_ms = now_ms + self._config.sync_interval_ms
            heads = self.planner.heads(self._signer.node_id, limits.SYNC_HEADS_PER_DATAGRAM)
            self._say(sync.Heads(heads) if heads else self._hello(), None, now_ms, effects)

    def announce_soon(self) -> None:
        """Announce heads with the next tick."""
        self._announce_at_ms = 0

    def _hello(self, *, challenge: str = "", echo: str = "") -> sync.Hello:
        identity = sync.NodeIdentity(self._signer.node_id, self._config.alias, self._config.agent)
        return sync.Hello(identity, challenge, echo)

    def _hello_from(self, hello: sync.Hello, source: str, now_ms: int, effects: Effects) -> None:
        if hello.challenge:
            self._say(self._hello(echo=hello.challenge), source, now_ms, effects)
        node_id = hello.identity.node_id
        if hello.echo and self.peers.confirm(source, node_id, hello.echo):
            effects.notices.append(Notice("peer_confirmed", {"address": source, "peer": node_id}))
            self.announce_soon()

    def _say(self, talk: sync.Talk, to: str | None, now_ms: int, effects: Effects) -> None:
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
        effects.sends.append(Send(envelope.raw, kind, envelope.meta.id, to))

    def _gap_notice(self, author: str, first: int, last: int, source: str, effects: Effects) -> None:
        fields: dict[str, FieldValue] = {
            "author": author,
            "first_seq": first,
            "last_seq": last,
            "address": source,
        }
        effects.notices.append(Notice("gap_detected", fields))
