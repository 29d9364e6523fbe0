"""What this node has promised as a worker: open bids, claimed tasks, results that are not settled yet."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import NamedTuple

from crabnet import limits
from crabnet.domain.lifecycle import claim_deadline_s
from crabnet.domain.model import Bid, Seed, SeedStatus
from crabnet.domain.record import Record

_MAY_CLAIM = frozenset({SeedStatus.OPEN, SeedStatus.FORFEITED})


class Stage(Enum):
    """How far a commitment is."""

    BID = "bid"
    """An open bid, which is likely to be claimed soon if at all."""
    OLD_BID = "old_bid"
    """An open bid for WORK_BID_FRESH_S. Most publishers choose sooner, so nothing is kept free for it."""
    WON = "won"
    """Claimed, and not begun."""
    RUNNING = "running"
    DELIVERED = "delivered"
    """A result that its publisher has not settled."""


class Commitment(NamedTuple):
    """What this node has promised for one seed."""

    publisher: str
    stage: Stage
    timeout_ms: int
    price: int
    """Of the bid."""

    @property
    def busies(self) -> bool:
        """True if it takes one of the places for runs, or may do so soon."""
        return self.stage not in {Stage.OLD_BID, Stage.DELIVERED}


class Debt(NamedTuple):
    """Results of this node that a publisher has not settled, and the sum of their prices."""

    results: int
    price: int


class Commitments:
    """The commitments of a node by seed, and their sums. They are those of its own bids, so nobody else can add any."""

    def __init__(self) -> None:
        self._all: dict[str, Commitment] = {}
        self.won: dict[str, None] = {}
        """Seeds that were claimed for this node and are not begun, oldest first."""
        self.unsettled: Counter[str] = Counter()
        """Commitments by publisher."""
        self.busying = 0
        """Commitments that take places for runs."""
        self.timeouts_ms = 0
        """The sum of their timeouts."""

    def get(self, seed_id: str) -> Commitment | None:
        """The commitment for a seed."""
        return self._all.get(seed_id)

    def count(self, stage: Stage) -> int:
        """How many there are of a stage."""
        return sum(each.stage is stage for each in self._all.values())

    def debts(self) -> dict[str, Debt]:
        """What publishers have not settled."""
        debts: dict[str, Debt] = {}
        for each in self._all.values():
            if each.stage is Stage.DELIVERED:
                before = debts.get(each.publisher, Debt(0, 0))
                debts[each.publisher] = Debt(before.results + 1, before.price + each.price)
        return debts

    def put(self, seed_id: str, now: Commitment | None) -> None:
        """Replace the commitment for a seed. None: there is none any more."""
        before = self._all.get(seed_id)
        if before == now:
            return
        if before is not None:
            self._add(before, -1)
            del self._all[seed_id]
        if now is not None:
            self._add(now, 1)
            self._all[seed_id] = now
        if now is not None and now.stage is Stage.WON:
            self.won[seed_id] = None
        else:
            self.won.pop(seed_id, None)

    def _add(self, each: Commitment, count: int) -> None:
        left = self.unsettled[each.publisher] + count
        if left:
            self.unsettled[each.publisher] = left
        else:
            del self.unsettled[each.publisher]
        if each.busies:
            self.busying += count
            self.timeouts_ms += count * each.timeout_ms


def commitment_of(record: Record, seed: Seed, node_id: str, now_ms: int) -> Commitment | None:
    """What ``node_id`` has promised for a seed. None if nothing, or nothing that still counts."""
    bids = (fact.body for fact in record.bids if fact.author == node_id and isinstance(fact.body, Bid))
    bid = next(bids, None)
    stage = _stage_of(record, seed, bid, node_id, now_ms // 1000)
    return None if stage is None or bid is None else Commitment(seed.created_by, stage, seed.timeout_ms, bid.price)


def looked_at_ms(record: Record, seed: Seed, node_id: str) -> list[int]:
    """When the commitment of an open bid changes by itself, in milliseconds since the epoch."""
    made = [fact.body.created_at or 0 for fact in record.bids if fact.author == node_id][:1]
    return [(at_s + limits.WORK_BID_FRESH_S) * 1000 for at_s in made] + [
        (claim_deadline_s(seed, record.progress) + 1) * 1000
    ]


def _stage_of(record: Record, seed: Seed, bid: Bid | None, node_id: str, now_s: int) -> Stage | None:
    progress = record.progress
    if progress.status in _MAY_CLAIM:
        if bid is None or now_s > claim_deadline_s(seed, progress):
            return None
        return Stage.BID if now_s < bid.created_at + limits.WORK_BID_FRESH_S else Stage.OLD_BID
    if progress.claimed_by != node_id:
        return None
    match progress.status:
        case SeedStatus.CLAIMED:
            return Stage.WON
        case SeedStatus.RUNNING:
            return Stage.RUNNING
        case SeedStatus.DONE:
            return None if record.worker_failed else Stage.DELIVERED
    return None


def has_bid(record: Record, node_id: str) -> bool:
    """True if a node has bid for a seed."""
    return any(fact.author == node_id for fact in record.bids)
