"""Foreign peers and nodes, ended after each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.js_install import NotInstalledError, installed
from tests.interop.support import JsPeer
from tests.support.dht import DhtNode
from tests.support.nodes import Nodes

MakeJs = Callable[..., JsPeer]
MakeNode = Callable[..., DhtNode]


@pytest.fixture(scope="session")
def node_js() -> str:
    """The path of Node.js, once js-libp2p is installed."""
    try:
        return installed()
    except NotInstalledError as error:
        pytest.skip(f"NOT TESTED: that peers of other implementations can take part, because {error}")


@pytest.fixture
def js(node_js: str, tmp_path: Path) -> Iterator[MakeJs]:
    """Makes foreign peers with new keys."""
    made: list[JsPeer] = []

    def make(seed: bytes | None = None, *, swarm_key: str = "") -> JsPeer:
        made.append(JsPeer(node_js, tmp_path, seed or os.urandom(32), swarm_key=swarm_key))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def dht_node(tmp_path: Path) -> Iterator[MakeNode]:
    """Starts nodes in the dht network."""
    nodes = Nodes(tmp_path)

    def start(name: str, *peers: str, words: tuple[str, ...] = ()) -> DhtNode:
        return DhtNode(nodes, name, peers, (), *words).start()

    yield start
    nodes.close()
