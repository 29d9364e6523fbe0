"""What the facts of all tasks say about an author: work, settlements, money and times. Pure.

A tally is a sum over tasks, so a task that has changed costs one subtraction and one addition. It depends only on what
the state hash covers, so nodes with equal state have equal numbers. A disputed task counts nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import Struct

from crabnet.domain.lifecycle import execution_deadline_ms, settle_by_s
from crabnet.domain.model import FINAL, Bid, Claim, Fact, FactKind, Seed, SeedStatus, Settlement, TaskResult
from crabnet.domain.record import Record, names


class Count(StrEnum):
    """What is counted. Those of a publisher come first, then those of a worker. PRICES add up, the others count one."""

    __hash__ = str.__hash__  # that of enum.Enum is a function call in Python, and these are parts of hot keys

    PUBLISHED = "published"
    OPEN = "open"
    WITHDRAWN = "withdrawn"
    AWARDED = "awarded"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    FORFEITED = "forfeited"
    FAILED = "failed"
    SETTLED_IN_TIME = "settled_in_time"
    SETTLED_LATE = "settled_late"
    AWAITING = "awaiting"
    """Results that await a settlement, by the second until which it is in time."""
    SPENT = "spent"
    COMMITTED = "committed"
    CLAIM_TIME = "claim_time"
    SETTLEMENT_TIME = "settlement_time"

    WON = "won"
    IN_TIME = "in_time"
    LATE = "late"
    WORK_ACCEPTED = "work_accepted"
    WORK_REJECTED = "work_rejected"
    WORK_FORFEITED = "work_forfeited"
    WORK_FAILED = "work_failed"
    WORK_AWAITING = "work_awaiting"
    """Results of its own that await a settlement, by the second until which it is in time."""
    EARNED = "earned"
    OWED = "owed"
    RESULT_TIME = "result_time"


class Item(NamedTuple):
    """What an amount is of. ``bucket`` is that of a time, or a second until which something is due, else 0.

    ``own``: publisher and worker are one author. Such a task counts in no share, because it proves nothing.
    """

    what: Count
    bucket: int = 0
    own: bool = False


Tally = Counter[Item]
"""Amounts of one author."""


class Publishing(Struct, frozen=True, kw_only=True):
    """An author as a publisher."""

    published: int
    open: int
    """Tasks that are not over. One whose claim deadline has passed counts until its publisher closes it."""
    withdrawn: int
    """Tasks that ended without a settlement."""
    awarded: int
    """Claims: bids that it chose."""
    accepted: int
    rejected: int
    forfeited: int
    """Attempts that it ended because no result came in time."""
    failed: int
    """Attempts whose workers said that they failed."""
    awaiting: int
    """Results that it has not settled yet."""
    overdue: int
    """Those of them whose time is over."""
    settled_late: int
    settled_share: float | None
    """The share of results of others that it settled in time, among those that were due. Null without any."""
    spent: int
    """The prices of accepted results."""
    committed: int
    """The prices of claims that are not over."""
    median_claim_s: int | None
    """From publication to the first claim."""
    median_settlement_s: int | None
    """From a result to its settlement."""


class Working(Struct, frozen=True, kw_only=True):
    """An author as a worker."""

    won: int
    """Claims of its bids."""
    in_time: int
    """Results before the execution deadline, which count, and in which it does not say that it failed."""
    late: int
    accepted: int
    rejected: int
    forfeited: int
    """Attempts without a result in time."""
    failed: int
    """Attempts in which it said that it failed: refused, interrupted, or no fault of the task."""
    awaiting: int
    """Results that are not settled yet."""
    overdue: int
    """Those of them whose publishers are late."""
    accepted_share: float | None
    """The share of accepted results for others among the attempts that ended. Null without any."""
    earned: int
    """The prices of accepted results."""
    owed: int
    """The prices of results that are not settled yet."""
    median_result_s: int | None
    """From a claim to its result."""


class Account(Struct, frozen=True, kw_only=True):
    """What is known of an author. Every number follows from facts and, for what is overdue, from the time."""

    author: str
    publisher: Publishing
    worker: Working
    forked: bool
    """It is proved to have signed two envelopes for one place of its feed."""

    @property
    def accepted_share(self) -> float | None:
        """See ``Working``."""
        return self.worker.accepted_share

    @property
    def median_result_ms(self) -> int | None:
        """The median time from a claim to its result, in milliseconds."""
        median_s = self.worker.median_result_s
        return None if median_s is None else median_s * 1000

    @property
    def settled_share(self) -> float | None:
        """See ``Publishing``."""
        return self.publisher.settled_share


def tallies(record: Record) -> dict[str, Tally]:
    """What one task adds to the tallies of its publisher and its workers."""
    seed = record.definition
    if seed is None or record.progress.status is SeedStatus.DISPUTED:
        return {}
    found: dict[str, Tally] = {}
    for author, item, amount in _Task(seed, record).amounts():
        if amount:
            found.setdefault(author, Counter())[item] += amount
    return found


def add(total: Tally, part: Tally, sign: int = 1) -> None:
    """Add ``part`` to a tally, or subtract it with ``sign`` -1. No item with the amount 0 remains."""
    for item, amount in part.items():
        total[item] += sign * amount
        if not total[item]:
            del total[item]


class Dealt(NamedTuple):
    """What a publisher has done with the results of others (``market.work.Dealings``)."""

    due_results: int
    settled_in_time: int


def dealt(tally: Tally, now_s: int) -> Dealt:
    """What a publisher with this tally has done with the results of others by ``now_s``."""
    in_time, late = _of(tally, Count.SETTLED_IN_TIME, own=False), _of(tally, Count.SETTLED_LATE, own=False)
    return Dealt(in_time + late + _passed(tally, Count.AWAITING, now_s, own=False), in_time)


def account(author: str, tally: Tally, now_s: int, *, forked: bool = False) -> Account:
    """The account that follows from a tally at ``now_s``, in seconds since the epoch."""
    return Account(author=author, publisher=_publishing(tally, now_s), worker=_working(tally, now_s), forked=forked)


_Amount = tuple[str, Item, int]
_PUBLISHER_ENDS: Final = {SeedStatus.ACCEPTED: Count.ACCEPTED, SeedStatus.REJECTED: Count.REJECTED}
_WORKER_ENDS: Final = {SeedStatus.ACCEPTED: Count.WORK_ACCEPTED, SeedStatus.REJECTED: Count.WORK_REJECTED}
_HOLDS: Final = frozenset({SeedStatus.CLAIMED, SeedStatus.RUNNING, SeedStatus.DONE})


class _Task:
    """The amounts of one task."""

    def __init__(self, seed: Seed, record: Record) -> None:
        self._seed = seed
        self._record = record
        self._status = record.progress.status
        self._claims = [(fact, fact.body) for fact in record.others if isinstance(fact.body, Claim)]

    def amounts(self) -> Iterator[_Amount]:
        """Who gets how much of what."""
        seed, publisher = self._seed, self._seed.created_by
        yield publisher, Item(Count.PUBLISHED), 1
        if self._status not in FINAL:
            yield publisher, Item(Count.OPEN), 1
        elif self._status is SeedStatus.EXPIRED:
            yield publisher, Item(Count.WITHDRAWN), 1
        for _, claim in self._claims:
            own = claim.worker == publisher
            yield publisher, Item(Count.AWARDED, own=own), 1
            yield claim.worker, Item(Count.WON, own=own), 1
        if self._claims:
            first = min(self._claims, key=lambda pair: (pair[1].attempt, pair[0].seq, pair[0].envelope))[1]
            yield publisher, Item(Count.CLAIM_TIME, bucket_of(first.created_at - seed.created_at)), 1
        for fact in self._record.others:
            if fact.kind is FactKind.FORFEIT and isinstance(fact.body, Settlement):
                yield from self._forfeit(fact, fact.body)
        claim_fact = self._record.claim
        if claim_fact is not None and isinstance(claim_fact.body, Claim):
            yield from self._current(claim_fact, claim_fact.body)

    def _forfeit(self, fact: Fact, forfeit: Settlement) -> Iterator[_Amount]:
        named = next((pair for pair in self._claims if pair[1].id == forfeit.claim_id), None)
        if named is None:
            return
        claim_fact, claim = named
        failed = bool(fact.rests_on) and fact.rests_on != claim_fact.envelope
        own = claim.worker == self._seed.created_by
        yield self._seed.created_by, Item(Count.FAILED if failed else Count.FORFEITED, own=own), 1
        yield claim.worker, Item(Count.WORK_FAILED if failed else Count.WORK_FORFEITED, own=own), 1

    def _current(self, claim_fact: Fact, claim: Claim) -> Iterator[_Amount]:
        """The amounts of the current claim and its result."""
        publisher, price = self._seed.created_by, self._price(claim_fact, claim)
        own = claim.worker == publisher
        result_fact = self._record.result
        result = None if result_fact is None else result_fact.body
        failed = isinstance(result, TaskResult) and result.worker_failed
        if self._status in _HOLDS and not failed:
            yield publisher, Item(Count.COMMITTED, own=own), price
        if result_fact is None or not isinstance(result, TaskResult):
            return
        if failed:
            if self._status is SeedStatus.DONE:
                yield publisher, Item(Count.FAILED, own=own), 1
                yield claim.worker, Item(Count.WORK_FAILED, own=own), 1
            return
        at_s = result.created_at or result_fact.ts
        in_time = at_s * 1000 <= execution_deadline_ms(self._seed, claim.created_at)
        yield claim.worker, Item(Count.IN_TIME if in_time else Count.LATE, own=own), 1
        yield claim.worker, Item(Count.RESULT_TIME, bucket_of(at_s - claim.created_at)), 1
        due_s = settle_by_s(self._seed, claim, result_fact)
        if self._status is SeedStatus.DONE:
            yield publisher, Item(Count.AWAITING, due_s, own), 1
            yield claim.worker, Item(Count.WORK_AWAITING, due_s, own), 1
            yield claim.worker, Item(Count.OWED, own=own), price
        elif self._status in _PUBLISHER_ENDS:
            yield from self._settled(claim, price, at_s, due_s)

    def _settled(self, claim: Claim, price: int, at_s: int, due_s: int) -> Iterator[_Amount]:
        publisher, settled_s = self._seed.created_by, self._record.progress.settled_at or at_s
        own = claim.worker == publisher
        yield publisher, Item(_PUBLISHER_ENDS[self._status], own=own), 1
        yield claim.worker, Item(_WORKER_ENDS[self._status], own=own), 1
        yield publisher, Item(Count.SETTLED_IN_TIME if settled_s <= due_s else Count.SETTLED_LATE, own=own), 1
        yield publisher, Item(Count.SETTLEMENT_TIME, bucket_of(settled_s - at_s)), 1
        if self._status is SeedStatus.ACCEPTED:
            yield publisher, Item(Count.SPENT, own=own), price
            yield claim.worker, Item(Count.EARNED, own=own), price

    def _price(self, claim_fact: Fact, claim: Claim) -> int:
        """The price of the bid that a claim chose."""
        bids = (bid.body for bid in self._record.bids if names(claim_fact, bid, claim.bid_id))
        return next((bid.price for bid in bids if isinstance(bid, Bid)), 0)


def _publishing(tally: Tally, now_s: int) -> Publishing:
    due_results, in_time = dealt(tally, now_s)
    return Publishing(
        published=_of(tally, Count.PUBLISHED),
        open=_of(tally, Count.OPEN),
        withdrawn=_of(tally, Count.WITHDRAWN),
        awarded=_of(tally, Count.AWARDED),
        accepted=_of(tally, Count.ACCEPTED),
        rejected=_of(tally, Count.REJECTED),
        forfeited=_of(tally, Count.FORFEITED),
        failed=_of(tally, Count.FAILED),
        awaiting=_all(tally, Count.AWAITING),
        overdue=sum(_passed(tally, Count.AWAITING, now_s, own=own) for own in (False, True)),
        settled_late=_of(tally, Count.SETTLED_LATE),
        settled_share=_share(in_time, due_results),
        spent=_of(tally, Count.SPENT),
        committed=_of(tally, Count.COMMITTED),
        median_claim_s=_median(tally, Count.CLAIM_TIME),
        median_settlement_s=_median(tally, Count.SETTLEMENT_TIME),
    )


def _working(tally: Tally, now_s: int) -> Working:
    accepted = _of(tally, Count.WORK_ACCEPTED, own=False)
    bad = (Count.WORK_REJECTED, Count.WORK_FORFEITED, Count.WORK_FAILED)
    ended = accepted + sum(_of(tally, count, own=False) for count in bad)
    return Working(
        won=_of(tally, Count.WON),
        in_time=_of(tally, Count.IN_TIME),
        late=_of(tally, Count.LATE),
        accepted=_of(tally, Count.WORK_ACCEPTED),
        rejected=_of(tally, Count.WORK_REJECTED),
        forfeited=_of(tally, Count.WORK_FORFEITED),
        failed=_of(tally, Count.WORK_FAILED),
        awaiting=_all(tally, Count.WORK_AWAITING),
        overdue=sum(_passed(tally, Count.WORK_AWAITING, now_s, own=own) for own in (False, True)),
        accepted_share=_share(accepted, ended),
        earned=_of(tally, Count.EARNED),
        owed=_of(tally, Count.OWED),
        median_result_s=_median(tally, Count.RESULT_TIME),
    )


def _of(tally: Tally, count: Count, *, own: bool | None = None) -> int:
    """An amount: of deals with others, of those with oneself, or of both."""
    wanted = (False, True) if own is None else (own,)
    return sum(tally.get(Item(count, 0, each), 0) for each in wanted)


def _all(tally: Tally, count: Count) -> int:
    return sum(amount for item, amount in tally.items() if item.what is count)


def _passed(tally: Tally, count: Count, now_s: int, *, own: bool) -> int:
    return sum(
        amount for item, amount in tally.items() if item.what is count and item.own is own and item.bucket < now_s
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


_EXACT_S: Final = 8
_STEPS: Final = 4
"""Buckets for each doubling of the time."""


def bucket_of(seconds: int) -> int:
    """The logarithmic bucket of a time. Up to 7 s each second has its own, above that four buckets share a doubling."""
    if seconds < _EXACT_S:
        return max(0, seconds)
    shift = seconds.bit_length() - 3
    return _EXACT_S + (shift - 1) * _STEPS + (seconds >> shift) - _STEPS


def middle_of(bucket: int) -> int:
    """A time in the middle of a bucket, in seconds."""
    if bucket < _EXACT_S:
        return bucket
    shift, step = divmod(bucket - _EXACT_S, _STEPS)
    low = (step + _STEPS) << (shift + 1)
    return low + (1 << (shift + 1)) // 2


def _median(tally: Tally, count: Count) -> int | None:
    """The middle of the bucket that holds the median of the times; the lower one of two."""
    times = sorted((item.bucket, amount) for item, amount in tally.items() if item.what is count)
    left = (sum(amount for _, amount in times) - 1) // 2
    for bucket, amount in times:
        if left < amount:
            return middle_of(bucket)
        left -= amount
    return None


def total_of(records: Iterable[Record]) -> dict[str, Tally]:
    """The tallies of all authors from the records of all tasks."""
    totals: dict[str, Tally] = {}
    for record in records:
        for author, part in tallies(record).items():
            add(totals.setdefault(author, Counter()), part)
    return {author: tally for author, tally in totals.items() if tally}
