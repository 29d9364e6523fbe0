"""A damaged row of the archive keeps nobody from the others (disk-7)."""

from __future__ import annotations

from pathlib import Path

import pytest

from crabnet.core.commands import Settle
from crabnet.domain.model import SeedStatus
from crabnet.errors import ExitCode
from crabnet.node.node import Node
from tests.operator.support import Clock, publish, work
from tests.support.nodes import crabnet, quiet

SEEDS = 5


@pytest.fixture(name="data_dir")
def _data_dir(tmp_path: Path) -> Path:
    """A data dir with an archive of withdrawn tasks, one of whose rows is damaged."""
    clock = Clock()

    async def fill(node: Node) -> None:
        for number in range(SEEDS):
            seed = await publish(node, f"t{number}")
            await node.perform(Settle(seed_id=seed.id, outcome=SeedStatus.EXPIRED))
        clock.now_ms += 3_600_000
        while await node.archivist.archive_due():
            pass

    work(tmp_path / "d", fill, clock=clock, archive_after_s=60)
    segment = tmp_path / "d" / "archive" / f"{1:020d}.seg"
    content = bytearray(segment.read_bytes())
    content[content.index(b'"t2"') + 1] ^= 1
    segment.write_bytes(content)
    return tmp_path / "d"


def listed(data_dir: Path) -> int:
    done = crabnet("seed", "list", *quiet(data_dir))
    assert done.returncode == 0, done.stderr
    assert "1 archived tasks are damaged" in done.stderr
    return len(done.stdout.splitlines())


def test_the_others_are_listed_without_a_node_and_with_one(data_dir: Path) -> None:
    assert listed(data_dir) == SEEDS - 1

    async def ask(node: Node) -> None:
        assert len(await node.seeds()) == SEEDS - 1
        assert len(await node.seeds(limit=2)) == 2
        assert node.archivist.unreadable == 1

    work(data_dir, ask)


def test_the_audit_blames_the_archive(data_dir: Path) -> None:
    done = crabnet("audit", "verify", *quiet(data_dir))
    assert done.returncode == ExitCode.DAMAGED
    assert ".seg" in done.stdout.splitlines()[0]
