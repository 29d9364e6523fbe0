"""A worker that bids by its policy: for which tasks, when it looks at them again, and what it owes and is owed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from crabnet import limits
from crabnet.core.commands import CreateClaim, Publish, Settle, StartRun, SubmitBid
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Notice
from crabnet.core.trading.commitments import Debt
from crabnet.domain.model import Bid, Seed, SeedStatus
from crabnet.errors import Reason
from crabnet.market.policies import Declined
from crabnet.market.work import Demand, Machine, NoDealings, WorkPolicy
from tests.sim.market import result
from tests.sim.node import SimNode
from tests.sim.world import World

WISH = Publish(title="t", command="true", timeout_ms=1_000, bid_window_ms=60_000, exec_deadline_ms=600_000)
POLICY = WorkPolicy(price=3, commitments_max=3, runs_max=3)


class Market:
    """Two publishers and a worker; ``machine`` is the state of the worker's machine."""

    def __init__(self, policy: WorkPolicy = POLICY, *, auto_bid: bool = True) -> None:
        self.machine = Machine()
        self.refuses: Callable[[Seed], Demand | Declined] = lambda _: Demand(memory_bytes=0)
        self.dealings = NoDealings()
        self.world = World(1)
        self.publisher, self.other = self.world.add("publisher"), self.world.add("other")
        config = CoreConfig(work=policy, auto_bid=auto_bid, auto_run=True, execution_grace_ms=1_000)
        self.worker = self.world.add("worker", config)
        for node in self.world.nodes.values():
            node.targets = [other for other in self.world.nodes if other != node.address]
            node.start()
        self.surround()
        self.world.run(2_000)

    def surround(self) -> None:
        """What the node does when it has opened its core."""
        around = self.core.trading.surroundings
        around.machine = lambda: self.machine
        around.minute_at = lambda at_ms: (self.machine.minute + (at_ms - self.world.now_ms) // 60_000) % 10_080
        around.fit = self._fit
        around.dealings = lambda *_: self.dealings

    def _fit(self, seed: Seed) -> Demand | Declined:
        return self.refuses(seed)

    @property
    def core(self) -> Core:
        return self.worker.running

    def publish(self, by: SimNode | None = None, **changes: object) -> str:
        reply = (by or self.publisher).operate(replace(WISH, **changes))
        assert isinstance(reply, Seed)
        self.world.run(500)
        return reply.id

    def bid(self, seed_id: str) -> int | None:
        """The price of the worker's only bid, as its publishers know it."""
        prices = {
            tuple(fact.body.price for fact in node.running.record(seed_id).bids if isinstance(fact.body, Bid))
            for node in (self.publisher, self.other)
        }
        (found,) = prices
        assert len(found) <= 1
        return found[0] if found else None

    def claim(self, seed_id: str, by: SimNode | None = None) -> None:
        record = self.core.record(seed_id)
        (by or self.publisher).operate(CreateClaim(seed_id=seed_id, bid_id=record.bids[0].key))
        self.world.run(500)

    def deliver(self, seed_id: str) -> None:
        self.worker.operate(StartRun(seed_id=seed_id, lease_ms=60_000))
        self.worker.operate(result(seed_id))
        self.world.run(500)

    def settle(self, seed_id: str, outcome: SeedStatus = SeedStatus.ACCEPTED) -> None:
        self.publisher.operate(Settle(seed_id=seed_id, outcome=outcome))
        self.world.run(500)

    def declined(self) -> dict[str, Reason]:
        return {seed_id: declined.reason for seed_id, declined in self.core.trading.declined()}

    def told(self, kind: str) -> list[Notice]:
        return [notice for notice in self.worker.notices if notice.kind == kind]


def test_bids_once_and_says_so() -> None:
    market = Market()
    seed_id = market.publish(reward=5)
    assert market.bid(seed_id) == 3
    (told,) = market.told("bid_quoted")
    assert dict(told.fields) == {"seed_id": seed_id, "author": market.publisher.id, "price": 3}
    market.other.operate(SubmitBid(seed_id=seed_id, price=9))  # a further bid is no reason for another one
    market.world.run(1_000)
    assert sum(bid.author == market.worker.id for bid in market.core.record(seed_id).bids) == 1
    market.worker.crash()
    market.worker.start()
    market.surround()
    market.world.run(3_000)
    assert sum(bid.author == market.worker.id for bid in market.core.record(seed_id).bids) == 1


def test_bids_only_if_told_to() -> None:
    market = Market(auto_bid=False)
    seed_id = market.publish()
    assert market.bid(seed_id) is None
    assert not market.told("task_declined")
    offer = market.core.trading.offer(seed_id, market.core.record(seed_id), market.world.now_ms)
    assert offer is not None
    assert (offer.quoted, offer.bid) == (3, False)


def test_a_decline_is_told_once() -> None:
    market = Market()
    seed_id = market.publish(reward=2)
    market.other.operate(SubmitBid(seed_id=seed_id, price=1))
    market.world.run(1_000)
    (told,) = market.told("task_declined")
    assert told.fields["reason"] == Reason.PRICE.value
    assert told.fields["price"] == 3
    assert market.declined() == {seed_id: Reason.PRICE}
    market.publisher.operate(Settle(seed_id=seed_id, outcome=SeedStatus.EXPIRED))
    market.world.run(500)
    assert market.declined() == {}


def test_never_bids_for_what_it_would_refuse() -> None:
    market = Market()
    market.refuses = lambda seed: Declined(Reason.NOT_ALLOWED, f"it does not run {seed.command!r}")
    seed_id = market.publish()
    assert market.bid(seed_id) is None
    assert market.declined() == {seed_id: Reason.NOT_ALLOWED}
    offer = market.core.trading.offer(seed_id, market.core.record(seed_id), market.world.now_ms)
    assert offer is not None
    assert isinstance(offer.quoted, Declined)


@pytest.mark.parametrize(
    "machine",
    [Machine(paused=True), Machine(ending=True), Machine(load_percent=90), Machine(minute=500)],
    ids=["paused", "ending", "load", "schedule"],
)
def test_what_passes_is_looked_at_again(machine: Machine) -> None:
    market = Market(replace(POLICY, load_max_percent=80, spans=((0, 100),), schedule="Mon 00:00-01:40"))
    market.machine = machine
    seed_ids = [market.publish() for _ in range(2)]
    assert [market.bid(seed_id) for seed_id in seed_ids] == [None, None]
    market.machine = Machine()
    market.world.run(1_000)
    assert [market.bid(seed_id) for seed_id in seed_ids] == [3, 3]
    assert market.declined() == {}


def test_a_task_that_does_not_fit_waits_for_the_next_opening() -> None:
    market = Market(replace(POLICY, spans=((0, 100),), schedule="Mon 00:00-01:40"))
    market.machine = Machine(minute=98)
    seed_id = market.publish(timeout_ms=180_000, exec_deadline_ms=600_000, bid_window_ms=3_600_000)
    assert market.declined() == {seed_id: Reason.RESOURCES}
    market.machine = Machine(minute=50)  # nothing has closed and opened, so it is not looked at
    market.world.run(1_000)
    assert market.bid(seed_id) is None
    market.machine = Machine(minute=101)
    market.world.run(1_000)
    market.machine = Machine(minute=0)
    market.world.run(1_000)
    assert market.bid(seed_id) == 3


def test_room() -> None:
    """Three commitments at most: open bids, then claimed tasks. A result that awaits its settlement takes no room."""
    market = Market()
    first, second, third, fourth, fifth = (market.publish() for _ in range(5))
    assert [market.bid(each) for each in (first, second, third, fourth, fifth)] == [3, 3, 3, None, None]
    assert market.declined() == {fourth: Reason.BUSY, fifth: Reason.BUSY}
    market.claim(first)
    assert market.bid(fourth) is None
    assert market.core.trading.won() == [first]
    market.deliver(first)
    assert market.core.trading.won() == []
    assert (market.bid(fourth), market.bid(fifth)) == (3, None)
    market.publisher.operate(Settle(seed_id=second, outcome=SeedStatus.EXPIRED))
    market.world.run(500)
    assert market.bid(fifth) == 3


@pytest.mark.parametrize(
    ("window_ms", "after_ms"), [(5_000, 16_500), (600_000, limits.WORK_BID_FRESH_S * 1_000)], ids=["over", "old"]
)
def test_a_bid_keeps_others_away_only_while_it_may_be_chosen_soon(window_ms: int, after_ms: int) -> None:
    """Its publisher is gone, so nobody closes the task."""
    market = Market(replace(POLICY, commitments_max=1, runs_max=1))
    first = market.publish(bid_window_ms=10_000, claim_window_ms=window_ms)
    late = market.publish(bid_window_ms=120_000)
    assert market.bid(late) is None
    market.publisher.crash()
    market.world.run(after_ms - 3_000)
    assert not market.core.record(late).bids
    market.world.run(4_000)
    assert [bid.author for bid in market.core.record(late).bids] == [market.worker.id]
    bids = market.core.trading.seller.commitments
    assert (bids.get(first) is None) == (window_ms == 5_000)


def test_a_declined_task_is_forgotten_when_its_bid_window_ends() -> None:
    market = Market()
    seed_id = market.publish(reward=1, bid_window_ms=10_000)
    assert market.declined() == {seed_id: Reason.PRICE}
    market.world.run(11_000)
    assert market.declined() == {}


def test_long_tasks_are_not_promised_one_behind_the_other() -> None:
    """Two places, and tasks that may take as long as their publishers wait: a third one could not end in time."""
    market = Market(replace(POLICY, commitments_max=68, runs_max=2))
    seed_ids = [market.publish(timeout_ms=50_000, exec_deadline_ms=50_000) for _ in range(3)]
    assert [market.bid(each) for each in seed_ids] == [3, 3, None]
    assert market.declined() == {seed_ids[2]: Reason.BUSY}


def test_unsettled_results_at_one_publisher() -> None:
    market = Market(replace(POLICY, unsettled_max=1))
    first = market.publish()
    market.claim(first)
    market.deliver(first)
    second, elsewhere = market.publish(), market.publish(market.other)
    assert (market.bid(second), market.bid(elsewhere)) == (None, 3)
    assert market.declined() == {second: Reason.TRUST}
    assert market.core.trading.seller.commitments.debts() == {market.publisher.id: Debt(1, 3)}
    market.settle(first)
    assert market.bid(second) == 3
    assert market.core.trading.seller.commitments.debts() == {}


def test_a_publisher_that_settles_again_gets_bids_again() -> None:
    market = Market(replace(POLICY, settled_min_micro=900_000))
    first = market.publish()
    market.claim(first)
    market.deliver(first)
    market.dealings = NoDealings(due_results=10, settled_in_time=8)
    second = market.publish()
    assert market.bid(second) is None
    market.dealings = NoDealings(due_results=11, settled_in_time=10)
    market.settle(first, SeedStatus.REJECTED)
    assert market.bid(second) == 3


def test_work_of_this_node_is_named_in_notices() -> None:
    market = Market()
    seed_id = market.publish()
    market.claim(seed_id)
    market.deliver(seed_id)
    market.settle(seed_id)
    mine = [notice.fields for notice in market.told("seed_changed") if notice.fields.get("worker") == market.worker.id]
    assert [fields["status"] for fields in mine] == ["Claimed", "Running", "Done", "Accepted"]
    assert {(fields["price"], fields["auto"]) for fields in mine} == {(3, True)}


def test_many_tasks_are_looked_at_in_bounded_turns() -> None:
    market = Market(replace(POLICY, commitments_max=10, runs_max=10))
    market.machine = Machine(paused=True)
    for _ in range(3 * limits.TURN_MOVES_MAX):
        market.publisher.operate(replace(WISH, bid_window_ms=600_000))
    market.world.run(3_000)
    assert len(market.declined()) == 3 * limits.TURN_MOVES_MAX
    market.machine = Machine()
    market.world.run(2_000)
    assert len(market.told("bid_quoted")) == 10
    reasons = [reason for reason in market.declined().values() if reason is Reason.BUSY]
    assert len(reasons) == 3 * limits.TURN_MOVES_MAX - 10
