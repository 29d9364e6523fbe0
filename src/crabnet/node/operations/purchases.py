"""Performs the operations on purchases."""

from __future__ import annotations

import hashlib
from itertools import dropwhile, islice
from typing import Final

import msgspec

from crabnet.core.commands import ChangeTerms
from crabnet.core.core import Core
from crabnet.core.deadlines import due_at_ms
from crabnet.domain.model import FINAL, Bid, Claim, Seed, SeedStatus, TaskResult
from crabnet.domain.record import Record
from crabnet.errors import Reason, RefusedError
from crabnet.market.award import bids_until_ms, tries
from crabnet.market.policies import Accepting, Terms, reason_in
from crabnet.market.verdict import settles, verdict
from crabnet.node.node import Node
from crabnet.node.operations.performing import Send, reads, streams, writes
from crabnet.node.operations.requests import Ticket
from crabnet.node.operations.views import result_view
from crabnet.operations import purchases
from crabnet.operations.objects import Result
from crabnet.operations.purchases import Purchase, PurchaseProgress, PurchaseTerms, Stage

_BY_STATUS: Final = {
    SeedStatus.CLAIMED: Stage.AWARDED,
    SeedStatus.RUNNING: Stage.RUNNING,
    SeedStatus.ACCEPTED: Stage.SETTLED,
    SeedStatus.REJECTED: Stage.FAILED,
    SeedStatus.EXPIRED: Stage.FAILED,
    SeedStatus.DISPUTED: Stage.FAILED,
}
_OVER: Final = frozenset({Stage.SETTLED, Stage.FAILED})
_TO_SHOW: Final = _OVER | {Stage.ASKS}


def terms_of(given: PurchaseTerms, before: Terms | None = None) -> Terms:
    """The terms that a caller wants. Tries so far still count."""
    return Terms(
        award=given.award,
        bid_wait_ms=given.bid_wait_ms,
        price_max=given.price_max,
        worker=given.worker,
        tries_max=given.tries_max,
        accept=given.accept,
        tries_before=0 if before is None else before.tries_before,
        shunned=() if before is None else before.shunned,
    )


@streams(purchases.WATCH)
async def watch(node: Node, given: purchases.PurchaseWatchRequest, send: Send) -> None:
    """A purchase after each change."""
    seen, seed_id = given.seen, given.seed_id
    while True:
        changed = node.next_change()
        seed_id = _present(node.core, seed_id)
        shown = _progress(node, seed_id)
        if shown.mark != seen:
            await node.durable()
            if _present(node.core, seed_id) != seed_id:
                continue  # another try began meanwhile
            await send(shown)
            seen = shown.mark
        if shown.stage in _OVER:
            return
        await changed.wait()


@writes(purchases.CHANGE)
async def change(node: Node, given: purchases.ChangeRequest, _ticket: Ticket) -> Purchase:
    """Replace terms. To repeat it changes nothing."""
    _own(node.core, given.seed_id)
    before = node.core.replica.purchases.get(given.seed_id)
    terms = None if given.terms is None else terms_of(given.terms, before)
    if terms != before:
        await node.perform(ChangeTerms(seed_id=given.seed_id, terms=terms))
    return view(node.core, given.seed_id)


@reads(purchases.LIST)
async def list_(node: Node, given: purchases.PurchaseListRequest) -> purchases.PurchasePage:
    """A page of open purchases."""
    page = list_purchases(node.core, given)
    await node.durable()
    return page


def list_purchases(core: Core, given: purchases.PurchaseListRequest) -> purchases.PurchasePage:
    """A page of open purchases. Raises RefusedError if ``given.after`` is none."""
    terms = core.replica.purchases.terms
    if given.after is not None and given.after not in terms:
        raise RefusedError(f"seed {given.after} is no open purchase of this node", Reason.UNKNOWN_SEED)
    known = (seed_id for seed_id in terms if seed_id in core.replica.state.records)
    rest = known if given.after is None else islice(dropwhile(lambda seed_id: seed_id != given.after, known), 1, None)
    ids = list(islice(rest, given.limit + 1))
    shown = ids[: given.limit]
    return purchases.PurchasePage(
        purchases=[view(core, seed_id) for seed_id in shown], next=shown[-1] if len(ids) > given.limit else None
    )


