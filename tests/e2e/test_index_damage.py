"""Damage of the index that serves others costs time, and nothing else: it is built again (disk-1)."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.support.nodes import NodeProcess, Nodes, crabnet, quiet, wait_for
from tests.support.slices import todays

SEEDS = 40


def published(nodes: Nodes) -> NodeProcess:
    """A node with a history; the index has it."""
    node = nodes.start("node")
    for number in range(SEEDS):
        node.publish(title=f"seed {number}")
    node.end()
    return node.start()


def newcomer_gets_everything(nodes: Nodes, node: NodeProcess) -> None:
    newcomer = nodes.start("newcomer", [node.listen])
    wait_for("the newcomer has all", lambda: newcomer.seed_ids() == node.seed_ids())
    assert node.running
    assert newcomer.state_hash() == node.state_hash()


def changed(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE entry SET record_no = 99, offset = 'abc'")
        other.commit()


def cut(path: Path) -> None:
    os.truncate(path, 4_096)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)


@pytest.mark.parametrize(
    "damage", [changed, *(pytest.param(each, marks=pytest.mark.deep) for each in (cut, overwritten))]
)
def test_an_index_that_is_damaged_under_a_running_node_is_built_again(
    nodes: Nodes, damage: Callable[[Path], None]
) -> None:
    node = published(nodes)
    with suppress(sqlite3.Error):
        damage(node.data_dir / "index.sqlite")
    newcomer_gets_everything(nodes, node)
    node.await_event("index_damaged", file="index.sqlite")
    node.await_event("index_rebuilt", file="index.sqlite")
    assert not node.events("ledger_poisoned")
    assert node.end() == 0


FIRST, *FURTHER = todays(range(40), 10)


@pytest.mark.parametrize("number", [FIRST, *(pytest.param(each, marks=pytest.mark.deep) for each in FURTHER)])
def test_a_bit_that_flips_while_no_node_runs_is_noticed(nodes: Nodes, number: int) -> None:
    node = published(nodes)
    node.end()
    path = node.data_dir / "index.sqlite"
    content = bytearray(path.read_bytes())
    bit = random.Random(number).randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    checked = crabnet("fsck", *quiet(node.data_dir))
    assert checked.returncode == 0
    assert "index.sqlite: damaged, or not sealed" in checked.stdout
    node.start()
    node.await_event("index_rebuilt", file="index.sqlite")
    newcomer_gets_everything(nodes, node)
