"""Converts payloads of feed envelopes to facts, and facts to payloads (docs/PROTOCOL.md, section 8)."""

from __future__ import annotations

from sys import intern
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from crabnet import limits
from crabnet.domain.model import (
    Acknowledgement,
    Bid,
    Body,
    Claim,
    EnvelopeId,
    Fact,
    FactKind,
    Id,
    Progress,
    Run,
    Seed,
    SeedStatus,
    Settlement,
    TaskResult,
    is_envelope_id,
)
from crabnet.errors import Reason
from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.protocol.envelope import Envelope, Kind, object_id

T = TypeVar("T")
SETTLE_KINDS: Final = {
    SeedStatus.ACCEPTED: FactKind.SETTLE,
    SeedStatus.REJECTED: FactKind.SETTLE,
    SeedStatus.FORFEITED: FactKind.FORFEIT,
    SeedStatus.EXPIRED: FactKind.CLOSE,
}


class SettledSeed(Struct, frozen=True, gc=False):
    """The part of the seed in a ``TaskSettle`` that settles it.

    The other fields of that seed repeat the definition for baseline readers.
    """

    id: Id
    status: SeedStatus
    claim_id: Id | None = None
    result_id: Id | None = None
    attempt: Annotated[int, Meta(ge=1, le=limits.ATTEMPTS_MAX)] = 1
    note: Annotated[str, Meta(max_length=limits.RULES_CHARS_MAX)] = ""
    rules: Annotated[str, Meta(max_length=limits.RULES_CHARS_MAX)] = ""
    rests_on: EnvelopeId | None = None


Stated = Seed | Bid | Claim | Run | TaskResult | Acknowledgement
BODIES: Final[dict[Kind, tuple[str, FactKind, type[Stated]]]] = {
    Kind.SEED_CREATED: ("seed", FactKind.SEED, Seed),
    Kind.BID_SUBMITTED: ("bid", FactKind.BID, Bid),
    Kind.CLAIM_CREATED: ("claim", FactKind.CLAIM, Claim),
    Kind.TASK_STARTED: ("run", FactKind.STARTED, Run),
    Kind.TASK_RESULT: ("result", FactKind.RESULT, TaskResult),
    Kind.SETTLE_ACKNOWLEDGED: ("acknowledgement", FactKind.ACKNOWLEDGED, Acknowledgement),
}
"""Envelope kind -> payload key, kind of fact, and type of the object there."""


