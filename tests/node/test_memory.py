"""What a node has loaded is left out of garbage collections. When the node is closed, its memory is freed again."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import crabnet


async def test_a_program_can_open_one_node_after_another(tmp_path: Path) -> None:
    settings = crabnet.Settings(
        data_dir=tmp_path / "data", listen_addr="127.0.0.1:0", announce_addrs=(), web_addr="off"
    )
    cores = []
    for _ in range(3):
        async with crabnet.Node(settings) as node:
            cores.append(weakref.ref(node.core))
        del node
    gc.collect()
    assert [core() for core in cores] == [None, None, None]
