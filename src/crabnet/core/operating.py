"""Carries out operations of the operator and of the node itself. It also decides which authors are denied a deal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from crabnet import limits
from crabnet.core import build
from crabnet.core.commands import (
    ChangeTerms,
    CreateClaim,
    FinishRun,
    Operation,
    Publish,
    RequestTag,
    Settle,
    StartRun,
    Statement,
    SubmitBid,
)
from crabnet.core.config import CoreConfig
from crabnet.core.consequences import Consequences
from crabnet.core.effects import Effects, FieldValue, Notice, RunOrder, Send
from crabnet.core.replica.applied import Applied
from crabnet.core.replica.records import PurchaseRecord, RequestRecord, encode_record
from crabnet.core.replica.replica import Replica
from crabnet.core.soft_parts import SoftParts
from crabnet.domain.model import FINAL, Acknowledgement, Body, FactKind, Run, SeedStatus, Settlement
from crabnet.domain.record import EMPTY, Record
from crabnet.domain.wording import standing_of
from crabnet.errors import Reason, RefusedError
from crabnet.protocol.identity import Signer

_ON_REQUEST: Final = Publish | SubmitBid | CreateClaim | StartRun | FinishRun | Settle
"""Operations that a caller may request with an id."""


def denies(config: CoreConfig, replica: Replica, author: str) -> bool:
    """True if this node's policy is to make no new deals with this author."""
    return config.refuse_equivocators and replica.feeds.is_equivocator(author)


