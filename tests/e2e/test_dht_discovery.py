"""Nodes that find each other in the dht network without being told everything: names, rendezvous, multicast DNS."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crabnet.errors import ExitCode
from tests.support.dht import DhtNode, dht_node, needs_libp2p
from tests.support.netns import Fate, Lab, needs_namespaces
from tests.support.nodes import Nodes, converge, wait_for, whole_job

pytestmark = [needs_libp2p, pytest.mark.deep]
NOBODY = "/ip6/2001:db8::1/tcp/9012"


@pytest.fixture
def lab() -> Iterator[Lab]:
    needs_namespaces()
    with Lab() as lab:
        yield lab


def on(nodes: Nodes, lab: Lab, host: str, *words: str) -> DhtNode:
    """A node on a host of its own, which listens everywhere and knows nobody who is there."""
    node = DhtNode(nodes, host, [NOBODY], [], *words)
    node.netns, node.tcp = lab.namespace(host), "/ip4/0.0.0.0/tcp/9012"
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
    failed = one.await_event("bootstrap_failed", address=NOBODY, reason="node_unreachable")
    assert "no route to the IPv6 address" in str(failed.payload["detail"])


def test_a_neighbour_tells_of_further_ones_and_is_not_needed_then(nodes: Nodes) -> None:
    """Both know only the hub. They find each other through it, and go on when it is gone."""
    hub = dht_node(nodes, "hub", (), "--dht-rendezvous", "server")
    one, other = (dht_node(nodes, name, [hub], "--dht-rendezvous", "client") for name in ("one", "other"))
    one.knows(2)
    other.knows(2)
    hub.kill()
    converge([one, other], [whole_job(one, other)])


def test_a_bootstrap_peer_may_be_written_without_its_id(nodes: Nodes) -> None:
    known = dht_node(nodes, "known")
    port = known.multiaddr.split("/")[4]
    forms = [f"localhost:{port}", f"/dns4/localhost/tcp/{port}", f"/ip4/127.0.0.1/tcp/{port}"]
    others = [DhtNode(nodes, f"node-{at}", [form], []) for at, form in enumerate(forms)]
    for node in others:
        node.launch()
    for node in others:
        node.ready()
        node.knows(1)
    converge([known, *others], [whole_job(known, others[0])])


def test_ipv6_by_its_address_and_by_a_name(nodes: Nodes) -> None:
    known = DhtNode(nodes, "known", [], [], "--dht-rendezvous", "server")
    known.tcp = "/ip6/::1/tcp/0"
    known.start()
    port = known.multiaddr.split("/")[4]
    forms = [known.multiaddr, f"[::1]:{port}"]
    if "ip6-localhost" in Path("/etc/hosts").read_text():
        forms.append(f"/dns6/ip6-localhost/tcp/{port}")
    others = [DhtNode(nodes, f"node-{at}", [form], []) for at, form in enumerate(forms)]
    for node in others:
        node.launch()
    for node in others:
        node.ready()
        node.knows(1)


def test_bootstrap_addresses_that_cannot_work_are_named(nodes: Nodes) -> None:
    """A wrong peer at an address, the node itself, and nobody. The node takes part all the same, by its cache. It also
    does when it cannot write this cache any more.
    """
    known, stranger = dht_node(nodes, "known"), dht_node(nodes, "stranger")
    node = dht_node(nodes, "node", [known])
    converge([known, node], [whole_job(known, node)])
    node.end()
    place = known.multiaddr.rpartition("/p2p/")[0]
    own = f"/ip4/192.0.2.1/tcp/9/p2p/{node.node_id}"
    (node.data_dir / "p2p-peers.json.tmp").mkdir()
    node.bootstrap = (f"{place}/p2p/{stranger.node_id}", own, "/ip4/127.0.0.1/tcp/1")
    node.start()
    node.knows(1)
    assert node.p2p_peers() == [f"p2p:{known.node_id}"]
    for address, reason in zip(node.bootstrap, ("wrong_peer", "own_address", "node_unreachable"), strict=True):
        node.await_event("bootstrap_failed", address=address, reason=reason)
    node.await_event("bootstrap_set_aside", address="/ip4/127.0.0.1/tcp/1")
    node.await_event("peers_file_bad")
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
    node.tcp = "127.0.0.1:0"
    node.start()
    hub.knows(1)
    converge([hub, node], [whole_job(hub, node)])


def test_two_that_dial_each_other_at_once_settle_on_one_connection(nodes: Nodes, lab: Lab) -> None:
    """The link is so slow that both have dialled before either hears of it. No end takes the other for lost."""
    lab.host("one")
    lab.host("other")
    lab.link("one", "other", Fate(delay_ms=150))
    pair = []
    for host, far in (("one", "other"), ("other", "one")):
        node = DhtNode(nodes, host, [f"{lab.address(host, far)}:9012"], [])
        node.netns, node.tcp = lab.namespace(host), f"/ip4/{lab.address(far, host)}/tcp/9012"
        node.launch()
        pair.append(node)
    for node in pair:
        node.ready()
        node.knows(1)
    one, other = pair
    wait_for("one connection is left", lambda: connections(one) == connections(other) == 1)
    converge([one, other], [whole_job(one, other), whole_job(other, one)])
    for node in pair:
        assert len(node.p2p_peers()) == 1
        assert not node.events("peer_lost")


def connections(node: DhtNode) -> int:
    """The number of TCP connections on its host."""
    words = ["ip", "netns", "exec", str(node.netns), "cat", "/proc/net/tcp"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return sum(line.split()[3] == "01" for line in shown.splitlines()[1:])


def test_a_port_in_use_ends_the_start_unless_another_may_be_taken(nodes: Nodes) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        node = DhtNode(nodes, "node", [], [])
        node.tcp = address
        node.launch()
        assert node.await_end() == ExitCode.NETWORK
        assert "listen_addr" in node.errors()
        assert "dht_listen_fallback" in node.errors()
        node.await_event("listener_failed", reason="address_in_use")
        moved = DhtNode(nodes, "moved", [], [], "--dht-listen-fallback")
        moved.tcp = address
        moved.start()
        moved.await_event("listener_fallback")
        assert not moved.multiaddr.startswith(f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}/")
