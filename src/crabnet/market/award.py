"""Which bid a publisher should claim. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from crabnet import limits
from crabnet.domain.lifecycle import claim_deadline_s
from crabnet.domain.model import Bid, Claim, FactKind, Seed, SeedStatus, Settlement
from crabnet.domain.record import Record, counting_bids
from crabnet.errors import Reason
from crabnet.market.policies import Accepting, AwardRule, Declined, Terms, Wait, reason_in


class Past(Protocol):
    """What an award asks about a worker's past."""

    @property
    def accepted_share(self) -> float | None:
        """The share of its claimed tasks whose results were accepted, from 0 to 1. None without any."""

    @property
    def median_result_ms(self) -> int | None:
        """The median time from claim to result, in milliseconds. None without results."""


History = Callable[[str], Past]


def nobody(_: str) -> bool:
    """Denies no author."""
    return False


def tries(record: Record, terms: Terms) -> int:
    """How often the purchase has been tried to an end or is being tried, in this seed and those that it follows."""
    attempts = (fact.body.attempt for fact in record.others if isinstance(fact.body, Claim))
    return terms.tries_before + max(attempts, default=0)


def has_failed(record: Record, terms: Terms) -> bool:
    """True for a seed that is over and has to be taken up again, as long as tries are left: its result was rejected,
    or none of its bids was claimed in time after an attempt had failed.
    """
    status = record.progress.status
    if status is SeedStatus.REJECTED:
        return terms.accept is not Accepting.NEVER
    lapsed = status is SeedStatus.EXPIRED and reason_in(record.progress.note)[0] is Reason.DEADLINE_PASSED
    return lapsed and terms.award is not None and any(isinstance(fact.body, Claim) for fact in record.others)


def bids_until_ms(seed: Seed) -> int:
    """Until when a bid that was made in time may still come, in milliseconds since the epoch."""
    return (seed.bid_deadline_ts + 1) * 1000 + limits.BID_LATE_MS


def award(
    record: Record,
    terms: Terms,
    history: History,
    now_ms: int,
    *,
    denies: Callable[[str], bool] = nobody,
    published_ms: int | None = None,
) -> Bid | Wait | Declined:
    """The bid of an open or forfeited seed to claim now, or until when to wait for what, or why none will be claimed.

    Bids of the workers that were chosen least often come first, then those that ``terms.award`` prefers, then the
    cheapest, then the earliest. A worker that has begun this seed before, or failed in one that it follows, is not
    chosen again. A worker that was chosen and never began is chosen again only after a pause, because its fault may be
    temporary (ADR 31).

    ``published_ms`` is when the node began to collect bids. ``denies`` says with which authors it makes no deals.
    """
    seed, progress = record.definition, record.progress
    if seed is None or terms.award is None or progress.status not in {SeedStatus.OPEN, SeedStatus.FORFEITED}:
        return Wait(Reason.WRONG_STATE)
    if tries(record, terms) >= terms.tries_max:
        return Declined(Reason.ATTEMPTS_EXHAUSTED, f"all {terms.tries_max} tries have failed")
    if now_ms // 1000 > claim_deadline_s(seed, progress):
        return Declined(Reason.DEADLINE_PASSED, "the time in which a bid may be claimed is over")
    claims = [fact.body for fact in record.others if isinstance(fact.body, Claim)]
    bids = _fitting(record, terms, claims, denies)
    if not bids:
        return _without_bids(record, terms, bids_until_ms(seed), now_ms)
    chosen = Counter(claim.worker for claim in claims)
    bid = min(bids, key=lambda bid: (chosen[bid.bidder], *_merit(bid, terms.award, history), bid.created_at, bid.id))
    until_ms = max(_collected_ms(record, terms, seed, published_ms), _paused_ms(record, claims, bid))
    return bid if now_ms >= until_ms else Wait(Reason.NOT_DUE, until_ms)


def _fitting(record: Record, terms: Terms, claims: list[Claim], denies: Callable[[str], bool]) -> list[Bid]:
    began = {claim.worker for claim in claims if record.began(claim.id)}
    return [
        fact.body
        for fact in counting_bids(record)
        if isinstance(fact.body, Bid)
        and fact.author not in began
        and fact.author not in terms.shunned
        and (terms.worker is None or fact.author == terms.worker)
        and (terms.price_max is None or fact.body.price <= terms.price_max)
        and not denies(fact.author)
    ]


def _without_bids(record: Record, terms: Terms, until_ms: int, now_ms: int) -> Wait | Declined:
    reason = Reason.NO_BID_FITS if record.bids else Reason.NO_BIDS
    if now_ms < until_ms:
        return Wait(reason, until_ms)
    if not record.bids:
        return Declined(reason, "no worker has bid")
    cheapest = min(fact.body.price for fact in record.bids if isinstance(fact.body, Bid))
    if terms.price_max is not None and cheapest > terms.price_max:
        detail = f"the cheapest bid is {cheapest}, above the highest price {terms.price_max}"
        return Declined(reason, detail, cheapest)
    whose = "of the worker that the terms name" if terms.worker is not None else "of a worker that has not failed yet"
    return Declined(reason, f"no bid is {whose}, or it may not be claimed")


def _merit(bid: Bid, rule: AwardRule | None, history: History) -> tuple[float, ...]:
    """The lower, the better."""
    if rule is AwardRule.FASTEST:
        median_ms = history(bid.bidder).median_result_ms
        return (float("inf") if median_ms is None else median_ms, bid.price)
    if rule is AwardRule.BEST_HISTORY:
        share = history(bid.bidder).accepted_share
        return (-_UNKNOWN_SHARE if share is None else -share, bid.price)
    return (bid.price,) if rule is AwardRule.CHEAPEST else ()


_UNKNOWN_SHARE = 0.5
"""How much a worker without a past is trusted: less than a good one, more than a bad one."""


def _collected_ms(record: Record, terms: Terms, seed: Seed, published_ms: int | None) -> int:
    """When enough bids have been collected to choose one. At once if no better one can come."""
    full = seed.max_bids and len(record.bids) >= seed.max_bids
    again = record.progress.status is SeedStatus.FORFEITED
    if again or full or terms.award is AwardRule.FIRST or terms.worker is not None:
        return 0
    since_ms = seed.created_at * 1000 if published_ms is None else published_ms
    return min(since_ms + terms.bid_wait_ms, bids_until_ms(seed))


def _paused_ms(record: Record, claims: list[Claim], bid: Bid) -> int:
    """When the worker of a bid may be chosen again."""
    last_s = max((claim.created_at for claim in claims if claim.worker == bid.bidder), default=0)
    return last_s * 1000 + limits.RECLAIM_SAME_WORKER_MS if last_s and _failed_last(record) else 0


def _failed_last(record: Record) -> bool:
    """True if the last attempt ended by its worker's word, and not by the deadline."""
    claims = {fact.envelope for fact in record.others if fact.kind is FactKind.CLAIM}
    return any(
        fact.kind is FactKind.FORFEIT and fact.rests_on not in claims
        for fact in record.others
        if isinstance(fact.body, Settlement) and fact.body.attempt == record.progress.attempt
    )
