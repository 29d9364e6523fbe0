"""``crabnet receipt``: what a receipt says, for people and programs. It needs neither a data dir nor a node."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from crabnet.domain.acceptance import Acceptance
from crabnet.domain.model import Bid, Claim, Fact, FactKind, OutputFile, SeedStatus, TaskResult
from crabnet.domain.record import as_seed
from crabnet.domain.standing import STEPS
from crabnet.errors import RefusedError
from crabnet.protocol.receipt import Receipt, ReceiptRefusedError, verify_receipt

_OUTCOMES: Final = {
    SeedStatus.ACCEPTED: "accepted: the publisher took the result and owes the price",
    SeedStatus.REJECTED: "rejected: the publisher refused the result",
    SeedStatus.FORFEITED: "forfeited: the worker had not delivered, and the publisher ended the attempt",
    SeedStatus.EXPIRED: "withdrawn: the publisher ended the task without a settlement",
}
_SAID: Final = {
    FactKind.SEED: "published the task",
    FactKind.BID: "bid for it",
    FactKind.CLAIM: "claimed the bid",
    FactKind.STARTED: "began to run it",
    FactKind.RESULT: "returned the result",
    FactKind.SETTLE: "settled it",
    FactKind.FORFEIT: "ended the attempt",
    FactKind.CLOSE: "withdrew the task",
    FactKind.ACKNOWLEDGED: "acknowledged the settlement",
}
_BY_PUBLISHER: Final = STEPS | {FactKind.SEED}
_PROVED: Final = (
    "Each step was signed with the key that is part of its author's id, and names the step before it by hash.",
    "The rules of the protocol allow every step: who took it, when, and after what.",
)
_NOT_PROVED: Final = (
    (
        "that these steps are all that their authors signed: whoever gave you this may have left out other bids, other"
        " work or later steps, and an author may have told others another story (a fork; see crabnet audit proof)"
    ),
    "that the times are right: each is by its author's own clock",
    "that the worker ran the command as it says, or that the publisher has paid: the network moves no money",
    "who the people behind the ids are",
)
_NO_ACKNOWLEDGEMENT: Final = (
    "that the settlement is final: it has no acknowledgement of the worker here, so the publisher may still have signed"
    " another one in its place"
)


class StepRow(Struct, frozen=True, kw_only=True):
    """One signed step."""

    step: FactKind
    author: str
    seq: int
    ts: int
    at: str
    """The time by the author's clock, as ISO 8601 in UTC."""
    envelope_id: str
    object_id: str


class ResultPart(Struct, frozen=True, kw_only=True):
    """What the last result says. ``output_matches``: the output in it has that hash. None if the output was cut."""

    exit_code: int
    timed_out: bool
    duration_ms: int
    failed: str | None
    output_sha256: str
    output_matches: bool | None
    stdout_bytes: int
    stderr_bytes: int
    stdout_truncated: bool
    stderr_truncated: bool
    files: tuple[OutputFile, ...]


class ReceiptPage(Struct, frozen=True, kw_only=True):
    """What a verified receipt says. ``worker`` and ``price`` are those of the last claim, None without one."""

    valid: bool
    namespace: str
    seed_id: str
    title: str
    command: str
    acceptance: Acceptance | None
    publisher: str
    worker: str | None
    price: int | None
    reward: int
    attempts: int
    outcome: SeedStatus
    note: str
    acknowledged: bool
    result: ResultPart | None
    steps: list[StepRow]
    proved: list[str]
    not_proved: list[str]


def read_receipt(data: bytes, name: str) -> ReceiptPage:
    """The page of the receipt in ``data``, completely verified. Raises RefusedError (what is wrong with ``name``)."""
    try:
        return page_of(verify_receipt(data))
    except ReceiptRefusedError as error:
        raise RefusedError(f"{name} is not a valid receipt: {error.detail}", error.reason) from error


