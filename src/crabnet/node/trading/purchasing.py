"""A purchase as its buyer sees it: how far it is, what it waits for, and what it has brought."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import trio

from crabnet import limits
from crabnet.core.core import Core
from crabnet.core.deadlines import due_at_ms
from crabnet.domain.model import FINAL, Bid, Claim, Seed, SeedStatus, TaskResult
from crabnet.domain.record import Record
from crabnet.errors import Reason, RefusedError
from crabnet.market.award import bids_until_ms, has_failed
from crabnet.market.heard import summary
from crabnet.market.policies import Terms, reason_in
from crabnet.operations.purchases import Purchase, PurchaseTerms, Stage

_BY_STATUS: Final = {
    SeedStatus.CLAIMED: Stage.AWARDED,
    SeedStatus.RUNNING: Stage.RUNNING,
    SeedStatus.ACCEPTED: Stage.SETTLED,
    SeedStatus.REJECTED: Stage.FAILED,
    SeedStatus.EXPIRED: Stage.FAILED,
    SeedStatus.DISPUTED: Stage.FAILED,
}
OVER: Final = frozenset({Stage.SETTLED, Stage.FAILED})
"""The stages in which a purchase is over."""
WITH_RESULT: Final = OVER | {Stage.ASKS}
"""The stages in which its result, if there is one, is not going to change."""
_REASONS: Final = {reason.value: reason for reason in Reason}


class Basis(NamedTuple):
    """What ``view`` makes a purchase from. All are immutable, so while they stay the same objects, the view does."""

    record: Record | None = None
    """None if it is not in memory."""
    terms: Terms | None = None

    def differs(self, core: Core, seed_id: str) -> bool:
        """True if the view of ``seed_id`` may be another one than that from this basis."""
        now = basis(core, seed_id)
        return self.record is None or now.record is not self.record or now.terms is not self.terms


def basis(core: Core, seed_id: str) -> Basis:
    """The basis of a purchase at the moment."""
    return Basis(core.replica.state.records.get(seed_id), core.replica.purchases.get(seed_id))


async def bought(
    core: Core, seed_id: str, next_change: Callable[[], trio.Event], durable: Callable[[], Awaitable[None]]
) -> TaskResult:
    """Wait for the end of a purchase, and return its result. It is accepted, or its operator has to settle it.

    Raises RefusedError if the purchase has failed, and for a task that is not one of this node.
    """
    seen = Basis()
    while True:
        changed = next_change()
        seed_id = present(core, seed_id)
        if not seen.differs(core, seed_id):
            await changed.wait()
            continue
        seen, shown = basis(core, seed_id), view(core, seed_id)
        if shown.stage in WITH_RESULT:
            await durable()
            if shown.stage is Stage.FAILED:
                why = shown.detail or f"the task is {shown.status.value}"
                reason = _REASONS.get(shown.reason or "", Reason.WRONG_STATE)
                raise RefusedError(f"the purchase {seed_id} has failed: {why}", reason)
            result = core.record(seed_id).result
            if result is not None and isinstance(result.body, TaskResult):
                return result.body
        await changed.wait()


def own_task(core: Core, seed_id: str) -> tuple[Record, Seed]:
    """A task of this node. Raises RefusedError for another one."""
    record = core.record(seed_id)
    seed = record.definition
    if seed is None or seed.created_by != core.signer.node_id:
        raise RefusedError(f"seed {seed_id} is not a task of this node, so it is no purchase", Reason.UNAUTHORISED)
    return record, seed


def present(core: Core, seed_id: str) -> str:
    """The last of the tasks that take each other up again, from this one on."""
    while (follower := core.trading.follower(seed_id)) is not None:
        seed_id = follower
    return seed_id


def view(core: Core, seed_id: str) -> Purchase:
    """An own task as a purchase. Raises RefusedError for another one."""
    record, seed = own_task(core, seed_id)
    progress, terms = record.progress, core.replica.purchases.get(seed_id)
    stage = _stage(record, terms, leaves=core.trading.leaves_to_operator(seed_id, record))
    claim = None if record.claim is None else record.claim.body
    bid_id = claim.bid_id if isinstance(claim, Claim) else None
    bids = [fact.body for fact in record.bids if isinstance(fact.body, Bid)]
    reason, detail = _why(record, stage)
    said = summary(core.declining.of(seed_id), seed) if stage is Stage.PUBLISHED else ""
    return Purchase(
        seed_id=seed_id,
        stage=stage,
        status=progress.status,
        title=seed.title,
        terms=None if terms is None else _shown_terms(terms),
        tries=_tries(core, record),
        bids=len(bids),
        worker=progress.claimed_by,
        price=next((bid.price for bid in bids if bid.id == bid_id), None),
        since_ts=_since_s(record, seed),
        until_ms=_until_ms(record, seed, core.config.execution_grace_ms),
        reason=reason,
        detail=f"{detail}: {said}" if said else detail,
    )


def _tries(core: Core, record: Record) -> int:
    """Claims of a task and of those that it follows."""
    total = 0
    for _ in range(limits.PURCHASE_ATTEMPTS_MAX):
        total += sum(isinstance(fact.body, Claim) for fact in record.others)
        seed = record.definition
        if seed is None or seed.follows is None:
            break
        try:
            record = core.record(seed.follows)
        except RefusedError:
            break
    return total


def _shown_terms(terms: Terms) -> PurchaseTerms:
    return PurchaseTerms(
        award=terms.award,
        bid_wait_ms=terms.bid_wait_ms,
        price_max=terms.price_max,
        worker=terms.worker,
        tries_max=terms.tries_max,
        accept=terms.accept,
    )


def _stage(record: Record, terms: Terms | None, *, leaves: bool) -> Stage:
    status = record.progress.status
    if terms is not None and has_failed(record, terms):
        return Stage.JUDGING  # the node decides about another try next
    if status is SeedStatus.DONE:
        if record.worker_failed:
            return Stage.AWARDED
        return Stage.ASKS if leaves else Stage.JUDGING
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return Stage.BIDS if record.bids else Stage.PUBLISHED


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
