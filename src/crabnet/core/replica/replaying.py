"""Replay: applies journal records again without judging."""

from __future__ import annotations

from crabnet.core.replica.held import HeldRow, Role
from crabnet.core.replica.holdings import Holdings
from crabnet.core.replica.records import (
    ArchiveRecord,
    EnvelopeRecord,
    FactRecord,
    ForkRecord,
    PurchaseRecord,
    Record,
    RefoldRecord,
    RequestRecord,
    SettledRecord,
    envelope_of,
    event_of_row,
    fact_of_row,
    held_row,
    record_fact,
)
from crabnet.core.replica.settling import Settling
from crabnet.domain.state import apply
from crabnet.protocol.admission import seen_key
from crabnet.protocol.envelope import Envelope, EnvelopeMeta


def replay(holdings: Holdings, settling: Settling, record: Record) -> EnvelopeMeta | None:  # noqa: C901 - one case a kind
    """Apply a journal record again without judging. Returns the ``meta`` of its envelope, or None if it has none.

    Raises DataDirDamagedError.
    """
    if isinstance(record, SettledRecord):
        holdings.feeds.settle(record.author, record.end)
        return None
    if isinstance(record, RequestRecord):
        holdings.requests.put(record)
        return None
    if isinstance(record, PurchaseRecord):
        holdings.purchases.put(record)
        return None
    holdings.written_until_s = record.at_s
    if isinstance(record, ArchiveRecord):
        holdings.archived.archive(record.segment, record.seed_ids)
        return None
    if isinstance(record, FactRecord):
        holdings.arrivals += 1
        for row in record.events:
            apply(holdings.state, event_of_row(row, fact_of_row(record.fact)))
        return None
    if isinstance(record, RefoldRecord):
        for raw in record.readmitted:
            holdings.archived.readmit_row(bytes(raw))
        for row in record.events:
            apply(holdings.state, event_of_row(row, None))
            settling.unfolded[row.seed_id] = None
        for seed_id in record.done:
            settling.unfolded.pop(seed_id, None)
        return None
    envelope = envelope_of(record)
    meta = envelope.meta
    if isinstance(record, ForkRecord):
        holdings.held.add(HeldRow(meta.from_, meta.seq, meta.id), envelope.raw)
        if record.head_id is not None:
            holdings.feeds.end_at(meta.from_, meta.seq, record.head_id)
        return meta
    _replay_envelope(holdings, settling, record, envelope)
    return meta


def _replay_envelope(holdings: Holdings, settling: Settling, record: EnvelopeRecord, envelope: Envelope) -> None:
    meta = envelope.meta
    fact = None if record.role is Role.NOTHING else record_fact(record, envelope)
    for raw in record.readmitted:
        holdings.archived.readmit_row(bytes(raw))
    for row in record.events:
        apply(holdings.state, event_of_row(row, fact))
    if record.pins and fact is not None:
        settling.unfolded[fact.seed_id] = None
    holdings.seen.add(seen_key(meta), record.at_s)
    if meta.v is None:
        holdings.arrivals += 1
        return
    holdings.held.add(held_row(record, envelope, fact), envelope.raw)
    if not record.behind:
        holdings.enter(meta, fact, record.outcome)