def page_of(receipt: Receipt) -> ReceiptPage:
    """The page of a verified receipt."""
    record = receipt.record
    definition = as_seed(receipt.facts[0])
    claim, progress = receipt.claim, record.progress
    bid = None if claim is None else receipt.parent(claim)
    results = [fact.body for fact in receipt.facts if isinstance(fact.body, TaskResult)]
    settled = progress.status in {SeedStatus.ACCEPTED, SeedStatus.REJECTED}
    acknowledged = receipt.acknowledgement is not None
    claims = [fact for fact in receipt.facts if fact.kind is FactKind.CLAIM]
    return ReceiptPage(
        valid=True,
        namespace=receipt.namespace,
        seed_id=definition.id,
        title=definition.title,
        command=definition.command,
        acceptance=definition.acceptance,
        publisher=definition.created_by,
        worker=claim.body.worker if claim is not None and isinstance(claim.body, Claim) else None,
        price=bid.body.price if bid is not None and isinstance(bid.body, Bid) else None,
        reward=definition.reward,
        attempts=len(claims),
        outcome=progress.status,
        note=progress.note,
        acknowledged=acknowledged,
        result=_result_part(results[-1]) if results else None,
        steps=[_row(fact) for fact in receipt.facts],
        proved=[*_PROVED],
        not_proved=[*([_NO_ACKNOWLEDGEMENT] if settled and not acknowledged else []), *_NOT_PROVED],
    )


def _result_part(result: TaskResult) -> ResultPart:
    whole = not (result.stdout_truncated or result.stderr_truncated)
    stdout, stderr = result.raw_stdout, result.raw_stderr
    return ResultPart(
        exit_code=result.exit_code,
        timed_out=result.timed_out,
        duration_ms=result.duration_ms,
        failed=result.whose_failure,
        output_sha256=result.output_hash,
        output_matches=hashlib.sha256(stdout + stderr).hexdigest() == result.output_hash if whole else None,
        stdout_bytes=len(stdout),
        stderr_bytes=len(stderr),
        stdout_truncated=result.stdout_truncated,
        stderr_truncated=result.stderr_truncated,
        files=result.files,
    )


def _row(fact: Fact) -> StepRow:
    return StepRow(
        step=fact.kind,
        author=fact.author,
        seq=fact.seq,
        ts=fact.ts,
        at=_utc(fact.ts),
        envelope_id=fact.envelope,
        object_id=fact.key,
    )


def _utc(at_s: int) -> str:
    try:
        return datetime.fromtimestamp(at_s, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"@{at_s}"


def describe(page: ReceiptPage) -> Iterator[str]:
    """The page for people, line by line. Texts of strangers in it are not made harmless yet."""
    yield f"This receipt is valid: {len(page.steps)} signed steps, and the rules allow each of them."
    yield ""
    yield f"task          {page.seed_id} (namespace {page.namespace})"
    yield f"title         {page.title}"
    yield f"command       {page.command}"
    yield f"publisher     {page.publisher}"
    yield f"worker        {page.worker or 'none: no bid was claimed'}"
    if page.price is not None:
        yield f"price         {page.price} (the publisher offered {page.reward})"
    yield f"outcome       {_OUTCOMES[page.outcome]}"
    if page.note:
        yield f"note          {page.note}"
    if page.outcome in {SeedStatus.ACCEPTED, SeedStatus.REJECTED}:
        seen = "by the worker: the settlement cannot be taken back"
        yield f"acknowledged  {seen if page.acknowledged else 'not, as far as this receipt shows'}"
    if page.attempts > 1:
        yield f"attempts      {page.attempts}"
    if page.result is not None:
        yield from _result_lines(page.result)
    yield ""
    yield "Steps, with the time by the clock of their author:"
    for number, row in enumerate(page.steps, 1):
        who = "publisher" if row.step in _BY_PUBLISHER else "worker" if row.author == page.worker else row.author
        yield f"{number:3} {row.at}  {who} {_SAID[row.step]}; place {row.seq} of its feed, envelope {row.envelope_id}"
    yield ""
    yield "It proves:"
    yield from (f"  - {text}" for text in page.proved)
    yield "It does not prove:"
    yield from (f"  - {text}" for text in page.not_proved)


def _result_lines(result: ResultPart) -> Iterator[str]:
    ended = f"exit code {result.exit_code} after {result.duration_ms} ms"
    timed_out = ", stopped because its time was over" if result.timed_out else ""
    failed = f"; the {result.failed} failed" if result.failed else ""
    yield f"result        {ended}{timed_out}{failed}"
    matches = {
        True: "the output in the result has it",
        False: "the output in the result does NOT have it",
        None: "the output in the result was cut, so it cannot be compared",
    }
    yield f"output        SHA-256 {result.output_sha256} ({matches[result.output_matches]})"
    yield f"              {result.stdout_bytes} bytes of stdout, {result.stderr_bytes} bytes of stderr in the result"
    for file in result.files:
        yield f"file          {file.name}: {file.size} bytes, SHA-256 {file.sha256}"