class Operating:
    """States facts as ``signer``. ``known`` returns a seed, archived or not, or raises RefusedError."""

    def __init__(
        self,
        config: CoreConfig,
        signer: Signer,
        replica: Replica,
        parts: SoftParts,
        consequences: Consequences,
        entropy: Callable[[], int],
        known: Callable[[str], Record],
    ) -> None:
        self._config = config
        self._signer = signer
        self._replica = replica
        self._parts = parts
        self._consequences = consequences
        self._entropy = entropy
        self._known = known

    def operate(self, wish: Operation, now_ms: int, effects: Effects) -> None:
        """Carry out an operation. Raises RefusedError, UsageError."""
        if isinstance(wish, ChangeTerms):
            self._change_terms(wish, now_ms, effects)
            return
        self._replica.check_open(self._signer.node_id)
        guard, suspicion = self._parts.neighbours.guard, self._parts.clock_suspicion(now_ms)
        if suspicion and not guard.at_risk:
            raise RefusedError(
                f"{suspicion}: this node signs nothing until its clock is right; set the clock, or set"
                " clock_check = false if the clock is right",
                Reason.CLOCK_SUSPECT,
            )
        if self._parts.blocked(now_ms):
            raise RefusedError(
                f"{guard.doubt}: this data dir may lack envelopes that this node has sent; run"
                " `crabnet listen` until a peer has said how far the feed goes, or use --accept-feed-risk and risk a"
                " fork, which ends the feed",
                Reason.FEED_RISK,
            )
        if isinstance(wish, FinishRun) and not self._config.talk:
            wish = build.cut_to_datagram(wish)
        if isinstance(wish, CreateClaim) and self._known(wish.seed_id).worker_failed:
            forfeit = Settle(seed_id=wish.seed_id, outcome=SeedStatus.FORFEITED, announce=wish.announce)
            self._state(forfeit, now_ms, effects)
        self._state(wish, now_ms, effects)

    def _state(self, wish: Statement, now_ms: int, effects: Effects) -> None:
        now_s = self._stamp_s(now_ms)
        record = EMPTY if isinstance(wish, Publish) else self._known(wish.seed_id)
        if not isinstance(wish, Publish) and wish.seed_id not in self._replica.state.records:
            raise RefusedError(f"{standing_of(wish.seed_id, record.progress)}, and archived", Reason.WRONG_STATE)
        me = self._signer.node_id

        def made(object_id: str) -> tuple[FactKind, Body]:
            return build.build(wish, record, object_id, me, now_s)

        if isinstance(wish, Publish) and wish.terms is not None:
            self._demand_room(wish.follows)
        denied = self._denied(record)
        applied, body, raw = self._replica.propose(self._signer, made, now_s, self._entropy(), denied)
        if isinstance(wish, _ON_REQUEST) and wish.request is not None:
            self._remember(wish.request, applied, now_s, effects)
        if isinstance(wish, Publish) and wish.terms is not None:
            self._keep(PurchaseRecord(applied.seed_id, wish.terms), effects)
        self._stated(applied, raw, wish.announce, now_ms, effects)
        if isinstance(wish, Publish) and wish.follows is not None and self._replica.purchases.get(wish.follows):
            self._keep(PurchaseRecord(wish.follows, None), effects)
        effects.reply_seed_id = applied.seed_id
        definition = self._replica.definition(applied.seed_id)
        if isinstance(wish, StartRun) and definition is not None:
            progress = self._replica.state.records[applied.seed_id].progress
            effects.reply = RunOrder(
                applied.seed_id,
                progress.claim_id or "",
                body.id,
                definition.command,
                definition.timeout_ms,
                progress.attempt,
            )
        else:
            effects.reply = None if isinstance(body, Run | Settlement | Acknowledgement) else body

    def _remember(self, tag: RequestTag, applied: Applied, now_s: int, effects: Effects) -> None:
        """Journal the request before its envelope, in the same effects.

        A crash may keep the request without its envelope. Then the request counts as not done, because its envelope is
        not held. The other order could state it twice.
        """
        envelope_id = "" if applied.meta is None else applied.meta.id
        record = RequestRecord(tag.request_id, tag.operation, tag.digest, now_s, applied.seed_id, envelope_id)
        self._replica.requests.put(record)
        effects.records.append(encode_record(record))

    def _demand_room(self, seed_id: str | None) -> None:
        """Refuse one more purchase if there is no room for it. Raises RefusedError."""
        if self._replica.purchases.full and (seed_id is None or self._replica.purchases.get(seed_id) is None):
            raise RefusedError(
                f"this node has {limits.PURCHASES_MAX} open purchases, which is the maximum; wait until some are over",
                Reason.LIMIT_EXCEEDED,
            )

    def _change_terms(self, wish: ChangeTerms, now_ms: int, effects: Effects) -> None:
        """Journal other terms of a seed. They sign nothing. Raises RefusedError."""
        record = self._replica.state.records.get(wish.seed_id, EMPTY)
        if wish.terms is not None:
            record = self._known(wish.seed_id)
            status = record.progress.status
            if record.seed is None or record.seed.author != self._signer.node_id:
                raise RefusedError(f"seed {wish.seed_id} is not a task of this node", Reason.UNAUTHORISED)
            if status in FINAL:
                raise RefusedError(f"seed {wish.seed_id} is over: {status.value}", Reason.WRONG_STATE)
            self._demand_room(wish.seed_id)
        self._keep(PurchaseRecord(wish.seed_id, wish.terms), effects)
        self._parts.watch(wish.seed_id, record, now_ms)

    def _keep(self, record: PurchaseRecord, effects: Effects) -> None:
        """Journal the terms of a purchase in the same effects as its seed. Terms without a seed have no effect."""
        self._replica.purchases.put(record)
        effects.records.append(encode_record(record))

    def _stamp_s(self, now_ms: int) -> int:
        """The time, in seconds, of a new envelope.

        It is not before the time of the last envelope, unless peers or the operator show that the earlier time was
        wrong.
        """
        now_s, last_s = now_ms // 1000, self._replica.written_until_s
        near = last_s <= now_s + self._config.policy.future_skew_s
        nobody_knows = self._config.clock_check and not self._parts.neighbours.has_peers
        return max(now_s, last_s) if near or nobody_knows else now_s

    def _denied(self, record: Record) -> frozenset[str]:
        """The parties of a seed with a forked feed, if the policy is to make no new deals with such authors."""
        feeds = self._replica.feeds
        if not self._config.refuse_equivocators or not feeds.equivocators():
            return frozenset()
        parties = {bid.author for bid in record.bids}
        if record.seed is not None:
            parties.add(record.seed.author)
        return frozenset(each for each in parties - {self._signer.node_id} if denies(self._config, self._replica, each))

    def _parties(self, seed_id: str) -> tuple[str, ...]:
        """The other nodes that wait for what this node states about a seed: its creator, and its claimed worker."""
        record = self._replica.state.records.get(seed_id, EMPTY)
        creator = "" if record.seed is None else record.seed.author
        return tuple({creator, record.progress.claimed_by or ""} - {"", self._signer.node_id})

    def _stated(self, applied: Applied, raw: bytes, announce: bool, now_ms: int, effects: Effects) -> None:
        meta = applied.meta
        if applied.record is None or meta is None:
            raise RefusedError("the operation produced no envelope", Reason.INTERNAL)
        self._consequences.persist(applied, applied.record, effects)
        fields: dict[str, FieldValue] = {
            "envelope_id": meta.id,
            "kind": meta.kind,
            "seq": meta.seq,
            "seed_id": applied.seed_id,
        }
        effects.notices.append(Notice("envelope_created", fields))
        effects.own_head = meta.seq, meta.id
        self._replica.written_until_s = meta.ts
        self._consequences.follow(applied, now_ms, effects)
        if announce:
            effects.sends.append(Send(raw, meta.kind, meta.id, concerns=self._parties(applied.seed_id)))
        with self._replica.mending.soft:
            self._parts.neighbours.changed(meta.from_)
