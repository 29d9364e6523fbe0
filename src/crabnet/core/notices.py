"""The notices for the operator about decisions: one function for each kind. docs/EVENTS.md describes the events."""

from __future__ import annotations

from typing import Final

from crabnet import limits
from crabnet.core.budgets.sources import Block
from crabnet.core.commands import Misbehaved
from crabnet.core.effects import FieldValue, Notice
from crabnet.core.replica.applied import Applied, Change, Fork
from crabnet.core.replica.parking import Parked
from crabnet.domain.model import Bid, Claim
from crabnet.domain.record import Record
from crabnet.domain.state import Outcome
from crabnet.errors import CrabnetError, Reason
from crabnet.protocol.admission import refusal
from crabnet.protocol.envelope import EnvelopeMeta
from crabnet.protocol.payloads import PayloadRefusedError


def applied_notice(item: Applied, source: str) -> Notice:
    """The decision on one envelope."""
    meta = item.meta
    fields: dict[str, FieldValue] = {"address": source}
    if item.seed_id:
        fields["seed_id"] = item.seed_id
    if meta is not None:
        fields["envelope_id"] = meta.id
        fields["author"] = meta.from_
        fields["kind"] = meta.kind
        fields["seq"] = meta.seq
    if item.outcome is Outcome.ACCEPTED:
        return Notice("envelope_accepted", fields)
    fields["reason"] = item.reason.value if item.reason is not None else None
    if item.parked:
        return Notice("envelope_parked", fields)
    if item.outcome is Outcome.REJECTED:
        fields["detail"] = item.detail[: limits.EVENT_DETAIL_CHARS]
    return Notice(f"envelope_{item.outcome.value}", fields)


def talk_refused_notice(meta: EnvelopeMeta, source: str, error: PayloadRefusedError) -> Notice:
    """The payload of a message that belongs to no feed is malformed or not allowed."""
    fields: dict[str, FieldValue] = {
        "address": source,
        "envelope_id": meta.id,
        "author": meta.from_,
        "kind": meta.kind,
        "reason": error.reason.value,
        "detail": error.detail[: limits.EVENT_DETAIL_CHARS],
    }
    return Notice("envelope_rejected", fields)


def fork_notice(fork: Fork, source: str) -> Notice:
    """An author signed two envelopes for one place."""
    fields: dict[str, FieldValue] = {
        "author": fork.author,
        "seq": fork.seq,
        "envelope_id": fork.envelope_id,
        "other_id": fork.other_id,
        "address": source,
    }
    return Notice("fork_detected", fields)


def ended_notice(fork: Fork) -> Notice:
    """The feed of this node has ended."""
    fields: dict[str, FieldValue] = {
        "seq": fork.seq,
        "envelope_id": fork.envelope_id,
        "other_id": fork.other_id,
        "reason": Reason.FEED_ENDED.value,
        "detail": "this key signed two envelopes for one place; this node writes nothing more until `crabnet id renew`",
    }
    return Notice("feed_ended", fields)


def proof_notice(source: str, reason: Reason, detail: str, author: str = "") -> Notice:
    """A document was refused as a fork proof."""
    refused = refusal(reason)
    fields: dict[str, FieldValue] = {"address": source, "kind": "ForkProof", "reason": reason.value}
    if author:
        fields["author"] = author
    if refused.outcome is Outcome.REJECTED:
        fields["detail"] = detail[: limits.EVENT_DETAIL_CHARS]
    return Notice(f"envelope_{refused.outcome.value}", fields)


def change_notice(change: Change, record: Record, envelope_id: str, node_id: str, *, auto: bool = False) -> Notice:
    """A seed changed its status, or its run was renewed. ``record`` is what is known of it now.

    The first notice of a seed has its title. Notices about work of the node ``node_id`` name the bid that was chosen.
    ``auto``: that node goes on with the seed by itself.
    """
    before, after = change.before, change.after
    if before is not None and after.renewals > before.renewals and after.run_id == before.run_id:
        renewed: dict[str, FieldValue] = {
            "seed_id": change.seed_id,
            "claim_id": after.claim_id,
            "run_id": after.run_id,
            "worker": after.claimed_by,
            "attempt": after.attempt,
            "count": after.renewals,
        }
        return Notice("run_renewed", renewed)
    fields: dict[str, FieldValue] = {
        "seed_id": change.seed_id,
        "status": after.status.value,
        "status_before": None if before is None else before.status.value,
        "attempt": after.attempt,
        "worker": after.claimed_by,
        "claim_id": after.claim_id,
        "result_id": after.result_id,
        "envelope_id": envelope_id,
    }
    if record.seed is not None:
        fields["author"] = record.seed.author
    definition = record.definition
    if before is None and definition is not None:
        fields["title"] = definition.title[: limits.EVENT_DETAIL_CHARS]
    if after.claimed_by == node_id:
        fields |= _won(record)
    if auto:
        fields["auto"] = True
    return Notice("seed_changed", fields)


