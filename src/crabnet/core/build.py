"""Builds the objects that state the operator's operations."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from crabnet import limits
from crabnet.core.commands import (
    Acknowledge,
    CreateClaim,
    FinishRun,
    Publish,
    RenewRun,
    Settle,
    StartRun,
    Statement,
    SubmitBid,
)
from crabnet.core.deadlines import why_failed
from crabnet.domain.lifecycle import CLAIM_HOLDS
from crabnet.domain.model import (
    Acknowledgement,
    Bid,
    Body,
    Claim,
    Fact,
    FactKind,
    Run,
    Seed,
    SeedStatus,
    Settlement,
    TaskResult,
)
from crabnet.domain.record import Record
from crabnet.domain.wording import node, standing_of
from crabnet.errors import Reason, RefusedError, UsageError
from crabnet.protocol.payloads import SETTLE_KINDS

T = TypeVar("T", bound=Body)

_CUT: Final = "\n[crabnet: cut to what a baseline peer can receive]\n"


def _checked(body: T) -> T:
    """The same object, if it is within the bounds that receivers check. Raises UsageError otherwise."""
    try:
        msgspec.convert(msgspec.to_builtins(body), type(body))
        msgspec.json.encode(body)
    except msgspec.ValidationError as error:
        detail, _, field = str(error).partition(" - at `$.")
        where = f"{type(body).__name__.lower()}, {field.rstrip('`')}" if field else type(body).__name__.lower()
        raise UsageError(f"{where}: {detail[:1].lower()}{detail[1:].replace('`', '')}") from error
    except UnicodeError as error:
        raise UsageError(f"{type(body).__name__.lower()} holds text that is not valid Unicode") from error
    for name, value in msgspec.structs.asdict(body).items():
        if isinstance(value, int) and not -limits.INTEGER_MAX <= value <= limits.INTEGER_MAX:
            raise UsageError(f"{name} is {value}, but integers may be at most 2^53-1")
    return body


def _seconds(milliseconds: int) -> int:
    return -(-milliseconds // 1000)


def build_seed(wish: Publish, object_id: str, author: str, now_s: int) -> tuple[FactKind, Seed]:
    """A seed. Raises UsageError."""
    for name in ("timeout_ms", "bid_window_ms", "claim_window_ms", "exec_deadline_ms", "settle_window_ms"):
        value = getattr(wish, name)
        if value is not None and not 0 < value <= limits.TIMEOUT_MS_MAX:
            raise UsageError(f"{name} is {value}, but it must be from 1 to {limits.TIMEOUT_MS_MAX}")
    bid_deadline_s = now_s + _seconds(wish.bid_window_ms)
    claim_window_s = limits.CLAIM_WINDOW_S_DEFAULT if wish.claim_window_ms is None else _seconds(wish.claim_window_ms)
    pick_up_ms = limits.EXECUTION_PICK_UP_MS_DEFAULT
    seed = Seed(
        id=object_id,
        title=wish.title,
        description=wish.description,
        command=wish.command,
        timeout_ms=wish.timeout_ms,
        bid_deadline_ts=bid_deadline_s,
        exec_deadline_ms=wish.timeout_ms + pick_up_ms if wish.exec_deadline_ms is None else wish.exec_deadline_ms,
        min_price=wish.min_price,
        max_bids=wish.max_bids,
        reward=wish.reward,
        rules=wish.rules,
        created_by=author,
        created_at=now_s,
        claim_deadline_ts=bid_deadline_s + claim_window_s,
        acceptance=wish.acceptance,
        settle_window_s=None if wish.settle_window_ms is None else _seconds(wish.settle_window_ms),
        follows=wish.follows,
    )
    return FactKind.SEED, _checked(seed)


def build_bid(wish: SubmitBid, record: Record, object_id: str, author: str, now_s: int) -> tuple[FactKind, Bid]:
    """A bid. Raises UsageError."""
    bid = Bid(
        id=object_id,
        seed_id=wish.seed_id,
        bidder=author,
        price=wish.price,
        notes=wish.notes,
        created_at=now_s,
        rests_on=_envelope(record.seed),
    )
    return FactKind.BID, _checked(bid)


def build_claim(wish: CreateClaim, record: Record, object_id: str, now_s: int) -> tuple[FactKind, Claim]:
    """A claim of a bid that this node knows. Raises RefusedError, UsageError."""
    chosen = next((fact for fact in record.bids if fact.key == wish.bid_id), None)
    bid = None if chosen is None else chosen.body
    if not isinstance(bid, Bid):
        raise RefusedError(f"task {wish.seed_id} has no bid {wish.bid_id}", Reason.UNKNOWN_BID)
    progress = record.progress
    claim = Claim(
        id=object_id,
        seed_id=wish.seed_id,
        bid_id=bid.id,
        worker=bid.bidder,
        created_at=now_s,
        attempt=progress.attempt + (progress.status is SeedStatus.FORFEITED),
        rests_on=_envelope(chosen),
    )
    return FactKind.CLAIM, _checked(claim)


def own_claim(record: Record, seed_id: str, node_id: str) -> str:
    """The id of the current claim, if it chose this node's bid. Raises RefusedError otherwise."""
    progress = record.progress
    if progress.claim_id is None:
        unclaimed = progress.status is SeedStatus.OPEN
        nobody = ": its creator has claimed no bid yet" if unclaimed else ", and no bid is claimed"
        raise RefusedError(standing_of(seed_id, progress) + nobody, Reason.WRONG_STATE)
    if progress.claimed_by != node_id:
        raise RefusedError(
            f"the creator of task {seed_id} has claimed the bid of {node(progress.claimed_by)}, not one of this node",
            Reason.UNAUTHORISED,
        )
    return progress.claim_id


