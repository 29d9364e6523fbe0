"""The whole job with real nodes over libp2p: alone, in a row, around a hub, and beside UDP."""

from __future__ import annotations

import pytest

from tests.support.dht import DhtNode, dht_node, needs_libp2p
from tests.support.nodes import Nodes, converge, wait_for, whole_job

pytestmark = needs_libp2p


def test_three_nodes_do_the_whole_job_over_dht_only(nodes: Nodes) -> None:
    publisher = dht_node(nodes, "publisher")
    worker = dht_node(nodes, "worker", [publisher])
    third = dht_node(nodes, "third", [publisher])
    publisher.knows(2)
    seed_id = whole_job(publisher, worker)
    converge([publisher, worker, third], [seed_id])


@pytest.mark.deep
def test_ends_of_a_row_trade_through_the_middle(nodes: Nodes) -> None:
    left = dht_node(nodes, "left")
    inner = dht_node(nodes, "inner", [left])
    outer = dht_node(nodes, "outer", [inner])
    right = dht_node(nodes, "right", [outer])
    right.knows(1)
    seed_id = whole_job(left, right)
    converge([left, inner, outer, right], [seed_id])


@pytest.mark.deep
def test_leaves_of_a_hub_trade(nodes: Nodes) -> None:
    hub = dht_node(nodes, "hub")
    leaves = [dht_node(nodes, f"leaf-{at}", [hub]) for at in range(4)]
    hub.knows(4)
    seed_ids = [whole_job(leaves[0], leaves[1]), whole_job(leaves[2], leaves[3])]
    converge([hub, *leaves], seed_ids)


@pytest.mark.deep
def test_a_late_joiner_catches_up_over_a_stream(nodes: Nodes) -> None:
    publisher = dht_node(nodes, "publisher")
    worker = dht_node(nodes, "worker", [publisher])
    publisher.knows(1)
    seed_ids = [whole_job(publisher, worker) for _ in range(3)]
    missed = [publisher.publish(description="x" * size) for size in [0] * 50 + [60_000] * 3]
    late = dht_node(nodes, "late", [worker])
    wait_for("all of it comes", lambda: late.seed_ids() == {*seed_ids, *missed})
    converge([publisher, worker, late], seed_ids)


def test_a_bridge_joins_udp_and_dht(nodes: Nodes) -> None:
    bridge = DhtNode(nodes, "bridge", [], [], "--network", "udp,dht").start()
    datagrams = nodes.start("datagrams", [bridge.listen])
    streams = dht_node(nodes, "streams", [bridge])
    bridge.knows(1)
    wait_for("the bridge knows both", lambda: bridge.ask("status")["peers"] == 2)
    seed_id = whole_job(datagrams, streams)
    converge([datagrams, bridge, streams], [seed_id])
    seed_id = whole_job(streams, datagrams)
    converge([datagrams, bridge, streams], [seed_id])


@pytest.mark.deep
def test_two_bridges_between_the_same_networks_make_no_circle(nodes: Nodes) -> None:
    one = DhtNode(nodes, "one", [], [], "--network", "udp,dht").start()
    two = DhtNode(nodes, "two", [one.multiaddr], [one.listen], "--network", "udp,dht").start()
    datagrams = nodes.start("datagrams", [one.listen, two.listen])
    streams = dht_node(nodes, "streams", [one, two])
    streams.knows(2)
    seed_id = whole_job(datagrams, streams)
    everybody = [one, two, datagrams, streams]
    converge(everybody, [seed_id])
    for node in everybody:
        assert int(str(node.ask("status")["relayed"])) <= 8 * 3


@pytest.mark.deep
def test_halves_that_were_apart_agree_again(nodes: Nodes) -> None:
    """The middle one is away for a while. Both sides go on, and are of one mind when it is back."""
    middle = dht_node(nodes, "middle")
    left = dht_node(nodes, "left", [middle])
    right = dht_node(nodes, "right", [middle])
    middle.knows(2)
    before = whole_job(left, right)
    converge([left, middle, right], [before])
    middle.kill()
    wait_for("both are alone", lambda: not left.p2p_peers() and not right.p2p_peers())
    apart = [left.publish(), right.publish()]
    left.await_event("gossip_unpublished")
    middle.start()
    middle.knows(2)
    wait_for("both hear of both", lambda: all(each.seed_ids() >= {*apart} for each in (left, middle, right)))
    converge([left, middle, right], [before])
    after = whole_job(right, left)
    converge([left, middle, right], [before, after])


@pytest.mark.deep
def test_large_results_go_by_streams(nodes: Nodes) -> None:
    publisher = dht_node(nodes, "publisher")
    middle = dht_node(nodes, "middle", [publisher])
    worker = dht_node(nodes, "worker", [middle], "--runner-allowed-commands", "*")
    worker.knows(1)
    seed_id = whole_job(publisher, worker, "seq 1 12000")
    converge([publisher, middle, worker], [seed_id])
    [result] = publisher.rows(seed_id, "results")
    assert result["stdout"] == "".join(f"{number}\n" for number in range(1, 12_001))
