"""Validly signed floods: honest work goes on, the flood is paced and capped, and all honest nodes agree afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from msgspec import structs

from crabnet import limits
from crabnet.core.budgets.authors import AuthorRates
from crabnet.core.budgets.sources import SourceRates
from crabnet.core.commands import CreateClaim, Publish, Settle, StartRun, SubmitBid
from crabnet.core.config import CoreConfig
from crabnet.domain.model import Bid, Seed, SeedStatus
from crabnet.domain.state import Caps
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Kind
from tests.sim.adversary import Adversary, Voice
from tests.sim.market import result
from tests.sim.world import SimNode, World

NODES = 3
BURST_S = 10
CONFIG = CoreConfig(
    sources=SourceRates(
        threshold_per_s=2_000, rejects_per_s=50, strangers_per_s=4_000, peer_per_s=8_000, total_per_s=10_000
    ),
    authors=AuthorRates(
        envelopes_per_s=40,
        bytes_per_s=100_000,
        newcomer_envelopes_per_s=30,
        newcomer_bytes_per_s=100_000,
        history_envelopes_per_s=20_000,
    ),
    caps=Caps(open_seeds_max=60, bids_per_seed_max=4),
)


class SignedFlooder(Adversary):
    """One key, nothing but sound envelopes, to some nodes, faster than anybody may; asked, it serves them all."""

    def harm(self) -> None:
        for _ in range(self.rng.randint(5, 15)):
            self.tell(self.author.publish(self.now_s, bid_deadline_ts=self.now_s + 600).raw, self.some())


class FreshIdentities(Adversary):
    """A new key for every envelope or two."""

    def harm(self) -> None:
        for _ in range(self.rng.randint(2, 6)):
            voice = Voice(f"{self.name} {len(self.voices)}")
            self.voices.append(voice)
            targets = self.some()
            self.tell(voice.publish(self.now_s, bid_deadline_ts=self.now_s + 600).raw, targets)
            if self.rng.random() < 0.3:
                bid: JsonObject = {"seed_id": "unknown", "bidder": voice.id, "price": 1, "rests_on": "0" * 64}
                self.tell(voice.state(Kind.BID_SUBMITTED, "bid", bid, self.now_s).raw, targets)


def started(world: World, first: CoreConfig = CONFIG) -> list[SimNode]:
    nodes = [world.add(f"n{number}", CONFIG if number else first) for number in range(NODES)]
    for node in nodes:
        node.targets = [other.address for other in nodes if other is not node]
        node.start()
    return nodes


def with_history(world: World, nodes: list[SimNode]) -> None:
    """Let authors become known to all: some envelopes, and some time."""
    for number in range(limits.AUTHOR_KNOWN_ENTRIES):
        for node in nodes:
            node.operate(Publish(title=f"t{number}", command="true", bid_window_ms=600_000))
        if number % 8 == 0:
            world.run(2_000)
    world.run(limits.AUTHOR_KNOWN_AFTER_MS, tick_ms=1_000)
    assert world.settle(60_000)


def until(world: World, ready: Callable[[], bool], step: Callable[[], None], limit_ms: int = 60_000) -> int:
    """Let time pass until something is so; how many ms that took."""
    begun_ms = world.now_ms
    while not ready():
        world.run(100, step=step)
        if world.now_ms - begun_ms > limit_ms:
            raise AssertionError("honest work stands still")
    return world.now_ms - begun_ms


def job(world: World, publisher: SimNode, worker: SimNode, step: Callable[[], None]) -> int:
    """A whole job; how long it took in ms."""

    def status(node: SimNode, seed_id: str) -> SeedStatus | None:
        record = node.running.replica.state.records.get(seed_id)
        return None if record is None or record.seed is None else record.progress.status

    begun_ms = world.now_ms
    seed = publisher.operate(Publish(title="honest", command="true", bid_window_ms=600_000, claim_window_ms=900_000))
    assert isinstance(seed, Seed)
    until(world, lambda: status(worker, seed.id) is SeedStatus.OPEN, step)
    bid = worker.operate(SubmitBid(seed_id=seed.id, price=1))
    assert isinstance(bid, Bid)
    until(world, lambda: len(publisher.running.replica.state.records[seed.id].bids) == 1, step)
    publisher.operate(CreateClaim(seed_id=seed.id, bid_id=bid.id))
    until(world, lambda: status(worker, seed.id) is SeedStatus.CLAIMED, step)
    worker.operate(StartRun(seed_id=seed.id))
    worker.operate(result(seed.id))
    until(world, lambda: status(publisher, seed.id) is SeedStatus.DONE, step)
    publisher.operate(Settle(seed_id=seed.id, outcome=SeedStatus.ACCEPTED))
    until(world, lambda: status(worker, seed.id) is SeedStatus.ACCEPTED, step)
    return world.now_ms - begun_ms


def held_of(node: SimNode, flooder: Adversary) -> int:
    feeds = node.running.replica.feeds
    return sum(feeds.get(voice.id).head_seq for voice in flooder.voices)


def dropped(node: SimNode) -> int:
    return Counter(notice.fields.get("reason") for notice in node.notices)["author_limited"]


FLOODS = [(SignedFlooder, 1_500), (FreshIdentities, 300)]


@pytest.mark.parametrize(
    ("flood", "budget"), [FLOODS[0], *(pytest.param(*each, marks=pytest.mark.deep) for each in FLOODS[1:])]
)
def test_honest_work_goes_on_and_all_agree_after_a_signed_flood(flood: type[Adversary], budget: int) -> None:
    world = World(7)
    nodes = started(world)
    with_history(world, nodes[:2])
    flooder = flood(world, "flooder", budget=budget)
    begun_ms = world.now_ms
    slowest_ms = 0
    while flooder.budget > 0:
        slowest_ms = max(slowest_ms, job(world, nodes[0], nodes[1], flooder.act))
        seconds = (world.now_ms - begun_ms) / 1000
        for node in nodes:
            assert held_of(node, flooder) <= CONFIG.authors.envelopes_per_s * (seconds + BURST_S + 1)
            assert len(node.running.replica.feeds.get(flooder.author.id).open_seeds) <= CONFIG.caps.open_seeds_max
    assert slowest_ms < 10_000
    assert all(dropped(node) > 0 for node in nodes)
    said = sum(len(voice.said) for voice in flooder.voices)
    assert min(held_of(node, flooder) for node in nodes) < said
    assert world.settle(600_000)
    last = flooder.author.said.get(flooder.author.seq)
    if last is not None:  # nobody tells of what no node has: it says its last word once more
        flooder.tell(last)
        until(world, lambda: {held_of(node, flooder) for node in nodes} == {said}, lambda: None, 600_000)
        assert world.settle(10_000)


def test_a_late_joiner_is_not_held_up_by_the_budget_of_newcomers() -> None:
    world = World(8)
    nodes = started(world)
    for number in range(110):
        nodes[number % 2].operate(Publish(title=f"t{number}", command="true", announce=False))
    assert world.settle(120_000)
    slow = AuthorRates(envelopes_per_s=1, newcomer_envelopes_per_s=1, history_envelopes_per_s=20_000)
    late = world.add("late", structs.replace(CONFIG, authors=slow))
    late.targets = [nodes[0].address]
    late.start()
    begun_ms = world.now_ms
    assert world.settle(120_000)
    assert dropped(late) == 0
    assert world.now_ms - begun_ms < 30_000, "110 newcomers' envelopes would take 100 s"


@pytest.mark.parametrize(("flood", "budget"), [(FreshIdentities, 4_000), (SignedFlooder, 12_000)])
def test_who_bids_on_what_a_flood_offers_goes_on(flood: type[Adversary], budget: int) -> None:
    """What a known author rests on is paid by it: else its feed would stand still where the flood found no room."""
    world = World(11)
    narrow = structs.replace(CONFIG.authors, newcomer_envelopes_per_s=10, newcomer_bytes_per_s=30_000)
    nodes = started(world, structs.replace(CONFIG, authors=narrow))
    with_history(world, nodes[:2])
    flooder = flood(world, "flooder", budget=budget)
    publisher, worker = nodes[:2]

    def lacked() -> list[str]:
        records = worker.running.replica.state.records
        found = [each for voice in flooder.voices for each in worker.running.replica.feeds.get(voice.id).open_seeds]
        return [each for each in found if each in records and each not in publisher.running.replica.state.records]

    until(world, lambda: len(lacked()) > 0, flooder.act)
    seed_id = lacked()[-1]
    worker.operate(SubmitBid(seed_id=seed_id, price=5))
    assert job(world, publisher, worker, flooder.act) < 10_000
    assert flooder.budget > 0
    assert publisher.running.record(seed_id).bids