def build_run(wish: StartRun, record: Record, object_id: str, author: str, now_s: int) -> tuple[FactKind, Run]:
    """The statement that a run begins. Raises RefusedError."""
    claim_id = own_claim(record, wish.seed_id, author)
    if record.progress.status is SeedStatus.RUNNING:
        raise RefusedError(f"this node already runs task {wish.seed_id}", Reason.RUN_IN_PROGRESS)
    run = Run(
        id=object_id,
        seed_id=wish.seed_id,
        claim_id=claim_id,
        worker=author,
        created_at=now_s,
        lease_ms=wish.lease_ms,
        rests_on=_envelope(record.claim),
    )
    return FactKind.STARTED, _checked(run)


def build_renewal(wish: RenewRun, record: Record, object_id: str, author: str, now_s: int) -> tuple[FactKind, Run]:
    """The statement that a run goes on. Raises RefusedError."""
    claim_id = own_claim(record, wish.seed_id, author)
    if record.progress.run_id is None:
        raise RefusedError(
            f"{standing_of(wish.seed_id, record.progress)}: there is no run to renew", Reason.WRONG_STATE
        )
    renewal = Run(
        id=object_id,
        seed_id=wish.seed_id,
        claim_id=claim_id,
        worker=author,
        created_at=now_s,
        renews=record.progress.run_id,
        lease_ms=wish.lease_ms,
        rests_on=_envelope(record.claim),
    )
    return FactKind.STARTED, _checked(renewal)


def build_result(
    wish: FinishRun, record: Record, object_id: str, author: str, now_s: int
) -> tuple[FactKind, TaskResult]:
    """The result of a run. Raises RefusedError."""
    result = TaskResult(
        id=object_id,
        seed_id=wish.seed_id,
        worker=author,
        exit_code=wish.exit_code,
        timed_out=wish.timed_out,
        stdout="" if wish.stdout_base64 else wish.stdout,
        stderr="" if wish.stderr_base64 else wish.stderr,
        stdout_base64=wish.stdout_base64,
        stderr_base64=wish.stderr_base64,
        output_hash=wish.output_hash,
        duration_ms=wish.duration_ms,
        claim_id=own_claim(record, wish.seed_id, author),
        created_at=now_s,
        stdout_truncated=wish.stdout_truncated,
        stderr_truncated=wish.stderr_truncated,
        termination=wish.termination,
        refusal=None if wish.refusal is None else wish.refusal.value,
        sandbox=wish.sandbox,
        profile=wish.profile,
        files=wish.files,
        files_omitted=wish.files_omitted,
        failed=None if wish.failed is None else wish.failed.value,
        rests_on=_envelope(record.run or record.claim),
    )
    return FactKind.RESULT, _checked(result)


