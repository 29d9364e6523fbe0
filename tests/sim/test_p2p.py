"""Networks over libp2p, alone and beside datagrams: the same state everywhere, no storms, no blame for others."""

from __future__ import annotations

from collections import Counter

import pytest

from crabnet.core.commands import Publish
from crabnet.core.config import CoreConfig
from crabnet.core.effects import Send
from crabnet.protocol.envelope import seal
from crabnet.protocol.sync import Head, Heads, Hello, NodeIdentity, Request, Talk, Want, payload_of
from crabnet.source import GOSSIP, p2p_source
from tests.sim.__main__ import Task, run
from tests.sim.node import SimNode
from tests.sim.p2p import P2p
from tests.sim.test_relay import Watch
from tests.sim.world import World
from tests.support.envelopes import Author
from tests.support.slices import todays

WISH = Publish(title="t", command="true", timeout_ms=1_000, bid_window_ms=600_000)
CONNECTED_MS = 4_000
NO_SYNC_MS = 3_600_000
"""Nodes greet each other when they are connected; after that only topics bring anything."""
SEEDS = 120
CHUNK = 10
DAYS = 4


def broken(task: Task) -> str:
    """What is wrong with a seed, and how to see it again; "" if nothing is."""
    verdict = run(task)
    return f"{verdict.problem}\nreproduce: {task.command}" if verdict.outcome is None else ""


@pytest.mark.parametrize(("network", "seed"), [pytest.param("dht", 2, marks=pytest.mark.deep), ("mixed", 0)])
def test_nodes_converge_whatever_happens(network: str, seed: int) -> None:
    """In the first of these, false heads come over a topic: whoever passes them on must not count as false."""
    assert broken(Task(seed, None, 200, network=network)) == ""


@pytest.mark.deep
@pytest.mark.parametrize("network", ["dht", "mixed"])
@pytest.mark.parametrize("first", todays(range(0, SEEDS, CHUNK), DAYS))
def test_nodes_converge_whatever_happens_deep(network: str, first: int) -> None:
    seeds = range(first, first + CHUNK)
    problems = [problem for seed in seeds if (problem := broken(Task(seed, None, 300, network=network)))]
    assert problems == []


@pytest.mark.deep
@pytest.mark.parametrize("network", ["dht", "mixed"])
def test_thirty_nodes_converge(network: str) -> None:
    assert broken(Task(30, 30, 600, network=network)) == ""


def connected(world: World, edges: dict[str, str], *, sync_ms: int = 1_000, with_udp: str = "") -> dict[str, SimNode]:
    """Nodes that dial those named over libp2p. Those ``with_udp`` send datagrams to each other too."""
    world.p2p = P2p(world, finds_peers=False)
    nodes = {name: world.add(name, CoreConfig(sync_interval_ms=sync_ms)) for name in (*edges, *with_udp)}
    for name, node in nodes.items():
        node.with_udp = name in with_udp
        node.targets = [nodes[other].address for other in with_udp if node.with_udp and other != name]
        if name in edges:
            world.p2p.add(node, [nodes[other] for other in edges[name]])
        node.start()
    world.run(CONNECTED_MS)
    return nodes


def heads(nodes: dict[str, SimNode], author: SimNode) -> set[int]:
    return {node.running.replica.feeds.get(author.id).head_seq for node in nodes.values()}


@pytest.mark.parametrize("edges", [{"a": "", "b": "a", "c": "b", "d": "c", "e": "d"}, dict.fromkeys("bcdef", "a")])
def test_news_crosses_a_line_and_a_hub_at_once(edges: dict[str, str]) -> None:
    world = World(1)
    nodes = connected(world, {"a": "", **edges}, sync_ms=NO_SYNC_MS)
    nodes["a"].operate(WISH)
    nodes["e"].operate(WISH)
    world.run(300)
    assert heads(nodes, nodes["a"]) == heads(nodes, nodes["e"]) == {1}
    assert len(world.hashes()) == 1


def test_a_late_joiner_and_halves_that_were_apart_agree() -> None:
    world = World(2)
    nodes = connected(world, {"a": "", "b": "a", "c": "b", "d": "bc"})
    late = nodes.pop("d")
    late.crash()
    for _ in range(100):
        nodes["a"].operate(WISH)
    world.run(500)
    world.partition([nodes["a"]], [nodes["b"], nodes["c"], late])
    world.run(3_000)
    nodes["a"].operate(WISH)
    nodes["c"].operate(WISH)
    world.run(2_000)
    assert heads({"b": nodes["b"]}, nodes["a"]) == {100}
    late.start()
    world.run(3_000)
    world.partition()
    assert world.settle(20_000)
    assert heads({**nodes, "d": late}, nodes["a"]) == {101}


