"""A private network of nodes and of foreign peers: js-libp2p has the same protocol for the key of a network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.interop.conftest import MakeJs, MakeNode
from tests.support.dht import needs_libp2p
from tests.support.nodes import wait_for

pytestmark = [pytest.mark.deep, needs_libp2p]

HEAD = "/key/swarm/psk/1.0.0/\n/base16/\n"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The key of a network."""
    path = tmp_path / "network.key"
    path.write_text(HEAD + os.urandom(32).hex() + "\n", encoding="ascii")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("dialled_by", ["js", "node"])
def test_a_foreign_member_takes_part(dialled_by: str, js: MakeJs, dht_node: MakeNode, key: Path) -> None:
    peer = js(swarm_key=key.read_text(encoding="ascii"))
    words = ("--dht-network-key-file", str(key))
    if dialled_by == "js":
        node = dht_node("node", words=words)
        peer.order("connect", address=node.multiaddr)
    else:
        node = dht_node("node", peer.multiaddr, words=words)
    peer.knows_the_topics_of(node)
    published = peer.publish(description="d" * 60_000)
    assert published["recipients"] == 1
    theirs = str(published["object_id"])
    wait_for("the node sees the seed", lambda: node.status(theirs) == "Open")
    ours = node.publish("echo hi", description="d" * 60_000)
    peer.object(node.node_id, "SeedCreated", "seed", id=ours)
    assert not peer.events("invalid")
    assert not node.events("strangers_refused")


@pytest.mark.parametrize("swarm_key", ["", HEAD + "00" * 32])
def test_a_foreign_stranger_gets_nothing(swarm_key: str, js: MakeJs, dht_node: MakeNode, key: Path) -> None:
    peer = js(swarm_key=swarm_key)
    node = dht_node("node", peer.multiaddr, words=("--dht-network-key-file", str(key)))
    node.publish()
    with pytest.raises(AssertionError, match="failed"):
        peer.order("connect", address=node.multiaddr)
    refused = node.await_event("strangers_refused", address="127.0.0.1")
    expected = "it speaks without a key" if not swarm_key else "has another key"
    assert expected in str(refused.payload["detail"])
    failed = node.await_event("bootstrap_failed", reason="wrong_network_key")
    assert peer.multiaddr in str(failed.payload["address"])
    assert not peer.events("connected")
    assert not node.p2p_peers()