def _won(record: Record) -> dict[str, FieldValue]:
    """The bid that the current claim has chosen."""
    claim = record.claim
    if claim is None or not isinstance(claim.body, Claim):
        return {}
    bids = (fact.body for fact in record.bids if fact.key == claim.body.bid_id)
    price = next((bid.price for bid in bids if isinstance(bid, Bid)), None)
    return {"bid_id": claim.body.bid_id, "price": price}


def given_up_notice(parked: Parked, reason: Reason) -> Notice:
    """A parked envelope was dropped."""
    meta = parked.admitted.envelope.meta
    fields: dict[str, FieldValue] = {
        "envelope_id": meta.id,
        "author": meta.from_,
        "kind": meta.kind,
        "seq": meta.seq,
        "address": parked.source,
        "reason": reason.value,
    }
    return Notice("envelope_dropped", fields)


def drop_notice(source: str, reason: Reason, count: int) -> Notice:
    """Datagrams of a source were dropped unread."""
    fields: dict[str, FieldValue] = {"address": source, "reason": reason.value, "direction": "in", "count": count}
    return Notice("datagram_dropped", fields)


_UNREAD: Final = frozenset({Reason.MISUSE, Reason.RATE_LIMITED, Reason.LIMIT_EXCEEDED, Reason.QUEUE_FULL})
"""Reasons for which a libp2p process does not look at what a peer sends."""


def misbehaved_notice(given: Misbehaved) -> Notice:
    """A libp2p process refused what a peer sent. The kinds of events are those for datagrams."""
    fields: dict[str, FieldValue] = {"address": given.source, "reason": given.reason.value, "count": given.count}
    if given.reason in _UNREAD:
        return Notice("datagram_dropped", {**fields, "transport": "p2p", "bytes": given.size_bytes, "direction": "in"})
    if not given.hostile:
        return Notice("envelope_ignored", fields)
    fields["detail"] = given.detail[: limits.EVENT_DETAIL_CHARS]
    if given.size_bytes:
        return Notice("envelope_rejected", fields)
    return Notice("datagram_received_bad", {**fields, "transport": "p2p"})


class Trifles:
    """Messages that are smaller than an event about one of them.

    After the first ones they are reported together. So the node writes at most a few times the bytes that it receives.
    """

    def __init__(self) -> None:
        self._alone = limits.TRIFLES_TOLD_ALONE
        self._count = 0
        self._bytes = 0

    def crowded(self) -> bool:
        """False for the first messages, which are handled and reported like any other."""
        if not self._alone:
            return True
        self._alone -= 1
        return False

    def add(self, source: str, size_bytes: int) -> list[Notice]:
        """Count one more message. If a report is due, return it: the number of messages and the source of the last."""
        self._count += 1
        self._bytes += size_bytes
        if self._bytes < limits.TOLD_BYTES_MIN:
            return []
        fields: dict[str, FieldValue] = {
            "address": source,
            "reason": Reason.MALFORMED.value,
            "bytes": self._bytes,
            "count": self._count,
        }
        self._count = self._bytes = 0
        return [Notice("datagram_received_bad", fields)]


def quarantined_notice(source: str) -> Notice:
    """A message arrived on which this node has failed before. The node did not read it."""
    return Notice("envelope_ignored", {"address": source, "reason": Reason.QUARANTINED.value})


def blocked_notice(block: Block) -> Notice:
    """A source sent too many messages, or too many broken ones. The node ignores it for a while."""
    fields: dict[str, FieldValue] = {
        "address": block.source,
        "reason": block.reason.value,
        "duration_ms": block.duration_ms,
    }
    return Notice("source_blocked", fields)


def refused_notice(operation: str, error: CrabnetError) -> Notice:
    """An operation that the node started by itself was refused."""
    fields: dict[str, FieldValue] = {
        "operation": operation,
        "reason": error.reason.value,
        "detail": error.message[: limits.EVENT_DETAIL_CHARS],
    }
    return Notice("command_refused", fields)