def test_the_death_of_a_libp2p_process_is_survived() -> None:
    world = World(3)
    nodes = connected(world, {"a": "", "b": "a", "c": "b"})
    assert world.p2p is not None
    world.p2p.kill(nodes["b"])
    nodes["a"].operate(WISH)
    nodes["c"].operate(WISH)
    assert nodes["b"].running.neighbours.around() == []
    assert world.settle(20_000)
    assert heads(nodes, nodes["a"]) == {1}


def test_bridges_between_the_same_networks_make_no_storm() -> None:
    """A bridge passes an envelope on once into the network from which it has not come, or another was quicker."""
    world = World(4)
    watch = Watch()
    world.observers.append(watch)
    edges = {"x": "", "y": "x", "p": "xy", "q": "xy"}
    nodes = connected(world, edges, sync_ms=NO_SYNC_MS, with_udp="pquv")
    for _ in range(5):
        for node in nodes.values():
            node.operate(WISH)
            world.run(500)
        assert len(world.hashes()) == 1
    by_topic: Counter[str] = Counter()
    by_datagram: Counter[str] = Counter()
    for (sender, envelope_id, target), count in watch.copies.items():
        assert count == 1, "nobody sends an envelope twice to the same place"
        (by_topic if target == GOSSIP else by_datagram)[envelope_id] += 1
        assert sender in "pquv", "in libp2p topics do that"
    assert by_topic
    assert by_datagram
    assert max(by_topic.values()) <= 2, "once by each bridge"


def test_talk_counts_as_its_authors_only() -> None:
    """A topic brings what others have said. Whoever passes it on is neither believed to hold it nor answered."""
    world = World(5)
    nodes = connected(world, {"a": "", "b": "a"})
    nodes["a"].operate(WISH)
    world.run(1_000)
    assert world.p2p is not None
    liar, before = Author("liar"), world.p2p.sent["streams"]
    source = p2p_source(nodes["b"].id)
    said: list[Talk] = [Heads([Head("nobody", 120, "f" * 64)]), Request([Want(nodes["a"].id, 1, 1)])]
    for number, each in enumerate(said):
        kind, payload = payload_of(each)
        talk = seal(liar.signer, kind=kind, namespace="default", ts=world.now_ms // 1000, nonce=number, payload=payload)
        nodes["a"].take(source, talk.raw)
    nodes["a"].sync()
    assert len(nodes["a"].running.neighbours.planner) == 0
    assert world.p2p.sent["streams"] == before


def test_whoever_passes_an_envelope_on_need_not_hold_those_before_it() -> None:
    world = World(6)
    nodes = connected(world, {"a": "", "b": "a", "c": "a"})
    stranger, known = Author("stranger"), Author("c")
    passed_on = [[author.publish() for _ in range(4)][-1] for author in (stranger, known)]
    for envelope in passed_on:
        nodes["a"].take(p2p_source(nodes["b"].id), envelope.raw)
    planner = nodes["a"].running.neighbours.planner
    assert known.id == nodes["c"].id
    assert planner.missing_of(stranger.id) is None
    missing = planner.missing_of(known.id)
    assert missing is not None
    assert missing.sources == [p2p_source(known.id)], "an author holds its own feed"


class Introductions(Watch):
    """When nodes introduced themselves to all."""

    def __init__(self) -> None:
        super().__init__()
        self.at_ms: list[int] = []

    def sent(self, node: SimNode, send: Send) -> None:
        if send.kind == "NodeHello" and send.to == GOSSIP:
            self.at_ms.append(node.now_ms)


def test_what_nodes_say_of_themselves_does_not_grow_with_invented_newcomers() -> None:
    """Every node answers a newcomer with an introduction to all. Many newcomers make nobody talk without end."""
    world = World(7)
    nodes = connected(world, {"a": "", **dict.fromkeys("bcdefgh", "a")})
    world.run(20_000)
    watch = Introductions()
    world.observers.append(watch)
    source = p2p_source(nodes["b"].id)
    for number in range(120):
        newcomer = Author(f"newcomer {number}")
        kind, payload = payload_of(Hello(NodeIdentity(newcomer.id)))
        hello = seal(
            newcomer.signer, kind=kind, namespace="default", ts=world.now_ms // 1000, nonce=number, payload=payload
        )
        for name in "abcdefgh":
            nodes[name].take(source, hello.raw)
        world.run(1_000)
    half = len(watch.at_ms) // 2
    assert watch.at_ms
    assert watch.at_ms[half] - watch.at_ms[0] < (watch.at_ms[-1] - watch.at_ms[half]) / 2, "ever more rarely"
