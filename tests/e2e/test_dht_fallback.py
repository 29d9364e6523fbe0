"""What cannot be published over libp2p goes by UDP where that is configured, and by sync in any case."""

from __future__ import annotations

import pytest

from tests.support.dht import DhtNode, dht_node, needs_libp2p
from tests.support.nodes import Nodes, converge, wait_for

pytestmark = [needs_libp2p, pytest.mark.deep]


def test_without_a_peer_news_goes_by_datagrams(nodes: Nodes) -> None:
    listener = nodes.start("listener")
    lonely = dht_node(nodes, "lonely", [], "--dht-udp-fallback", listener.listen)
    seed_id = lonely.publish()
    wait_for("the listener hears", lambda: listener.status(seed_id) == "Open")
    event = lonely.await_event("gossip_unpublished", kind="SeedCreated")
    assert (event.payload["reason"], event.payload["outcome"]) == ("no_peers", "udp")


def test_without_a_peer_and_without_datagrams_sync_brings_it_later(nodes: Nodes) -> None:
    lonely = dht_node(nodes, "lonely")
    seed_id = lonely.publish()
    event = lonely.await_event("gossip_unpublished", kind="SeedCreated")
    assert (event.payload["reason"], event.payload["outcome"]) == ("no_peers", "sync")
    late = dht_node(nodes, "late", [lonely])
    wait_for("sync brings it", lambda: late.status(seed_id) == "Open")


def test_while_libp2p_is_away_a_bridge_goes_on_and_catches_up_afterwards(nodes: Nodes) -> None:
    bridge = DhtNode(nodes, "bridge", [], [], "--network", "udp,dht").start()
    datagrams = nodes.start("datagrams", [bridge.listen])
    streams = dht_node(nodes, "streams", [bridge])
    bridge.knows(1)
    killed = int(str(bridge.child()["pid"]))
    bridge.end_child(killed)
    seed_ids = [datagrams.publish(), bridge.publish(), streams.publish()]
    wait_for("the process is back", lambda: bridge.child().get("pid") not in {None, killed})
    everybody = [bridge, datagrams, streams]
    wait_for("all have all", lambda: all(node.seed_ids() == {*seed_ids} for node in everybody))
    converge(everybody)
    assert bridge.running