def cut_to_datagram(wish: FinishRun) -> FinishRun:
    """A result that fits in one datagram. Baseline peers accept no larger message.

    A mark shows where output was cut off. The hash is that of the whole output.
    """
    room = limits.DATAGRAM_RECEIVE_BYTES_MAX - limits.RESULT_BESIDE_OUTPUT_BYTES
    if len(msgspec.json.encode(wish.files)) > room // 4:
        wish = msgspec.structs.replace(wish, files=(), files_omitted=wish.files_omitted + len(wish.files))
    room -= len(msgspec.json.encode(wish.files))
    stderr = _cut(wish.stderr, max(room // 2, room - _wire_bytes(wish.stdout)))
    stdout = _cut(wish.stdout, room - _wire_bytes(stderr))
    return msgspec.structs.replace(
        wish,
        stdout=stdout,
        stderr=stderr,
        stdout_base64="",
        stderr_base64="",
        stdout_truncated=wish.stdout_truncated or stdout != wish.stdout,
        stderr_truncated=wish.stderr_truncated or stderr != wish.stderr,
    )


def _cut(text: str, bytes_max: int) -> str:
    """The text, or as much of its beginning as fits together with a mark after it."""
    if _wire_bytes(text) <= bytes_max:
        return text
    fits, beyond = 0, len(text)
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        if _wire_bytes(text[:middle] + _CUT) <= bytes_max:
            fits = middle
        else:
            beyond = middle
    return text[:fits] + _CUT


def _wire_bytes(text: str) -> int:
    return len(msgspec.json.encode(text))


def build_settlement(wish: Settle, record: Record, object_id: str, now_s: int) -> tuple[FactKind, Settlement]:
    """The creator's settlement, forfeit or closing of a seed. Raises UsageError."""
    kind = SETTLE_KINDS.get(wish.outcome)
    if kind is None:
        raise UsageError(f"a seed cannot be settled as {wish.outcome.value}")
    progress = record.progress
    named = kind is not FactKind.CLOSE or progress.status in CLAIM_HOLDS
    by_result = kind is FactKind.SETTLE or (kind is FactKind.FORFEIT and record.worker_failed)
    rests_on = record.result if by_result else record.claim
    settlement = Settlement(
        id=object_id,
        seed_id=wish.seed_id,
        outcome=wish.outcome,
        claim_id=progress.claim_id if named else None,
        result_id=progress.result_id if kind is FactKind.SETTLE else None,
        attempt=progress.attempt,
        note=wish.note or (why_failed(record) if kind is FactKind.FORFEIT and by_result else ""),
        created_at=now_s,
        rests_on=_envelope(rests_on if named else record.seed),
    )
    return kind, _checked(settlement)


def build_acknowledgement(
    wish: Acknowledge, record: Record, object_id: str, author: str, now_s: int
) -> tuple[FactKind, Acknowledgement]:
    """The acknowledgement of a settlement. Raises RefusedError."""
    settlement = next((fact for fact in record.others if fact.kind is FactKind.SETTLE), None)
    if settlement is None:
        raise RefusedError(f"{standing_of(wish.seed_id, record.progress)}: there is no settlement to acknowledge")
    acknowledgement = Acknowledgement(
        id=object_id, seed_id=wish.seed_id, worker=author, created_at=now_s, rests_on=_envelope(settlement)
    )
    return FactKind.ACKNOWLEDGED, _checked(acknowledgement)


def _envelope(fact: Fact | None) -> str:
    """The id by which other facts name the fact that they rest on."""
    return "" if fact is None else fact.envelope


def build(wish: Statement, record: Record, object_id: str, author: str, now_s: int) -> tuple[FactKind, Body]:
    """The object that states an operation. ``record`` is the seed's, ``EMPTY`` for a new seed.

    Raises RefusedError, UsageError.
    """
    match wish:
        case Publish():
            return build_seed(wish, object_id, author, now_s)
        case SubmitBid():
            return build_bid(wish, record, object_id, author, now_s)
        case CreateClaim():
            return build_claim(wish, record, object_id, now_s)
        case StartRun():
            return build_run(wish, record, object_id, author, now_s)
        case RenewRun():
            return build_renewal(wish, record, object_id, author, now_s)
        case FinishRun():
            return build_result(wish, record, object_id, author, now_s)
        case Settle():
            return build_settlement(wish, record, object_id, now_s)
        case Acknowledge():
            return build_acknowledgement(wish, record, object_id, author, now_s)
