"""Many nodes, a bad network, crashes, partitions: when all is well again, all nodes agree and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from crabnet.core.commands import Operation
from crabnet.core.core import CoreConfig
from crabnet.core.effects import Effects, Reply
from crabnet.domain.state import Command, Decision, Outcome, State, decide
from tests.sim.market import trading
from tests.sim.world import SimNode, Weather, World

CONFIG = CoreConfig(execution_grace_ms=2_000, parked_ttl_s=20)


def build(seed: int, nodes: int) -> World:
    """Nodes that know the first one, and one more, by configuration; the rest they learn."""
    world = World(seed)
    for number in range(nodes):
        world.add(f"n{number}", CONFIG, skew_ms=world.rng.randint(-1_500, 1_500))
    members = list(world.nodes.values())
    for number, node in enumerate(members):
        known = {members[0].address, members[world.rng.randrange(nodes)].address} - {node.address}
        node.targets = sorted(known) if number else []
        node.start()
    return world


def trouble(world: World) -> Callable[[], None]:
    """Crashes, restarts from disk, checkpoints and partitions, now and then."""
    rng = world.rng

    def step() -> None:
        for _ in range(2):
            trading(world)
        node = rng.choice(list(world.nodes.values()))
        chance = rng.random()
        if node.core is None:
            if chance < 0.1:
                node.start()
        elif chance < 0.01:
            node.crash()
        elif chance < 0.02:
            node.sync()
            node.checkpoint()
        elif chance < 0.03:
            members = list(world.nodes.values())
            rng.shuffle(members)
            half = rng.randrange(1, len(members))
            world.partition(members[:half], members[half:])
        elif chance < 0.05:
            world.partition()

    return step


def simulate(seed: int, *, nodes: int, duration_ms: int) -> World:
    """A life of trouble, then peace."""
    world = build(seed, nodes)
    rng = world.rng
    world.weather = Weather(rng.choice([0.0, 0.2, 0.4]), rng.choice([0.0, 0.3]), (1, rng.choice([20, 1_500])))
    world.run(duration_ms, step=trouble(world))
    world.partition()
    world.weather = Weather()
    for node in world.nodes.values():
        if node.core is None:
            node.start()
    world.run(40_000)
    return world


def verdict(world: World, seed: int) -> str:
    """What is wrong in the end, "" if nothing."""
    if not world.settle():
        return f"seed {seed}: the nodes disagree: {sorted(map(describe, world.nodes.values()))}"
    for node in world.nodes.values():
        for author, seq, envelope_id in node.acknowledged:
            for other in world.nodes.values():
                held = other.running.replica.feeds.get(author).entry(seq)
                if held is None or held.id != envelope_id:
                    return f"seed {seed}: {other.name} lacks {envelope_id} ({seq}), which {node.name} acknowledged"
        live = node.running.replica
        hashed = live.state_hash()
        node.sync()
        node.crash()
        node.start()
        if node.running.replica.state_hash() != hashed:
            return f"seed {seed}: {node.name} is another after a restart"
        if live.feeds.heads() != node.running.replica.feeds.heads():
            return f"seed {seed}: {node.name} has other heads after a restart"
    return ""


def describe(node: SimNode) -> str:
    """A node in one line."""
    replica = node.running.replica
    feeds = sorted((author[-4:], seq) for author, (seq, _) in replica.feeds.heads().items())
    return f"{node.name} {replica.state_hash()[:8]} {feeds} parked {len(replica.parking)}"


@pytest.mark.parametrize("seed", range(5))
def test_nodes_agree_in_the_end(seed: int) -> None:
    assert verdict(simulate(seed, nodes=5, duration_ms=30_000), seed) == ""


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(100, 124))
def test_nodes_agree_in_the_end_deep(seed: int) -> None:
    assert verdict(simulate(seed, nodes=5 + seed % 4, duration_ms=60_000), seed) == ""


def _impatient(state: State, command: Command, now_s: int) -> Decision:
    """A mistake to be found: what waits for its parent is dropped, so that the order of arrival matters."""
    decision = decide(state, command, now_s)
    return msgspec.structs.replace(decision, events=()) if decision.outcome is Outcome.IGNORED else decision


def test_a_state_that_depends_on_the_order_of_arrival_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crabnet.core.replica.decide", _impatient)
    assert any(verdict(simulate(seed, nodes=5, duration_ms=30_000), seed) for seed in range(6))


class _Eager(SimNode):
    """A mistake to be found: what is not durable is acknowledged and sent."""

    def operate(self, wish: Operation) -> Reply:
        effects = Effects()
        self.running.handle(wish, self.now_ms, effects)
        self.acknowledged += [(place.author, place.seq, place.envelope_id) for place in effects.places]
        self._submit(effects, acknowledge=False)
        return effects.reply


def test_an_acknowledgement_before_the_sync_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.sim.world.SimNode", _Eager)
    monkeypatch.setattr(World, "sync_ms", 400, raising=False)
    assert any(verdict(simulate(seed, nodes=5, duration_ms=30_000), seed) for seed in range(6))
