"""Authors who sign two envelopes for one place: whoever heard which first, their feeds end there in all nodes."""

from __future__ import annotations

import pytest

from crabnet.core.commands import Received
from crabnet.core.config import CoreConfig
from crabnet.protocol.envelope import Kind
from tests.sim.world import Weather, World
from tests.support.envelopes import Author

STRANGER = "udp:203.0.113.9:9012"


def branches(number: int, common: int, lengths: list[int]) -> list[list[bytes]]:
    """Feeds of one author that agree on the first ``common`` envelopes and go apart then."""
    feeds = []
    for branch, length in enumerate(lengths):
        author = Author(f"forger{number}")
        feed = []
        for seq in range(1, common + length + 1):
            author.nonce = 1_000 * seq + (branch if seq == common + 1 else 0)
            feed.append(author.say(Kind.SEED_CREATED, {"seed": author.seed(title=f"t{branch if seq > common else 0}")}))
        feeds.append([envelope.raw for envelope in feed])
    return feeds


def quarrel(seed: int, feeds: list[list[bytes]], nodes: int = 4) -> World:
    """Each branch is told to other nodes, which then talk."""
    world = World(seed, forks=True)
    for number in range(nodes):
        world.add(f"n{number}", CoreConfig())
    members = list(world.nodes.values())
    for node in members:
        node.targets = [other.address for other in members if other is not node]
        node.start()
    for number, node in enumerate(members):
        for raw in feeds[number % len(feeds)]:
            node.give(Received(STRANGER, raw))
    world.weather = Weather(loss=0.1, duplicate=0.1)
    return world


@pytest.mark.parametrize("common", [0, 1, 3])
@pytest.mark.parametrize("lengths", [[1, 1], [3, 1], [1, 3], [2, 2, 2], [20, 1], [1, 20], [90, 100], [150, 3]])
def test_the_feed_ends_before_the_fork_in_all_nodes(common: int, lengths: list[int]) -> None:
    world = quarrel(common, branches(common, common, lengths))
    assert world.settle(60_000)
    for node in world.nodes.values():
        feed = node.running.replica.feeds.get(Author(f"forger{common}").id)
        assert (feed.end, feed.head_seq) == (common + 1, common)
        assert any(notice.kind == "fork_detected" for notice in node.notices)


def test_a_lost_branch_is_not_asked_for_again_and_again() -> None:
    """What lies behind the end of a feed is no gap."""
    feeds = branches(1, 2, [30, 30])
    world = quarrel(5, feeds, nodes=2)
    assert world.settle(60_000)
    world.run(60_000)
    before = sum(notice.kind == "gap_requested" for node in world.nodes.values() for notice in node.notices)
    world.run(60_000)
    after = sum(notice.kind == "gap_requested" for node in world.nodes.values() for notice in node.notices)
    assert after == before


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(6))
def test_several_forgers_of_deep_forks(seed: int) -> None:
    world = World(seed, forks=True)
    feeds = [
        branches(number, world.rng.randrange(60), [world.rng.randrange(1, 300) for _ in range(3)])
        for number in range(3)
    ]
    world = quarrel(seed, feeds[0], nodes=5)
    members = list(world.nodes.values())
    for more in feeds[1:]:
        for number, node in enumerate(members):
            for raw in more[number % 3]:
                node.give(Received(STRANGER, raw))
    assert world.settle(120_000)
