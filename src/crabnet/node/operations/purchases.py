"""Performs the operations on purchases."""

from __future__ import annotations

import hashlib
from itertools import dropwhile, islice

import msgspec

from crabnet.core.commands import ChangeTerms
from crabnet.core.core import Core
from crabnet.domain.model import TaskResult
from crabnet.errors import Reason, RefusedError
from crabnet.market.policies import Terms
from crabnet.node.node import Node
from crabnet.node.operations.performing import Send, reads, streams, writes
from crabnet.node.operations.requests import Ticket
from crabnet.node.operations.views import result_view
from crabnet.node.trading.purchasing import OVER, WITH_RESULT, Basis, basis, own_task, present, view
from crabnet.operations import purchases
from crabnet.operations.objects import Result
from crabnet.operations.purchases import Purchase, PurchaseProgress, PurchaseTerms


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
    looked_at, heard_by = Basis(), 0
    while True:
        changed = node.next_change()
        seed_id = present(node.core, seed_id)
        if not looked_at.differs(node.core, seed_id) and heard_by == _heard_by(node, seed_id):
            await changed.wait()
            continue
        looked_at, heard_by = basis(node.core, seed_id), _heard_by(node, seed_id)
        shown = _progress(node, seed_id)
        if shown.mark != seen:
            await node.durable()
            if present(node.core, seed_id) != seed_id:
                continue  # another try began meanwhile
            await send(shown)
            seen = shown.mark
        if shown.stage in OVER:
            return
        await changed.wait()


@writes(purchases.CHANGE)
async def change(node: Node, given: purchases.ChangeRequest, _ticket: Ticket) -> Purchase:
    """Replace terms. To repeat it changes nothing."""
    own_task(node.core, given.seed_id)
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


def _heard_by(node: Node, seed_id: str) -> int:
    seed = node.core.record(seed_id).seed
    sent = None if seed is None else node.deliveries.known(seed.envelope)
    return 0 if sent is None else sent.peers


def _progress(node: Node, seed_id: str) -> PurchaseProgress:
    record, _ = own_task(node.core, seed_id)
    shown = view(node.core, seed_id)
    result: Result | None = None
    if shown.stage in WITH_RESULT and record.result is not None and isinstance(record.result.body, TaskResult):
        result = result_view(record.result.body)
    fields = msgspec.structs.asdict(shown)
    heard = _heard_by(node, seed_id)
    digest = hashlib.sha256(msgspec.json.encode([fields, heard, result])).hexdigest()[:32]
    return PurchaseProgress(**fields, heard_by=heard, result=result, mark=digest)
