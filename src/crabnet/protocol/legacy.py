"""Envelopes of the baseline: unsigned, without feeds, with incomplete payloads (docs/PROTOCOL.md, section 13).

A node accepts them only with ``require_signatures = false``. Their facts count in the order of arrival at this node. So
nodes that accept them agree on signed seeds, but not necessarily on unsigned ones.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping

import msgspec

from crabnet.domain.model import Claim, Fact, Progress, SeedStatus, TaskResult
from crabnet.domain.record import Record
from crabnet.errors import Reason
from crabnet.protocol.envelope import Envelope, Kind
from crabnet.protocol.identity import looks_self_certifying
from crabnet.protocol.payloads import BODIES, PayloadRefusedError, SettledSeed, settlement_fact, speaker, stated

_ENVELOPE_ID = re.compile("[0-9a-f]{64}")
_AWAITING = frozenset({SeedStatus.CLAIMED, SeedStatus.RUNNING})


def legacy_fact(envelope: Envelope, kind: Kind, records: Mapping[str, Record], arrival: int) -> Fact:
    """The fact that a baseline envelope states. ``arrival`` serves as ``seq``. Raises ``PayloadRefusedError``."""
    author = envelope.meta.from_
    check_unsigned(author, "")
    try:
        if kind is Kind.TASK_SETTLE:
            return _settlement(envelope, records, arrival)
        key, fact_kind, body_type = BODIES[kind]
        body = msgspec.convert(stated(envelope, key), body_type)
    except msgspec.ValidationError as error:
        raise PayloadRefusedError(Reason.MALFORMED, f"payload of {kind}: {error}") from error
    check_unsigned(author, body.id)
    if isinstance(body, TaskResult):
        body = _linked(body, author, records)
    named = speaker(body)
    if named is not None and named != author:
        raise PayloadRefusedError(Reason.UNAUTHORISED, f"{kind} of {author} speaks for {named}")
    if isinstance(body, Claim):
        progress = _progress(records, body.seed_id)
        body = msgspec.structs.replace(body, attempt=progress.attempt + (progress.status is SeedStatus.FORFEITED))
    return Fact(kind=fact_kind, author=author, seq=arrival, ts=envelope.meta.ts, body=body, signed=False)


def check_unsigned(author: str, object_id: str) -> None:
    """Refuse an author or object id that only signed envelopes may have. Raises ``PayloadRefusedError``."""
    if looks_self_certifying(author):
        raise PayloadRefusedError(Reason.UNAUTHORISED, f"an unsigned envelope cannot speak for {author}")
    if _reserved(object_id):
        raise PayloadRefusedError(
            Reason.WRONG_ID, f"an unsigned envelope cannot create {object_id}: only signed ones have ids of this form"
        )


def _reserved(object_id: str) -> bool:
    if _ENVELOPE_ID.fullmatch(object_id):
        return True
    try:
        return uuid.UUID(object_id).version == 5
    except ValueError:
        return False


def _progress(records: Mapping[str, Record], seed_id: str) -> Progress:
    record = records.get(seed_id)
    return Progress() if record is None else record.progress


def _linked(result: TaskResult, author: str, records: Mapping[str, Record]) -> TaskResult:
    """Link a baseline result to its claim, seed and worker where that is unambiguous.

    Baseline results name no claim, and often no seed and no worker.
    """
    seed_id = result.seed_id
    if not seed_id:
        awaiting = [
            known
            for known, record in records.items()
            if record.progress.claimed_by == author and record.progress.status in _AWAITING
        ]
        if len(awaiting) != 1:
            raise PayloadRefusedError(
                Reason.AMBIGUOUS, f"the result names no seed, and {len(awaiting)} seeds await a result from {author}"
            )
        seed_id = awaiting[0]
    record = records.get(seed_id)
    if record is None:
        raise PayloadRefusedError(Reason.UNKNOWN_SEED, f"the result is of an unknown seed {seed_id}")
    if record.progress.claim_id is None:
        raise PayloadRefusedError(Reason.WRONG_STATE, f"the result is of seed {seed_id}, which has no claim")
    return msgspec.structs.replace(
        result, seed_id=seed_id, worker=result.worker or author, claim_id=record.progress.claim_id
    )


def _settlement(envelope: Envelope, records: Mapping[str, Record], arrival: int) -> Fact:
    settled = msgspec.convert(stated(envelope, "seed"), SettledSeed)
    if settled.status not in {SeedStatus.ACCEPTED, SeedStatus.REJECTED}:
        raise PayloadRefusedError(Reason.MALFORMED, f"baseline peers do not settle as {settled.status.value}")
    record = records.get(settled.id)
    if record is None or record.definition is None:
        raise PayloadRefusedError(Reason.UNKNOWN_SEED, f"the settlement is of an unknown seed {settled.id}")
    progress = record.progress
    settled = msgspec.structs.replace(
        settled,
        claim_id=progress.claim_id,
        result_id=progress.result_id,
        attempt=progress.attempt,
        note="" if settled.rules == record.definition.rules else settled.rules,
    )
    return settlement_fact(
        settled,
        f"settle:{envelope.meta.id}",
        author=envelope.meta.from_,
        seq=arrival,
        ts=envelope.meta.ts,
        signed=False,
    )
