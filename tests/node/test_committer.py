"""What a node has taken in before it stops is durable when it has stopped."""

from __future__ import annotations

from pathlib import Path

import trio

from crabnet.core.commands import Received
from crabnet.core.effects import Effects
from crabnet.node.node import Node
from tests.core.test_outcomes import Scene
from tests.operator.support import settings_of
from tests.support.envelopes import NOW_S

DEADLINE_S = 60


def open_node(data_dir: Path) -> Node:
    return Node(settings_of(data_dir), listen=False, clock_ms=lambda: NOW_S * 1000)


async def test_what_waits_for_the_disk_when_a_node_stops_is_written(tmp_path: Path) -> None:
    scene = Scene()
    with trio.fail_after(DEADLINE_S):
        async with open_node(tmp_path) as node:
            for envelope in (scene.seed(), scene.bid(scene.worker)):
                effects = Effects()
                node.core.handle(Received("192.0.2.1:9012", envelope.raw), NOW_S * 1000, effects)
                node.committer.enqueue(effects)
            state_hash = node.core.replica.state_hash()
        async with open_node(tmp_path) as node:
            assert await node.state_hash() == state_hash
            assert len(node.core.record(scene.seed_id).bids) == 1
