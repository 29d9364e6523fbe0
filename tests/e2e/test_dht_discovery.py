"""Nodes that find each other in the dht network without being told everything: names, rendezvous, multicast DNS."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from crabnet.errors import ExitCode
from tests.support.dht import DhtNode, dht_node, needs_libp2p
from tests.support.netns import Lab, needs_namespaces
from tests.support.nodes import Nodes, converge, wait_for, whole_job

pytestmark = [needs_libp2p, pytest.mark.deep]


@pytest.fixture
def lab() -> Iterator[Lab]:
    needs_namespaces()
    with Lab() as lab:
        yield lab


def on(nodes: Nodes, lab: Lab, host: str, *words: str) -> DhtNode:
    """A node on a host of its own, which listens everywhere and knows nobody."""
    node = DhtNode(nodes, host, [], [], *words)
    node.netns, node._tcp = lab.namespace(host), "/ip4/0.0.0.0/tcp/9012"
    return node.start()


def test_nodes_on_one_link_find_each_other_by_multicast_dns(nodes: Nodes, lab: Lab) -> None:
    """Nobody has a default route. The one of another namespace is found by nobody."""
    for host in ("one", "other", "foreign"):
        lab.host(host)
    lab.lan(1, "one", "other", "foreign")
    foreign = on(nodes, lab, "foreign", "--dht-mdns", "--namespace", "elsewhere")
    one, other = (on(nodes, lab, host, "--dht-mdns") for host in ("one", "other"))
    converge([one, other], [whole_job(one, other)])
    assert one.p2p_peers() == [f"p2p:{other.node_id}"]
    assert not foreign.p2p_peers()


def test_a_neighbour_tells_of_further_ones_and_is_not_needed_then(nodes: Nodes) -> None:
    """Both know only the hub. They find each other through it, and go on when it is gone."""
    hub = dht_node(nodes, "hub", (), "--dht-rendezvous", "server")
    one, other = (dht_node(nodes, name, [hub], "--dht-rendezvous", "client") for name in ("one", "other"))
    one.knows(2)
    other.knows(2)
    hub.kill()
    converge([one, other], [whole_job(one, other)])


@pytest.mark.parametrize("form", ["localhost:{port}", "/dns4/localhost/tcp/{port}", "/ip4/127.0.0.1/tcp/{port}"])
def test_a_bootstrap_peer_may_be_written_without_its_id(nodes: Nodes, form: str) -> None:
    known = dht_node(nodes, "known")
    node = DhtNode(nodes, "node", [form.format(port=known.multiaddr.split("/")[4])], []).start()
    node.knows(1)
    converge([known, node], [whole_job(known, node)])


def test_ipv6_by_its_address_and_by_a_name(nodes: Nodes) -> None:
    known = DhtNode(nodes, "known", [], [], "--dht-rendezvous", "server")
    known._tcp = "/ip6/::1/tcp/0"
    known.start()
    port = known.multiaddr.split("/")[4]
    forms = [known.multiaddr, f"[::1]:{port}"]
    if "ip6-localhost" in Path("/etc/hosts").read_text():
        forms.append(f"/dns6/ip6-localhost/tcp/{port}")
    for at, form in enumerate(forms):
        node = DhtNode(nodes, f"node-{at}", [form], []).start()
        node.knows(1)


def test_bootstrap_addresses_that_cannot_work_are_named(nodes: Nodes) -> None:
    """A wrong peer at an address, the node itself, and nobody. The node takes part all the same, by its cache."""
    known, stranger = dht_node(nodes, "known"), dht_node(nodes, "stranger")
    node = dht_node(nodes, "node", [known])
    converge([known, node], [whole_job(known, node)])
    node.end()
    place = known.multiaddr.rpartition("/p2p/")[0]
    own = f"/ip4/192.0.2.1/tcp/9/p2p/{node.node_id}"
    node.bootstrap = (f"{place}/p2p/{stranger.node_id}", own, "/ip4/127.0.0.1/tcp/1")
    node.start()
    node.knows(1)
    assert node.p2p_peers() == [f"p2p:{known.node_id}"]
    for address, reason in zip(node.bootstrap, ("wrong_peer", "own_address", "node_unreachable"), strict=True):
        node.await_event("bootstrap_failed", address=address, reason=reason)
    node.await_event("bootstrap_set_aside", address="/ip4/127.0.0.1/tcp/1")
    converge([known, node], [whole_job(node, known)])


def test_a_killed_node_is_connected_again_on_the_same_port_and_on_another(nodes: Nodes) -> None:
    """On the same port the others dial it. On another port it dials those that it remembers."""
    hub = dht_node(nodes, "hub")
    node = dht_node(nodes, "node", [hub])
    hub.knows(1)
    wait_for("the hub is in the cache", (node.data_dir / "p2p-peers.json").exists)
    hub.kill()
    wait_for("the hub is missed", lambda: not node.p2p_peers())
    hub.start()
    hub.knows(1)
    node.bootstrap = ()
    node.kill()
    wait_for("the node is missed", lambda: not hub.p2p_peers())
    node._tcp = "127.0.0.1:0"
    node.start()
    hub.knows(1)
    converge([hub, node], [whole_job(hub, node)])


def test_two_that_dial_each_other_at_once_keep_a_connection(nodes: Nodes) -> None:
    one, other = (dht_node(nodes, name) for name in ("one", "other"))
    for node, peer in ((one, other), (other, one)):
        node.bootstrap = (peer.multiaddr,)
    for node in (one, other):
        node.end()
    for node in (one, other):
        node.launch()
    for node in (one, other):
        node.ready()
        node.knows(1)
    converge([one, other], [whole_job(one, other), whole_job(other, one)])
    for node in (one, other):
        assert len(node.p2p_peers()) == 1
        assert not node.events("peer_lost")[1:], "the one from the end of the first life"


def test_a_port_in_use_ends_the_start_unless_another_may_be_taken(nodes: Nodes) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        node = DhtNode(nodes, "node", [], [])
        node._tcp = address
        node.launch()
        assert node.await_end() == ExitCode.NETWORK
        assert "listen_addr" in node.errors()
        assert "dht_listen_fallback" in node.errors()
        node.await_event("listener_failed", reason="address_in_use")
        moved = DhtNode(nodes, "moved", [], [], "--dht-listen-fallback")
        moved._tcp = address
        moved.start()
        moved.await_event("listener_fallback")
        assert not moved.multiaddr.startswith(f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}/")
