"""Imports data that the operator supplies: envelopes, facts of a baseline, proofs of forks. Envelopes are verified like
those from the network, except that they may be old.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
import trio
from msgspec import Struct

from crabnet import limits
from crabnet.core.commands import Received
from crabnet.core.consequences import IMPORTED
from crabnet.core.effects import Effects, Notice
from crabnet.core.replica.records import BODY_TYPES, Via
from crabnet.domain.model import Body, Fact, FactKind
from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.node.node import Node
from crabnet.operations.info import Imported, UnsignedFact
from crabnet.protocol.admission import refusal
from crabnet.protocol.fork_proof import ProofRefusedError, verify_proof

SOURCE: Final = IMPORTED
_FACTS: Final = frozenset({FactKind.SEED, FactKind.BID, FactKind.CLAIM, FactKind.RESULT, FactKind.SETTLE})
_ACCEPTED: Final = "envelope_accepted"
_PARKED: Final = "envelope_parked"
_COUNTED: Final = {
    "envelope_ignored": "ignored",
    _PARKED: "ignored",
    "envelope_rejected": "rejected",
}


class _Meta(Struct, gc=False):
    v: int | None = None
    seq: int = 0


class _Envelope(Struct, gc=False):
    meta: _Meta


_decode: Final = msgspec.json.Decoder(_Envelope).decode


def fact_of(unsigned: UnsignedFact) -> Fact | None:
    """The fact of an entry; None if the body does not fit its kind."""
    try:
        body: Body = msgspec.convert(unsigned.body, BODY_TYPES[unsigned.kind])
    except msgspec.ValidationError:
        return None
    return Fact(kind=unsigned.kind, author=unsigned.author, seq=0, ts=unsigned.ts, body=body, signed=False)


async def import_entries(
    node: Node, envelopes: Iterable[bytes], facts: Iterable[UnsignedFact], proofs: Iterable[bytes] = ()
) -> Imported:
    """Import envelopes, facts and proofs. Returns the number of accepted ones, and of ignored and rejected ones by
    Reason. The import is durable when this returns.

    Raises StorageFailedError.
    """
    accepted = 0
    refused: dict[str, Counter[str]] = {"ignored": Counter(), "rejected": Counter()}
    effects = Effects()
    early: list[bytes] = []
    items: list[bytes | UnsignedFact] = [*envelopes, *facts]
    for number, (item, again) in enumerate(_in_two_rounds(items, early), 1):
        told = len(effects.notices)
        if not _hand_over(node, item, effects):
            refused["rejected"][Reason.MALFORMED.value] += 1
        refused["ignored"][Reason.FROM_THE_FUTURE.value] -= again
        judged = [each for each in effects.notices[told:] if each.kind == _ACCEPTED or each.kind in _COUNTED]
        for at, notice in enumerate(judged):
            accepted += _count(notice, refused, node.imports_waiting, brought=at == 0)
        if isinstance(item, bytes) and not again and judged and _is_early(judged[0]):
            early.append(item)
        if number % limits.IMPORT_SLICE == 0:
            node.committer.enqueue(effects)
            effects = Effects()
            await trio.lowlevel.checkpoint()
            await node.committer.room()
    node.imports_waiting = {
        envelope_id: reason
        for envelope_id, reason in node.imports_waiting.items()
        if node.core.replica.parking.holds(envelope_id)
    }
    for document in proofs:
        reason = _learn(node, document, effects)
        accepted += reason is None
        if reason is not None:
            harmless = refusal(reason).outcome is Outcome.IGNORED or reason is Reason.UNAVAILABLE
            refused["ignored" if harmless else "rejected"][reason.value] += 1
    with trio.CancelScope(shield=True):
        await node.remember_feed_risk()
        await node.committer.submit(effects)
        await node.settle_ends()
    counts = {name: {reason: n for reason, n in sorted(by.items()) if n} for name, by in refused.items()}
    return Imported(accepted=accepted, **counts)


def _in_two_rounds(
    items: Iterable[bytes | UnsignedFact], early: list[bytes]
) -> Iterator[tuple[bytes | UnsignedFact, bool]]:
    """All items, then again those dated ahead, last first, because later envelopes of their feed may be parked by then.

    The bool is true in the second round.
    """
    for item in items:
        yield item, False
    for raw in reversed(early):
        yield raw, True


def _is_early(notice: Notice) -> bool:
    return notice.fields.get("reason") == Reason.FROM_THE_FUTURE.value


def _hand_over(node: Node, item: bytes | UnsignedFact, effects: Effects) -> bool:
    """Pass an entry to the core. False if it does not belong in an import."""
    if isinstance(item, bytes):
        if _is_talk(item):
            return False
        node.core.handle(Received(SOURCE, item, Via.IMPORT), node.clock_ms(), effects)
        return True
    fact = fact_of(item)
    if fact is None or fact.kind not in _FACTS:
        return False
    node.core.import_fact(fact, node.clock_ms(), effects)
    return True


def _learn(node: Node, document: bytes, effects: Effects) -> Reason | None:
    """Verify a proof of a fork and end the feed. Returns the Reason if that was not done, None if it was."""
    try:
        evidence = verify_proof(document, node.core.replica.admission)
    except ProofRefusedError as error:
        return error.reason
    return node.core.learn_fork(evidence, SOURCE, node.clock_ms(), effects)


def _is_talk(raw: bytes) -> bool:
    """Whether it is a message between neighbours. Such a message does not belong in an export."""
    try:
        meta = _decode(raw).meta
    except msgspec.MsgspecError:
        return False
    return meta.v is not None and meta.seq == 0


def _count(notice: Notice, refused: dict[str, Counter[str]], waiting: dict[str, str], *, brought: bool) -> int:
    """Count the outcome of an envelope. Returns 1 if it was accepted, else 0.

    The envelope was either ``brought`` by this import, or parked in an import and released by this one. A parked
    envelope was counted as ignored when it was brought; that count is taken back.
    """
    envelope_id = str(notice.fields.get("envelope_id"))
    if not brought:
        before = waiting.pop(envelope_id, None)
        if before is None:
            return 0
        refused["ignored"][before] -= 1
    if notice.kind == _ACCEPTED:
        return 1
    reason = str(notice.fields.get("reason"))
    refused[_COUNTED[notice.kind]][reason] += 1
    if notice.kind == _PARKED:
        waiting[envelope_id] = reason
    return 0
