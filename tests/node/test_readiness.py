"""The operation ``health`` tells why a node is not ready; the doctor's check ``ready`` tells the same."""

from __future__ import annotations

from pathlib import Path

import msgspec

from crabnet.errors import Reason
from crabnet.limits import DISK_FREE_LOW_BYTES
from crabnet.node.node import Node
from crabnet.operations.health import Examination, Verdict
from crabnet.operations.overview import Health
from crabnet.settings import Settings
from crabnet.storage.files import RealFiles
from tests.node.test_feed_risk import damage
from tests.support.asking import asked


class Disk(RealFiles):
    """A disk with ``free`` bytes left."""

    free = DISK_FREE_LOW_BYTES

    def free_bytes(self, path: Path) -> int:
        return self.free


def node_in(data_dir: Path, disk: Disk) -> Node:
    settings = Settings(data_dir=data_dir, listen_addr="127.0.0.1:0", announce_addrs=())
    return Node(settings, listen=False, files=disk)


async def doubts(node: Node) -> set[str]:
    """The reasons of ``health``. The doctor must warn of each."""
    health = msgspec.convert(await asked(node, "health", {}), Health)
    examined = msgspec.convert(await asked(node, "doctor", {}), Examination)
    ready = next(each for each in examined.checks if each.name == "ready")
    assert (ready.verdict is Verdict.OK) is health.ready is not bool(health.reasons)
    for doubt in health.reasons:
        assert doubt.detail in ready.detail
    return {each.reason for each in health.reasons}


async def test_a_fit_node_is_ready_until_its_disk_is_nearly_full(tmp_path: Path) -> None:
    disk = Disk()
    async with node_in(tmp_path / "data", disk) as node:
        assert await doubts(node) == set()
        disk.free -= 1
        assert await doubts(node) == {Reason.DISK_FULL}
        disk.free += 1
        assert await doubts(node) == set()


async def test_a_node_that_may_not_write_is_not_ready(tmp_path: Path) -> None:
    async with node_in(tmp_path / "data", Disk()) as node:
        assert node.node_id
    damage(tmp_path / "data")
    async with node_in(tmp_path / "data", Disk()) as node:
        assert await doubts(node) == {Reason.FEED_RISK}
