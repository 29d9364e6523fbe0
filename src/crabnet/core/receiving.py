"""Handling of received messages: envelopes of feeds, messages between neighbours, and fork proofs."""

from __future__ import annotations

from typing import Final

from crabnet.core.commands import Received
from crabnet.core.consequences import Consequences
from crabnet.core.declining import Declining
from crabnet.core.effects import Effects
from crabnet.core.notices import given_up_notice, proof_notice
from crabnet.core.replica.applied import Applied
from crabnet.core.replica.records import Via
from crabnet.core.replica.replica import Replica
from crabnet.core.soft_parts import SoftParts
from crabnet.domain.state import Outcome
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason
from crabnet.protocol.admission import Admitted, nobody_muted
from crabnet.protocol.envelope import EnvelopeMeta, Kind
from crabnet.protocol.fork_proof import PROOF_START, ForkEvidence, ProofRefusedError, place_of, verify_proof
from crabnet.protocol.sync import ForkMark

_NOT_THE_SOURCE: Final = frozenset({Reason.FORK, Reason.LIMIT_EXCEEDED})
"""Reasons of rejects that honest neighbours can cause by passing on what they hold."""
_AHEAD: Final = frozenset({Reason.GAP, Reason.BROKEN_CHAIN, Reason.PARKING_FULL})


def _anything(_: EnvelopeMeta) -> bool:
    return True


class Receiving:
    """Takes messages for ``replica``, on the terms of the soft parts."""

    def __init__(self, replica: Replica, parts: SoftParts, consequences: Consequences, declining: Declining) -> None:
        self._replica = replica
        self._parts = parts
        self._consequences = consequences
        self._declining = declining
        self._soft = replica.mending.soft

    def received(self, received: Received, now_ms: int, effects: Effects) -> None:
        """Take one message. Raises ReplicaFailedError."""
        if received.data.startswith(PROOF_START):
            self._proof_received(received, now_ms, effects)
            return
        source = received.source
        now_s = now_ms // 1000
        imported = received.via is Via.IMPORT
        parts = self._parts
        terms = parts.terms(source, now_ms)
        proven = terms.proven
        applied = self._replica.receive(
            received.data,
            now_s,
            via=received.via,
            source=source,
            wanted=_anything if imported else parts.wanted,
            muted=nobody_muted if imported else terms.muted,
            pays=None if imported else terms.pays,
        )
        self._consequences.hand_over(applied, effects)
        first = applied[0]
        if first.admitted is not None and first.record is None and first.outcome is Outcome.ACCEPTED:
            self._talk(first.admitted, source, now_ms, effects, proven=proven)
            return
        if not imported:
            self._hold_to_account(first, source, now_ms, effects, proven=proven)
        meta = first.meta
        asked_for = meta is not None and parts.asked_for(meta)
        for item in applied:
            self._consequences.report(item, source, now_ms, effects, fetched=asked_for and not imported)
        with self._soft:
            for item in () if asked_for or imported else applied:
                if not self._parts.neighbours.asked_for(item):
                    self._parts.neighbours.pass_on(item, source, now_ms, effects)
            for parked in self._replica.parking.take_evicted():
                effects.notices.append(given_up_notice(parked, Reason.PARKING_FULL))
            if imported:
                return
            if first.record is None and first.reason is not None:
                self._parts.neighbours.refused(first, source, now_ms, effects)
            if meta is not None and meta.v is not None:
                self._consider(first, meta, source, now_ms, effects, asked_for=asked_for)
            elif first.record is not None:
                self._parts.neighbours.noticed(source, now_ms)

    def _consider(
        self, first: Applied, meta: EnvelopeMeta, source: str, now_ms: int, effects: Effects, *, asked_for: bool
    ) -> None:
        """Learn from an envelope about the neighbour that sent it, and what the node may request from it."""
        if first.outcome is Outcome.REJECTED:
            return
        if first.reason is Reason.DUPLICATE and not asked_for:
            self._parts.neighbours.repeated(meta, source, now_ms)
        over_budget = first.reason is Reason.AUTHOR_LIMITED and first.admitted is not None
        if over_budget or first.reason in _AHEAD:
            self._parts.neighbours.gap(meta, first.reason, source, now_ms, effects)
        if first.record is not None or first.parked:
            self._parts.neighbours.heard(source, now_ms, effects)

    def _talk(self, admitted: Admitted, source: str, now_ms: int, effects: Effects, *, proven: bool) -> None:
        with self._soft:
            takes = self._declining.received if admitted.kind is Kind.BID_DECLINED else self._parts.neighbours.talk
            if takes(admitted, source, now_ms, effects):
                self._parts.praise(source, proven=proven)
            else:
                self._parts.blame(source, now_ms, effects)

    def _proof_received(self, received: Received, now_ms: int, effects: Effects) -> None:
        """Handle a fork proof. The node does not verify a proof that it did not request."""
        source = received.source
        if not self._parts.awaits_proofs():
            effects.notices.append(proof_notice(source, Reason.UNSOLICITED, "this node did not request a fork proof"))
            return
        try:
            author, seq = place_of(received.data, self._replica.admission)
            if not self._parts.awaits_proof(ForkMark(author, seq)):
                detail = f"this node did not request proof of a fork at seq {seq}"
                effects.notices.append(proof_notice(source, Reason.UNSOLICITED, detail, author))
                return
            evidence = verify_proof(received.data, self._replica.admission)
        except ProofRefusedError as error:
            effects.notices.append(proof_notice(source, error.reason, error.detail))
            self._parts.blame(source, now_ms, effects)
            return
        self.learn_fork(evidence, source, now_ms, effects)

    def learn_fork(self, evidence: ForkEvidence, source: str, now_ms: int, effects: Effects) -> Reason | None:
        """Accept a verified proof. Returns None, or the Reason why it was not accepted. Raises ReplicaFailedError."""
        try:
            learned = self._replica.learn_fork(evidence, now_ms // 1000, source)
        except CrabnetError as error:  # stored data cannot be read at the moment: the proof must come again
            if self._replica.mending.boundary.is_open or isinstance(error, DataDirDamagedError):
                raise
            effects.notices.append(proof_notice(source, Reason.UNAVAILABLE, error.message, evidence.meta.from_))
            return Reason.UNAVAILABLE
        self._consequences.hand_over(learned, effects)
        for item in learned:
            self._consequences.report(item, source, now_ms, effects)
        return None if learned else Reason.DUPLICATE

    def _hold_to_account(self, item: Applied, source: str, now_ms: int, effects: Effects, *, proven: bool) -> None:
        """Count a message for or against its source.

        An envelope with a place in a feed is not counted against the source, because honest nodes pass it on as well.
        """
        if item.outcome is Outcome.ACCEPTED:
            self._parts.praise(source, proven=proven)
        elif item.outcome is Outcome.REJECTED and item.record is None and item.reason not in _NOT_THE_SOURCE:
            self._parts.blame(source, now_ms, effects)
