"""Relay: news crosses nodes that know only their neighbours at once, unchanged, and without a storm."""

from __future__ import annotations

from collections import Counter

import pytest

from crabnet.core.commands import Publish, Received
from crabnet.core.config import CoreConfig
from crabnet.core.effects import Effects, FeedPlace, Send
from crabnet.protocol.envelope import FEED_KINDS
from tests.sim.node import SimNode
from tests.sim.world import World

NO_SYNC_MS = 3_600_000
"""Nodes greet each other at their start; after that only relay brings anything."""
WISH = Publish(title="t", command="true", timeout_ms=1_000, bid_window_ms=600_000)


class Watch:
    """Counts the copies of feed envelopes that nodes send, by sender."""

    def __init__(self) -> None:
        self.relayed: Counter[tuple[str, str]] = Counter()
        self.copies: Counter[tuple[str, str, str | None]] = Counter()
        """By sender, envelope and target."""
        self.targets: set[str | None] = set()
        self.prunes = 0

    def stepped(self, node: SimNode, effects: Effects) -> None: ...

    def received(self, node: SimNode, given: Received, effects: Effects) -> None: ...

    def durable(self, node: SimNode, effects: Effects) -> None: ...

    def acknowledged(self, node: SimNode, place: FeedPlace) -> None: ...

    def started(self, node: SimNode) -> None: ...

    def sent(self, node: SimNode, send: Send) -> None:
        self.prunes += send.kind == "RelayPrune"
        if send.relayed:
            assert send.kind in FEED_KINDS
            self.relayed[node.name, send.envelope_id] += 1
            self.copies[node.name, send.envelope_id, send.to] += 1
            self.targets.add(send.to)


def config(fanout: int = 4, sync_ms: int = NO_SYNC_MS) -> CoreConfig:
    return CoreConfig(relay_fanout=fanout, sync_interval_ms=sync_ms)


def started(world: World, edges: dict[str, str], **changes: int) -> dict[str, SimNode]:
    """Nodes, each with the names of its targets."""
    nodes = {name: world.add(name, config(**changes)) for name in edges}
    for name, targets in edges.items():
        nodes[name].targets = [nodes[target].address for target in targets]
        nodes[name].start()
    world.run(2_500)
    return nodes


def mesh(names: str) -> dict[str, str]:
    return {name: names.replace(name, "") for name in names}


def head(node: SimNode, author: SimNode) -> int:
    return node.running.replica.feeds.get(author.id).head_seq


def watched(world: World) -> Watch:
    watch = Watch()
    world.observers.append(watch)
    return watch


LINE = {"a": "b", "b": "ac", "c": "bd", "d": "ce", "e": "df", "f": "e"}


def test_news_crosses_a_line_at_once_and_unchanged() -> None:
    world = World(1)
    nodes = started(world, LINE)
    for _ in range(5):
        nodes["a"].operate(WISH)
        nodes["f"].operate(WISH)
    world.run(1_500)
    assert len(world.hashes()) == 1
    assert {(head(node, nodes["a"]), head(node, nodes["f"])) for node in nodes.values()} == {(5, 5)}
    logs = [{author: node.history.of(author) for author in (nodes["a"].id, nodes["f"].id)} for node in nodes.values()]
    assert all(log == logs[0] for log in logs)


def test_without_relay_the_line_waits_for_sync() -> None:
    """What the test above would show if nothing were relayed."""
    world = World(1)
    nodes = started(world, LINE, fanout=0)
    nodes["a"].operate(WISH)
    world.run(1_500)
    assert (head(nodes["b"], nodes["a"]), head(nodes["c"], nodes["a"])) == (1, 0)


def test_regions_joined_by_one_node_hear_of_each_other_at_once() -> None:
    world = World(2)
    edges = {**mesh("abcd"), **mesh("wxyz")}
    edges["d"] += "m"
    edges["w"] += "m"
    nodes = started(world, {**edges, "m": "dw"})
    for name in "axm":
        nodes[name].operate(WISH)
    world.run(1_500)
    assert len(world.hashes()) == 1