def _own(core: Core, seed_id: str) -> tuple[Record, Seed]:
    record = core.record(seed_id)
    seed = record.definition
    if seed is None or seed.created_by != core.signer.node_id:
        raise RefusedError(f"seed {seed_id} is not a task of this node, so it is no purchase", Reason.UNAUTHORISED)
    return record, seed


def _present(core: Core, seed_id: str) -> str:
    """The last of the tasks that take each other up again, from this one on."""
    while (follower := core.follower(seed_id)) is not None:
        seed_id = follower
    return seed_id


def view(core: Core, seed_id: str) -> Purchase:
    """An own task as a purchase. Raises RefusedError for another one."""
    record, seed = _own(core, seed_id)
    progress, terms = record.progress, core.replica.purchases.get(seed_id)
    stage = _stage(record, terms)
    claim = None if record.claim is None else record.claim.body
    bid_id = claim.bid_id if isinstance(claim, Claim) else None
    bids = [fact.body for fact in record.bids if isinstance(fact.body, Bid)]
    reason, detail = _why(record, stage)
    return Purchase(
        seed_id=seed_id,
        stage=stage,
        status=progress.status,
        title=seed.title,
        terms=None if terms is None else _shown_terms(terms),
        tries=tries(record, Terms() if terms is None else terms),
        bids=len(bids),
        worker=progress.claimed_by,
        price=next((bid.price for bid in bids if bid.id == bid_id), None),
        since_ts=_since_s(record, seed),
        until_ms=_until_ms(record, seed, core.config.execution_grace_ms),
        reason=reason,
        detail=detail,
    )


def _progress(node: Node, seed_id: str) -> PurchaseProgress:
    record, _ = _own(node.core, seed_id)
    shown = view(node.core, seed_id)
    envelope_id = "" if record.seed is None else record.seed.envelope
    sent = node.deliveries.known(envelope_id)
    result: Result | None = None
    if shown.stage in _TO_SHOW and record.result is not None and isinstance(record.result.body, TaskResult):
        result = result_view(record.result.body)
    fields = msgspec.structs.asdict(shown)
    heard = 0 if sent is None else sent.peers
    digest = hashlib.sha256(msgspec.json.encode([fields, heard, result])).hexdigest()[:32]
    return PurchaseProgress(**fields, heard_by=heard, result=result, mark=digest)


def _shown_terms(terms: Terms) -> PurchaseTerms:
    return PurchaseTerms(
        award=terms.award,
        bid_wait_ms=terms.bid_wait_ms,
        price_max=terms.price_max,
        worker=terms.worker,
        tries_max=terms.tries_max,
        accept=terms.accept,
    )


def _stage(record: Record, terms: Terms | None) -> Stage:
    status = record.progress.status
    if status is SeedStatus.REJECTED and terms is not None:
        return Stage.JUDGING  # the node decides about another try next
    if status is SeedStatus.DONE:
        if record.worker_failed:
            return Stage.AWARDED
        return Stage.JUDGING if terms is not None and not _asks(record, terms) else Stage.ASKS
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return Stage.BIDS if record.bids else Stage.PUBLISHED


def _asks(record: Record, terms: Terms) -> bool:
    """True if the operator has to settle the result."""
    result, seed = None if record.result is None else record.result.body, record.definition
    if terms.accept is Accepting.NEVER or seed is None or not isinstance(result, TaskResult):
        return terms.accept is Accepting.NEVER
    judged = verdict(result, seed.acceptance)
    return judged.reason is not Reason.CHECK_UNAVAILABLE and settles(judged, terms.accept) is None


def _why(record: Record, stage: Stage) -> tuple[str | None, str]:
    """Why a purchase has failed: the note of the settlement begins with the Reason."""
    if stage is Stage.PUBLISHED:
        return Reason.NO_BIDS.value, "no worker has bid yet"
    if stage is not Stage.FAILED:
        return None, ""
    reason, detail = reason_in(record.progress.note)
    return None if reason is None else reason.value, detail


def _since_s(record: Record, seed: Seed) -> int:
    progress = record.progress
    if progress.status in FINAL or progress.status is SeedStatus.FORFEITED:
        return progress.settled_at or seed.created_at
    last = record.result or record.run or record.claim
    return seed.created_at if last is None else last.ts


def _until_ms(record: Record, seed: Seed, grace_ms: int) -> int | None:
    if record.progress.status is SeedStatus.OPEN:
        return bids_until_ms(seed)
    due = due_at_ms(record, grace_ms)
    return None if due is None or not due[0] else due[0]
