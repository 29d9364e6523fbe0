"""A node whose memory has no room for what waits: it sleeps on disk, and is woken, also after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from crabnet import limits
from crabnet.core.commands import Received
from crabnet.core.effects import Effects
from crabnet.node.node import Node
from crabnet.node.store import INDEX_NAME
from crabnet.operator.log import LogFilter, read_log
from crabnet.protocol.envelope import Envelope
from crabnet.storage.files import RealFiles
from tests.core.test_outcomes import Scene
from tests.operator.support import settings_of, verify
from tests.support.envelopes import NOW_S

DEADLINE_S = 60


@pytest.fixture(autouse=True)
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ORPHAN_FACTS_MAX", 0)


def open_node(data_dir: Path) -> Node:
    return Node(settings_of(data_dir), listen=False, clock_ms=lambda: NOW_S * 1000)


async def tell(node: Node, *envelopes: Envelope) -> None:
    for envelope in envelopes:
        effects = Effects()
        node.core.handle(Received("192.0.2.1:9012", envelope.raw), NOW_S * 1000, effects)
        await node.committer.submit(effects)


async def woken(node: Node, scene: Scene, bids: int) -> None:
    """Wait until these bids count, and nothing is left to be woken."""
    with trio.fail_after(DEADLINE_S):
        while len(node.core.record(scene.seed_id).bids) < bids or node.core.replica.dormancy.restless:
            await trio.sleep(0.01)


@pytest.mark.parametrize("bound", ["SLEEPERS_WOKEN_AT_ONCE", "SYNC_RESPONSE_BYTES_MAX"])
async def test_more_than_one_reading_is_woken_when_the_seed_comes(
    bound: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, bound, 2)
    scene = Scene()
    seed = scene.seed()
    bids = [scene.bid(by) for by in (scene.worker, scene.rival, scene.worker, scene.rival, scene.worker)]
    async with open_node(tmp_path) as node:
        await tell(node, *bids)
        assert not node.core.replica.state.records
        await tell(node, seed)
        await woken(node, scene, len(bids))
        state_hash = await node.state_hash()
    report = verify(tmp_path)
    assert (report.findings, report.otherwise, report.state_hash) == ([], 0, state_hash)
    log = list(read_log(RealFiles(), tmp_path, LogFilter(kinds=frozenset())))
    assert [(row.decision, row.reason) for row in log if row.object_id == scene.bid_id] == [
        ("ignored", "unknown_seed"),
        ("accepted", None),
    ]


@pytest.mark.parametrize("index_lost", [False, True])
async def test_sleepers_are_found_after_a_restart(index_lost: bool, tmp_path: Path) -> None:
    scene = Scene()
    seed = scene.seed()
    async with open_node(tmp_path) as node:
        await tell(node, scene.bid(scene.worker), scene.bid(scene.rival))
    if index_lost:
        for path in tmp_path.glob(f"{INDEX_NAME}*"):
            path.unlink()
    async with open_node(tmp_path) as node:
        await tell(node, seed)
        await woken(node, scene, 2)
        state_hash = await node.state_hash()
    async with open_node(tmp_path) as node:
        assert await node.state_hash() == state_hash


async def test_what_was_roused_when_the_node_stopped_is_woken_at_the_next_start(tmp_path: Path) -> None:
    scene = Scene()
    seed = scene.seed()
    async with open_node(tmp_path) as node:
        await tell(node, scene.bid(scene.worker))
        effects = Effects()
        node.core.handle(Received("192.0.2.1:9012", seed.raw), NOW_S * 1000, effects)
        effects.roused.clear()
        await node.committer.submit(effects)
        assert not node.core.record(scene.seed_id).bids
    async with open_node(tmp_path) as node:
        await woken(node, scene, 1)


async def test_what_is_not_in_the_journal_yet_is_waited_for(tmp_path: Path) -> None:
    """The seed is known before the disk has the bid that sleeps: whoever looks for it now would find nothing."""
    scene = Scene()
    seed = scene.seed()
    async with open_node(tmp_path) as node:
        for envelope in (scene.bid(scene.worker), seed):
            effects = Effects()
            node.core.handle(Received("192.0.2.1:9012", envelope.raw), NOW_S * 1000, effects)
            node.committer.enqueue(effects)
        node.waker.rouse()
        await woken(node, scene, 1)