def test_every_node_passes_an_envelope_on_once_and_to_few() -> None:
    world = World(3)
    watch = watched(world)
    nodes = started(world, mesh("abcdefghij"), fanout=2)
    nodes["a"].operate(WISH)
    world.run(1_500)
    assert len(world.hashes()) == 1
    assert watch.relayed
    assert max(watch.relayed.values()) <= 2
    before = dict(watch.relayed)
    ((_, _, raw),) = nodes["b"].history.of(nodes["a"].id)
    for source in ("c", "d", "203.0.113.9"):
        for _ in range(20):
            nodes["b"].give(Received(f"udp:{source}:9012", raw))
    world.run(1_500)
    assert dict(watch.relayed) == before


def test_where_everybody_hears_the_author_relaying_ends() -> None:
    """Copies that nobody needs are pruned: in a full mesh nothing but the author's own copies is left."""
    world = World(4)
    watch = watched(world)
    nodes = started(world, mesh("abcde"), sync_ms=1_000)
    for _ in range(12):
        nodes["a"].operate(WISH)
        world.run(1_000)
    assert watch.relayed
    first = sum(watch.relayed.values())
    assert first <= 4 * 3, "one copy over each link, at most"
    for _ in range(20):
        nodes["a"].operate(WISH)
        world.run(1_000)
    assert sum(watch.relayed.values()) == first
    assert watch.prunes <= first


def test_a_path_that_dies_is_replaced() -> None:
    """c was pruned for a's envelopes; cut off from a it asks b by sync, and from then on b relays them again."""
    world = World(5)
    nodes = started(world, mesh("abc"), sync_ms=1_000)
    for _ in range(4):
        nodes["a"].operate(WISH)
        world.run(1_500)
    pair = (nodes["a"].address, nodes["c"].address)
    world.cut = frozenset({pair, pair[::-1]})
    watch = watched(world)
    for _ in range(4):
        nodes["a"].operate(WISH)
        world.run(8_000)
    assert head(nodes["c"], nodes["a"]) == 8
    assert sum(number for (name, _), number in watch.relayed.items() if name == "b") >= 2


@pytest.mark.parametrize("changed", [b'"title":"x"', b'"title":"longer"'])
def test_an_envelope_altered_on_the_way_is_refused_and_healed(changed: bytes) -> None:
    world = World(6)
    nodes = started(world, {"a": "b", "b": "ac", "c": "b"}, sync_ms=1_000)
    honest = world.send
    altered = 0

    def send(source: str, target: str, data: bytes) -> None:
        nonlocal altered
        if altered < 3 and target == nodes["c"].address and b'"title":"t"' in data:
            altered += 1
            data = data.replace(b'"title":"t"', changed)
        honest(source, target, data)

    world.send = send  # type: ignore[method-assign]
    nodes["a"].operate(WISH)
    world.run(300)
    refused = [notice for notice in nodes["c"].notices if notice.kind == "envelope_rejected"]
    assert altered
    assert [notice.fields["reason"] for notice in refused] == ["wrong_id"]
    assert head(nodes["c"], nodes["a"]) == 0
    world.run(30_000)
    assert len(world.hashes()) == 1
    assert nodes["c"].history.of(nodes["a"].id) == nodes["a"].history.of(nodes["a"].id)


def test_nothing_is_relayed_to_broadcast_addresses() -> None:
    """They answer to nothing, and everybody behind them would relay in turn."""
    world = World(7)
    watch = watched(world)
    nodes = {name: world.add(name, config()) for name in "ab"}
    nodes["a"].targets = [nodes["b"].address]
    nodes["b"].targets = [nodes["a"].address, "udp:255.255.255.255:9012"]
    for node in nodes.values():
        node.start()
    world.run(2_500)
    nodes["a"].operate(WISH)
    world.run(1_500)
    assert head(nodes["b"], nodes["a"]) == 1
    assert not watch.targets
