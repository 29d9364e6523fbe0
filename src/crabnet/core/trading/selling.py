"""The steps of a worker that its policies take: bid for tasks of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.core.commands import SubmitBid
from crabnet.core.config import CoreConfig
from crabnet.core.deadlines import Agenda
from crabnet.core.effects import FieldValue, Notice
from crabnet.core.mending import Part
from crabnet.core.moves import Move
from crabnet.core.replica.replica import Replica
from crabnet.core.trading.commitments import Commitments, Stage, commitment_of, has_bid, looked_at_ms
from crabnet.domain.local_rules import is_biddable
from crabnet.domain.model import FINAL, Seed, SeedStatus
from crabnet.domain.record import EMPTY, Record
from crabnet.errors import Reason
from crabnet.market.policies import Again, Declined
from crabnet.market.quote import hindrance, quote
from crabnet.market.work import Dealings, Demand, Load, Machine, NoDealings

_MINUTE_MS: Final = 60_000
Fit = Callable[[Seed], "Demand | Declined"]


@dataclass(slots=True)
class Surroundings:
    """What the core cannot know of its worker. The node sets it. The functions read memory only."""

    machine: Callable[[], Machine] = Machine
    minute_at: Callable[[int], int] = lambda at_ms: at_ms // 60_000 % (7 * 24 * 60)
    """The minute of the week by the local wall clock at a time in milliseconds since the epoch."""
    fit: Fit = lambda _: Demand(memory_bytes=0)
    """What a run of a task may take here, or why this worker would refuse it."""
    dealings: Callable[[str, int], Dealings] = lambda _, __: NoDealings()
    """What a publisher has done with results by a time in milliseconds. The accounts tell, so the core sets this."""


class Offer(NamedTuple):
    """What this worker would do with an open task now: the price for which it bids, or why it does not."""

    seed_id: str
    seed: Seed
    quoted: int | Declined
    bid: bool
    """True if it has bid already."""


class _Batch:
    """The bids of one turn, which the record of no seed has yet."""

    def __init__(self) -> None:
        self.bids = 0
        self.timeouts_ms = 0
        self.by_publisher: dict[str, int] = {}

    def add(self, seed: Seed) -> None:
        self.bids += 1
        self.timeouts_ms += seed.timeout_ms
        self.by_publisher[seed.created_by] = self.by_publisher.get(seed.created_by, 0) + 1


class _Distrusted:
    """The seeds of a publisher for which this worker would bid if it trusted that publisher."""

    def __init__(self) -> None:
        self.seeds: BoundedTable[str, None] = BoundedTable(limits.DISTRUSTED_SEEDS_MAX)


class Seller:
    """The tasks for which ``node_id`` may bid. It only proposes steps, and ``Core`` does them.

    It looks at a task when that changes, not at all tasks all the time. A task that it declines for something that may
    pass waits in a bounded table until that has passed. ``denies`` says with which authors the node makes no deals.
    """

    def __init__(
        self, config: CoreConfig, node_id: str, replica: Replica, around: Surroundings, denies: Callable[[str], bool]
    ) -> None:
        self._policy = config.work
        self._bids = config.auto_bid
        self._active = config.auto_bid or config.auto_run
        self._node_id = node_id
        self._replica = replica
        self._around = around
        self._denies = denies
        self._due = Agenda()
        self.commitments = Commitments()
        self._declined: BoundedTable[str, Declined] = BoundedTable(limits.TASKS_DECLINED_MAX)
        """Why this node has not bid, by open seed."""
        self._waiting: BoundedTable[str, None] = BoundedTable(limits.TASKS_DECLINED_MAX)
        """Seeds to look at again when there is room and nothing hinders, oldest first."""
        self._unfitting: BoundedTable[str, None] = BoundedTable(limits.TASKS_DECLINED_MAX)
        """Seeds to look at again when the schedule begins anew."""
        self._distrusted: BoundedTable[str, _Distrusted] = BoundedTable(limits.PUBLISHERS_DISTRUSTED_MAX)
        """Publishers whose seeds to look at again when they have settled something."""
        self._news: BoundedTable[str, Declined] = BoundedTable(limits.DECLINED_NEWS_MAX)
        self._open = True
        self._resumes = False
        """Whether it is worth to look at those that wait: there is room, or something is over that took some."""

    # --- what changes ----------------------------------------------------------------------------------

    def watch(self, seed_id: str, record: Record, now_ms: int) -> None:
        """Note what a changed seed means for this worker, and look at it soon if it may bid."""
        seed = record.definition
        if not self._active or seed is None or seed.created_by == self._node_id:
            return
        self._commit(seed_id, record, seed, now_ms)
        if record.progress.status in FINAL:
            self._forget(seed_id)
            if record.progress.status is not SeedStatus.EXPIRED:
                self._reconsider(seed.created_by, now_ms)
        elif self._bids and seed_id not in self._declined and is_biddable(record, now_ms // 1000):
            self._due.add(now_ms, seed_id)

    def _commit(self, seed_id: str, record: Record, seed: Seed, now_ms: int) -> None:
        before, now = self.commitments.get(seed_id), commitment_of(record, seed, self._node_id, now_ms)
        self.commitments.put(seed_id, now)
        if before is not None and (now is None or (before.busies and not now.busies)):
            self._resumes = True
            if now is None:
                self._reconsider(seed.created_by, now_ms)
        if now is not None and now.stage is Stage.BID and (before is None or before.stage is not Stage.BID):
            for at_ms in looked_at_ms(record, seed, self._node_id):
                self._due.add(at_ms, seed_id)

    def _reconsider(self, publisher: str, now_ms: int) -> None:
        """Look again at tasks of a publisher who has settled something, or for whom there is less to do."""
        waiting = self._distrusted.pop(publisher)
        for seed_id in () if waiting is None else waiting.seeds:
            self._due.add(now_ms, seed_id)

    def _forget(self, seed_id: str) -> None:
        self._declined.pop(seed_id)
        self._waiting.pop(seed_id)
        self._unfitting.pop(seed_id)

    # --- what to do ------------------------------------------------------------------------------------

    def next_ms(self) -> int | None:
        """When the next step may be due, in milliseconds since the epoch. None if nothing is."""
        return 0 if self._resumes and self._open and len(self._waiting) and self._room() > 0 else self._due.next_ms()

    def _room(self) -> int:
        return self._policy.commitments_max - self.commitments.busying

    def moves(self, now_ms: int) -> list[Move]:
        """The bids that are due, at most ``TURN_MOVES_MAX``."""
        if not self._active:
            return []
        opened, self._open = not self._open, hindrance(self._policy, self._around.machine()) is None
        seeds = self._due.due(now_ms, limits.TURN_MOVES_MAX)
        if self._open:
            if opened:
                self._resumes = True
                while (first := self._unfitting.pop_first()) is not None:
                    self._due.add(now_ms, first[0])
            for _ in range(min(self._room(), limits.TURN_MOVES_MAX - len(seeds)) if self._resumes else 0):
                waited = self._waiting.pop_first()
                if waited is None:
                    break
                seeds.append(waited[0])
        batch = _Batch()
        found = (self._move(seed_id, batch, now_ms) for seed_id in dict.fromkeys(seeds))
        return [move for move in found if move is not None]

    def _move(self, seed_id: str, batch: _Batch, now_ms: int) -> Move | None:
        record = self._replica.state.records.get(seed_id, EMPTY)
        seed = record.definition
        if seed is None:
            self._forget(seed_id)
            return None
        self._commit(seed_id, record, seed, now_ms)
        if not self._bids or has_bid(record, self._node_id) or not is_biddable(record, now_ms // 1000):
            self._forget(seed_id)
            return None
        quoted = self._quote(seed, batch, now_ms)
        if isinstance(quoted, Declined):
            return self._decline(seed_id, seed, quoted)
        self._forget(seed_id)
        batch.add(seed)
        fields: dict[str, FieldValue] = {"seed_id": seed_id, "author": seed.created_by, "price": quoted}
        return Move(SubmitBid(seed_id=seed_id, price=quoted), Part.SELLER, Notice("bid_quoted", fields))

    def _quote(self, seed: Seed, batch: _Batch, now_ms: int) -> int | Declined:
        publisher = seed.created_by
        if self._denies(publisher):
            return Declined(Reason.TRUST, f"{publisher} has signed two envelopes for one place of its feed")
        demand = self._around.fit(seed)
        if isinstance(demand, Declined):
            return demand
        mine = self.commitments
        load = Load(
            machine=self._around.machine(),
            end_minute=self._around.minute_at(now_ms + seed.timeout_ms + _MINUTE_MS - 1),
            commitments=mine.busying + batch.bids,
            backlog_ms=(mine.timeouts_ms + batch.timeouts_ms) // self._policy.runs_max,
            unsettled=mine.unsettled[publisher] + batch.by_publisher.get(publisher, 0),
        )
        return quote(seed, demand, self._policy, load, self._around.dealings(publisher, now_ms))

    def _decline(self, seed_id: str, seed: Seed, why: Declined) -> Move | None:
        """Remember the reason and what may change it. Returns what to tell, if that is new."""
        before = self._declined.get(seed_id)
        self._declined.put(seed_id, why)
        if before is None:
            self._due.add((seed.bid_deadline_ts + 1) * 1000, seed_id)  # then it is forgotten
        match why.again:
            case Again.MACHINE | Again.ROOM:
                self._resumes = False
                self._waiting.put(seed_id, None)
            case Again.OPENING:
                self._unfitting.put(seed_id, None)
            case Again.PUBLISHER:
                waiting = self._distrusted.get(seed.created_by) or _Distrusted()
                waiting.seeds.put(seed_id, None)
                self._distrusted.put(seed.created_by, waiting)
        if before is not None and before.reason is why.reason:
            return None
        self._news.put(seed_id, why)
        detail = why.detail[: limits.EVENT_DETAIL_CHARS]
        fields: dict[str, FieldValue] = {"seed_id": seed_id, "author": seed.created_by, "price": why.price}
        fields |= {"reason": why.reason.value, "detail": detail}
        return Move(None, Part.SELLER, Notice("task_declined", fields))

    def again(self, move: Move, now_ms: int) -> None:
        """A bid was refused. Look at its seed again after SWEEP_RETRY_MS."""
        self._due.add(now_ms + limits.SWEEP_RETRY_MS, move.seed_id)

    # --- what others ask -------------------------------------------------------------------------------

    def offer(self, seed_id: str, record: Record, now_ms: int) -> Offer | None:
        """What this worker would do with a task now, whether it bids by itself or not. None if it is not open."""
        seed = record.definition
        if seed is None or seed.created_by == self._node_id or not is_biddable(record, now_ms // 1000):
            return None
        return Offer(seed_id, seed, self._quote(seed, _Batch(), now_ms), has_bid(record, self._node_id))

    def take_declined(self) -> list[tuple[str, Declined]]:
        """The tasks declined since the last call, with the reason. A task comes again only with another reason."""
        news = list(self._news.items())
        self._news.clear()
        return news

    def declined(self) -> list[tuple[str, Declined]]:
        """The open tasks that this worker has declined, as far as it remembers them, oldest first."""
        return list(self._declined.items())
