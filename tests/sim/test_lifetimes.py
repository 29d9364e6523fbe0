"""The lives of seeds on virtual time: expiry, forfeits, claims of the next bid, withdrawals, renewals and late results.

Operators do what they like, in any order, in a network that loses, cuts off and crashes; then all is well again, and
every node says the same. That nothing settled re-opens is watched by the nodes of the simulation themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from crabnet import limits
from crabnet.core.commands import CreateClaim, Operation, Publish, RenewRun, Settle, StartRun, SubmitBid
from crabnet.core.config import CoreConfig
from crabnet.domain.lifecycle import CLAIM_HOLDS
from crabnet.domain.model import FINAL, Claim, SeedStatus, TaskResult
from crabnet.domain.record import Record
from tests.sim.checks import compare_with_refold
from tests.sim.market import failure, result
from tests.sim.world import SimNode, Weather, World, attempt

GRACE_MS = 2_000
LIVES = int(os.environ.get("CRABNET_TEST_LIVES", "60"))
S = SeedStatus
numbers = st.integers(0, 7)
FAILS = 7
"""The number with which a worker states that it failed."""


class Lifetimes(RuleBasedStateMachine):
    """One publisher that claims again by itself, one that does not, two workers."""

    reached: ClassVar[set[str]] = set()

    @initialize(seed=st.integers(0, 2**16), attempts_max=st.integers(1, 4))
    def begin(self, seed: int, attempts_max: int) -> None:
        self.world = World(seed)
        config = CoreConfig(execution_grace_ms=GRACE_MS, parked_ttl_s=20, reclaim_attempts_max=attempts_max)
        eager = CoreConfig(
            execution_grace_ms=GRACE_MS, parked_ttl_s=20, auto_reclaim=True, reclaim_attempts_max=attempts_max
        )
        self.attempts_max = attempts_max
        self.publishers = [self.world.add("eager", eager), self.world.add("calm", config, skew_ms=700)]
        self.workers = [self.world.add("one", config, skew_ms=-900), self.world.add("two", config)]
        self.nodes = [*self.publishers, *self.workers]
        for node in self.nodes:
            node.targets = [other.address for other in self.nodes if other is not node]
            node.start()
        self.world.run(GRACE_MS + 500)
        for number in (0, 1):
            self.deal(number, 4_500 + 4_500 * number)

    def seeds(self, node: SimNode) -> list[tuple[str, Record]]:
        if node.core is None:
            return []
        return sorted((key, record) for key, record in node.core.replica.state.records.items() if record.seed)

    def act(self, node: SimNode, number: int, wish: Callable[[str, Record], Operation | None]) -> None:
        """Do the ``number``th of the things that ``wish`` makes of the seeds that the node knows."""
        wishes = [made for seed_id, record in self.seeds(node) if (made := wish(seed_id, record)) is not None]
        if wishes:
            attempt(node, wishes[number % len(wishes)])

    def mine(self, node: SimNode, record: Record) -> bool:
        return record.definition is not None and record.definition.created_by == node.id

    @rule(number=numbers, exec_ms=st.sampled_from([4_500, 9_000]), claim_ms=st.sampled_from([3_000, 30_000]))
    def publish(self, number: int, exec_ms: int, claim_ms: int) -> None:
        node = self.publishers[number % 2]
        if node.core is not None and len(self.seeds(node)) < 4:
            wish = Publish(
                title="t", command="true", timeout_ms=1_000, bid_window_ms=20_000, claim_window_ms=claim_ms,
                exec_deadline_ms=exec_ms,
            )  # fmt: skip
            attempt(node, wish)
            self.world.run(300)

    @rule(number=numbers, exec_ms=st.sampled_from([4_500, 9_000]))
    def deal(self, number: int, exec_ms: int) -> None:
        """A seed with two bids, one of them claimed: what the rest is about."""
        self.publish(number, exec_ms, 30_000)
        for worker in (0, 1):
            self.bid(worker, worker)
            self.bid(worker + 2, worker + 3)
        self.claim(number, number)
        self.world.run(300)

    @rule(number=numbers, price=st.integers(0, 9))
    def bid(self, number: int, price: int) -> None:
        self.act(self.workers[number % 2], number, lambda key, _: SubmitBid(seed_id=key, price=price))
        self.world.run(200)

    @rule(number=numbers, which=numbers)
    def claim(self, number: int, which: int) -> None:
        node = self.publishers[number % 2]

        def wish(seed_id: str, record: Record) -> Operation | None:
            if not record.bids or not self.mine(node, record) or record.progress.status in FINAL | CLAIM_HOLDS:
                return None
            return CreateClaim(seed_id=seed_id, bid_id=record.bids[which % len(record.bids)].key)

        self.act(node, which, wish)

    def for_me(self, node: SimNode, record: Record) -> bool:
        return record.progress.claimed_by == node.id

    @rule(number=numbers)
    def start(self, number: int) -> None:
        node = self.workers[number % 2]
        self.act(node, number, lambda key, r: StartRun(seed_id=key, lease_ms=2_000) if self.for_me(node, r) else None)

    @rule(number=numbers)
    def renew(self, number: int) -> None:
        node = self.workers[number % 2]
        self.act(node, number, lambda key, r: RenewRun(seed_id=key, lease_ms=2_000) if self.for_me(node, r) else None)

    @rule(number=numbers)
    def finish(self, number: int) -> None:
        node = self.workers[number % 2]
        stated = failure if number == FAILS else result
        self.act(node, number, lambda key, r: stated(key) if self.for_me(node, r) else None)

    @rule(number=numbers)
    def work(self, number: int) -> None:
        self.start(number)
        self.world.run(300)
        self.finish(number)
        self.world.run(300)

    @rule(number=numbers, outcome=st.sampled_from([S.ACCEPTED, S.REJECTED, S.FORFEITED, S.EXPIRED, S.EXPIRED]))
    def settle(self, number: int, outcome: SeedStatus) -> None:
        node = self.publishers[number % 2]

        def wish(seed_id: str, record: Record) -> Operation | None:
            judged = outcome in {S.ACCEPTED, S.REJECTED}
            if not self.mine(node, record) or (judged and record.progress.status is not S.DONE):
                return None
            return Settle(seed_id=seed_id, outcome=outcome)

        self.act(node, number, wish)

    @rule(number=st.integers(0, FAILS - 1), outcome=st.sampled_from([S.RUNNING, S.ACCEPTED, S.REJECTED]))
    def whole(self, number: int, outcome: SeedStatus) -> None:
        """A job until that, if nothing is in its way."""
        self.deal(number, 9_000)
        self.start(number)
        self.world.run(300)
        if outcome is not S.RUNNING:
            self.finish(number)
            self.world.run(300)
            self.settle(number, outcome)

    @rule(duration_ms=st.sampled_from([100, 300, 2_000, 7_000, 15_000]))
    def wait(self, duration_ms: int) -> None:
        self.world.run(duration_ms)

    @rule(number=numbers)
    def cut_off(self, number: int) -> None:
        alone = self.nodes[number % 4]
        self.world.partition([alone], [node for node in self.nodes if node is not alone])

    @rule(loss=st.sampled_from([0.0, 0.5]))
    def heal(self, loss: float) -> None:
        self.world.partition()
        self.world.weather = Weather(loss, 0.2, (1, 400))

    @rule(number=numbers)
    def crash_or_start(self, number: int) -> None:
        node = self.nodes[number % 4]
        if node.core is None:
            node.start()
        else:
            node.crash()

    @invariant()
    def rules_hold_everywhere(self) -> None:
        for node in self.nodes:
            for seed_id, record in self.seeds(node):
                compare_with_refold(node, seed_id, record)
                self.reached.add(record.progress.status.value)
                self.check_record(record)

    def check_record(self, record: Record) -> None:
        progress = record.progress
        results = [fact.body for fact in record.others if isinstance(fact.body, TaskResult)]
        assert len(results) == (progress.result_id is not None)
        claims = [fact.body.attempt for fact in record.others if isinstance(fact.body, Claim)]
        assert sorted(claims) == list(range(1, len(claims) + 1))
        if progress.status in {S.EXPIRED, S.FORFEITED}:
            assert not results

    def teardown(self) -> None:
        self.world.partition()
        self.world.weather = Weather()
        for node in self.nodes:
            if node.core is None:
                node.start()
        self.world.run(60_000 + 2 * limits.RECLAIM_SAME_WORKER_MS)
        assert self.world.settle()
        for publisher in self.publishers:
            for _, record in self.seeds(publisher):
                if self.mine(publisher, record):
                    assert record.progress.status not in {S.OPEN, S.CLAIMED, S.RUNNING}, "time has done nothing to it"
        self.rules_hold_everywhere()


def live(examples: int, steps: int) -> set[str]:
    """So many lives; the statuses that were reached."""
    Lifetimes.reached.clear()
    run_state_machine_as_test(
        Lifetimes,
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True),
    )
    return Lifetimes.reached


def test_all_nodes_agree_whatever_happens_to_a_seed() -> None:
    assert live(8, 20) >= {"Open", "Claimed", "Running", "Expired"}


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_all_nodes_agree_whatever_happens_to_many_seeds() -> None:
    assert live(LIVES, 30) == {status.value for status in S if status is not S.DISPUTED}
