"""What a network sends until one envelope has reached every node, beside the least that it could send."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import product

from msgspec import Struct
from msgspec.structs import replace

from tests.sim.market import Market
from tests.sim.p2p import P2p
from tests.sim.scenario import default_config
from tests.sim.world import SimNode, Traffic, Weather, World

SIZES = (5, 20, 50)
LOSSES = (0.0, 0.1)
TOPOLOGIES = ("mesh", "hub", "dht")
"""Everybody knows everybody; everybody knows the first and one more; libp2p, with as many peers as a node dials."""
OPERATIONS = 300
WARM_UP_MS = 5_000
P2P_WARM_UP_MS = 150_000
"""Longer, because nodes that have just met introduce themselves."""
IDLE_MS = 10_000
ROUNDS_MAX = 300
HEADER = (
    "| nodes | known to each | loss | envelopes | bytes of one | messages | bytes | without talk: messages | bytes"
    " | idle, 1/s and node | kB/s and node | rounds |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


class Figures(Struct, frozen=True, kw_only=True):
    """Of one network. ``idle`` is what one node sends in a second when nothing happens."""

    nodes: int
    topology: str
    loss: float
    envelopes: int
    envelope_bytes: int
    sent: Traffic
    seconds: float
    idle_datagrams: float
    idle_bytes: float
    rounds: int

    def per_arrival(self, *, with_talk: bool) -> tuple[float, float]:
        """Datagrams and bytes for each arrival of an envelope at another node, over the least: 1.0 is one sending."""
        share = 0 if with_talk else self.seconds * self.nodes
        arrivals = self.envelopes * (self.nodes - 1)
        datagrams = self.sent.datagrams - share * self.idle_datagrams
        sent_bytes = self.sent.bytes - share * self.idle_bytes
        return datagrams / arrivals, sent_bytes / (arrivals * self.envelope_bytes / self.envelopes)

    def __str__(self) -> str:
        messages, sent_bytes = self.per_arrival(with_talk=True)
        net_messages, net_bytes = self.per_arrival(with_talk=False)
        return (
            f"| {self.nodes} | {self.topology} | {self.loss:.0%} | {self.envelopes}"
            f" | {self.envelope_bytes / self.envelopes:.0f} | {messages:.2f} | {sent_bytes:.2f} | {net_messages:.2f}"
            f" | {net_bytes:.2f} | {self.idle_datagrams:.1f} | {self.idle_bytes / 1000:.2f} | {self.rounds} |"
        )


def _network(nodes: int, topology: str, loss: float) -> tuple[World, list[SimNode]]:
    world = World(nodes, forks=True)
    world.weather = Weather(loss=loss, delay_ms=(1, 60))
    # No seed closes by itself meanwhile: only what operators do is measured.
    config = replace(default_config(), execution_grace_ms=10**9)
    members = [world.add(f"n{number}", config) for number in range(nodes)]
    if topology == "dht":
        world.p2p = P2p(world)
        for node in members:
            node.with_udp = False
            world.p2p.add(node, [members[0], world.rng.choice(members)])
    for node in members:
        others = [other.address for other in members if other is not node]
        hub = [members[0].address] if node is not members[0] else []
        if node.with_udp:
            node.targets = others if topology == "mesh" else sorted({*hub, world.rng.choice(others)})
        node.keep_notices = False
        node.start()
    return world, members


def measure(nodes: int, topology: str, loss: float, *, operations: int = OPERATIONS) -> Figures:
    """One network at work, until all its nodes hold the same."""
    world, members = _network(nodes, topology, loss)
    market = Market(world)
    world.observers.append(market)
    for node in members:
        market.publish(node)
    world.run(P2P_WARM_UP_MS if world.p2p is not None else WARM_UP_MS)
    while len(world.hashes()) > 1:
        world.run(1_000)
    before = world.traffic
    world.run(IDLE_MS)
    idle = Traffic(world.traffic.datagrams - before.datagrams, world.traffic.bytes - before.bytes)
    before, started_ms = world.traffic, world.now_ms
    held = _held(members)
    target = market.done + operations
    while market.done < target:
        market.turn(world.rng.choice(members))
        market.turn(world.rng.choice(members))
        world.run(100)
    rounds = 0
    while len(world.hashes()) > 1:
        rounds += 1
        if rounds > ROUNDS_MAX:
            raise AssertionError(f"{nodes} nodes, {topology}, {loss:.0%}: no agreement after {ROUNDS_MAX} rounds")
        world.run(1_000)
    now_held = _held(members)
    return Figures(
        nodes=nodes,
        topology=topology,
        loss=loss,
        envelopes=now_held.datagrams - held.datagrams,
        envelope_bytes=now_held.bytes - held.bytes,
        sent=Traffic(world.traffic.datagrams - before.datagrams, world.traffic.bytes - before.bytes),
        seconds=(world.now_ms - started_ms) / 1000,
        idle_datagrams=idle.datagrams / (IDLE_MS / 1000) / nodes,
        idle_bytes=idle.bytes / (IDLE_MS / 1000) / nodes,
        rounds=rounds,
    )


def _held(members: list[SimNode]) -> Traffic:
    """Envelopes that the first node holds, and their bytes."""
    sizes = [len(raw) for raw in members[0].history.envelopes()]
    return Traffic(len(sizes), sum(sizes))


def figures() -> Iterator[Figures]:
    """All networks of the report."""
    for nodes, topology, loss in product(SIZES, TOPOLOGIES, LOSSES):
        yield measure(nodes, topology, loss)


def report() -> None:
    """Print the table."""
    gc.disable()
    print(HEADER)
    for each in figures():
        print(each, flush=True)
        gc.collect()