class PayloadRefusedError(ValueError):
    """The payload does not meet the rules of its kind. ``detail`` says why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(detail)


def stated(envelope: Envelope, key: str) -> JsonValue:
    """The object in a payload, without null fields: null is the same as absent."""
    value = envelope.payload.get(key)
    return _without_nulls(value) if b"null" in envelope.raw else value


def _read(envelope: Envelope, key: str, body_type: type[T]) -> T:
    """``stated`` as an object of a type.

    Where the type allows null, null means absent anyway. So nulls are removed only if the conversion fails with them.
    """
    try:
        return msgspec.convert(envelope.payload.get(key), body_type)
    except msgspec.ValidationError:
        return msgspec.convert(stated(envelope, key), body_type)


def _without_nulls(value: JsonValue) -> JsonValue:
    if not isinstance(value, dict):
        return value
    return {
        name: _without_nulls(item) if isinstance(item, dict) else item
        for name, item in value.items()
        if item is not None
    }


def speaker(body: Stated) -> str | None:
    """The only node that may make this object, or None if the object does not name it."""
    if isinstance(body, Bid):
        return body.bidder
    if isinstance(body, Seed):
        return body.created_by
    return None if isinstance(body, Claim) else body.worker


def fact_of(envelope: Envelope, kind: Kind) -> Fact:
    """The fact that a signed envelope states. Raises ``PayloadRefusedError``."""
    meta = envelope.meta
    expected = object_id(meta.ns, meta.from_, meta.seq)
    try:
        if kind is Kind.TASK_SETTLE:
            settled = _read(envelope, "seed", SettledSeed)
            _check_rests_on(settled.rests_on, kind, "seed")
            return settlement_fact(settled, expected, author=meta.from_, seq=meta.seq, ts=meta.ts, envelope_id=meta.id)
        key, fact_kind, body_type = BODIES[kind]
        body = _read(envelope, key, body_type)
    except msgspec.ValidationError as error:
        raise PayloadRefusedError(Reason.MALFORMED, f"payload of {kind}: {error}") from error
    named = speaker(body)
    if named is not None and named != meta.from_:
        raise PayloadRefusedError(Reason.UNAUTHORISED, f"{kind} of {meta.from_} speaks for {named}")
    if body.id != expected:
        raise PayloadRefusedError(Reason.WRONG_ID, f"{key}.id is {body.id}, this envelope can only create {expected}")
    if body.created_at != meta.ts:
        raise PayloadRefusedError(Reason.MALFORMED, f"{key}.created_at differs from meta.ts")
    if isinstance(body, TaskResult) and (body.claim_id is None or not body.seed_id):
        raise PayloadRefusedError(Reason.MALFORMED, "the result names no claim or no seed")
    if not isinstance(body, Seed):
        _check_rests_on(body.rests_on, kind, key)
    return Fact(kind=fact_kind, author=intern(meta.from_), seq=meta.seq, ts=meta.ts, body=body, envelope=meta.id)


def _check_rests_on(envelope_id: str | None, kind: Kind, key: str) -> None:
    if envelope_id is None:
        raise PayloadRefusedError(Reason.MALFORMED, f"payload of {kind}: {key}.rests_on is missing")
    if envelope_id and not is_envelope_id(envelope_id):
        raise PayloadRefusedError(Reason.MALFORMED, f"payload of {kind}: {key}.rests_on is not an envelope id")


def settlement_fact(
    settled: SettledSeed,
    settlement_id: str,
    *,
    author: str,
    seq: int,
    ts: int,
    signed: bool = True,
    envelope_id: str = "",
) -> Fact:
    """The fact that a ``TaskSettle`` states. Raises ``PayloadRefusedError`` for a status that does not settle."""
    kind = SETTLE_KINDS.get(settled.status)
    if kind is None:
        raise PayloadRefusedError(Reason.MALFORMED, f"status {settled.status.value} does not settle a seed")
    body = Settlement(
        id=settlement_id,
        seed_id=settled.id,
        outcome=settled.status,
        claim_id=settled.claim_id,
        result_id=settled.result_id,
        attempt=settled.attempt,
        note=settled.note,
        created_at=ts,
        rests_on=settled.rests_on,
    )
    return Fact(kind=kind, author=intern(author), seq=seq, ts=ts, body=body, signed=signed, envelope=envelope_id)


def wire_seed(seed: Seed, progress: Progress) -> JsonObject:
    """A seed as JSON, with all fields of the baseline and of version 2."""
    wire: JsonObject = {**msgspec.structs.asdict(seed), "acceptance": msgspec.to_builtins(seed.acceptance)}
    wire.update(
        status=progress.status.value,
        claimed_by=progress.claimed_by,
        claimed_at=progress.claimed_at,
        claim_id=progress.claim_id,
        result_id=progress.result_id,
    )
    return wire


def payload_of(body: Body, definition: Seed | None, progress: Progress) -> tuple[Kind, JsonObject]:
    """The envelope kind and payload that state ``body``.

    A settlement needs the definition and the present progress. Raises ValueError if it has no definition.
    """
    if isinstance(body, Settlement):
        if definition is None:
            raise ValueError("a settlement needs the definition of its seed")
        seed = wire_seed(definition, progress)
        seed.update(
            status=body.outcome.value,
            claim_id=body.claim_id,
            result_id=body.result_id,
            attempt=body.attempt,
            note=body.note,
            rests_on=body.rests_on,
        )
        return Kind.TASK_SETTLE, {"seed": seed}
    if isinstance(body, Seed):
        return Kind.SEED_CREATED, {"seed": wire_seed(body, Progress())}
    kind = next(kind for kind, (_, _, body_type) in BODIES.items() if isinstance(body, body_type))
    wire: JsonObject = msgspec.to_builtins(msgspec.structs.asdict(body), str_keys=True)
    return kind, {BODIES[kind][0]: wire}
