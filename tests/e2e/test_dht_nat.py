"""Real nodes behind routers with NAT: through a relay, and by outbound connections alone. Needs root."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from tests.support.dht import DhtNode, needs_libp2p
from tests.support.nat import Internet, needs_nat
from tests.support.nodes import Json, Nodes, converge, wait_for, whole_job

pytestmark = [pytest.mark.deep, needs_libp2p]


@pytest.fixture
def internet() -> Iterator[Internet]:
    needs_nat()
    with Internet() as internet:
        yield internet


def through(relay: str, node: DhtNode) -> str:
    """The address of a node behind a relay."""
    return f"{relay}/p2p-circuit/p2p/{node.node_id}"


def calls(caller: DhtNode, called: DhtNode) -> None:
    """Wait until a peer is connected."""
    wait_for("the call through the relay", lambda: f"p2p:{called.node_id}" in caller.p2p_peers())


def test_two_nodes_behind_nat_trade_through_a_relay_that_is_their_bootstrap_peer(
    nodes: Nodes, internet: Internet
) -> None:
    internet.public("relay")
    internet.behind("publisher", symmetric=True)
    internet.behind("worker", symmetric=True)
    relay = internet.node(nodes, "relay", [], "--dht-relay", "server").start()
    address = internet.multiaddr(relay)
    publisher = internet.node(nodes, "publisher", [address]).start()
    worker = internet.node(nodes, "worker", [address, through(address, publisher)]).start()
    calls(worker, publisher)
    converge([relay, publisher, worker], [whole_job(publisher, worker), whole_job(worker, publisher)])


def test_all_goes_through_a_relay_that_takes_no_part(nodes: Nodes, internet: Internet) -> None:
    internet.public("relay")
    internet.behind("publisher", symmetric=True)
    internet.behind("worker", symmetric=True)
    relay = internet.node(nodes, "relay", [], "--dht-relay", "server", "--namespace", "another").start()
    address = internet.multiaddr(relay)
    publisher = internet.node(nodes, "publisher", [address]).start()
    worker = internet.node(nodes, "worker", [through(address, publisher)]).start()
    calls(worker, publisher)
    converge([publisher, worker], [whole_job(publisher, worker), whole_job(worker, publisher)])
    assert not relay.seed_ids()
    wait_for("the relay's report", lambda: counted(relay, "relay_bytes") > 0)
    assert counted(relay, "relay_circuits") > 0
    assert counted(worker, "punched") == 0


@pytest.mark.parametrize("symmetric", [False, True], ids=["cone", "symmetric"])
def test_two_nodes_behind_nat_find_each_other_and_do_without_the_relay_if_their_routers_allow_it(
    nodes: Nodes, internet: Internet, symmetric: bool
) -> None:
    internet.public("relay")
    internet.behind("publisher")
    internet.behind("worker", symmetric=symmetric)
    words = ("--dht-rendezvous", "auto")
    relay = internet.node(nodes, "relay", [], "--dht-relay", "server", *words).start()
    publisher = internet.node(nodes, "publisher", [internet.multiaddr(relay)], *words).start()
    worker = internet.node(nodes, "worker", [internet.multiaddr(relay)], *words).start()
    calls(worker, publisher)
    wait_for("an attempt without the relay", lambda: counted(worker, "punches") >= (3 if symmetric else 1))
    if not symmetric:
        wait_for("a direct connection", lambda: counted(worker, "punched") and counted(publisher, "punched"))
    calls(worker, publisher)
    relay.kill()
    if symmetric:
        wait_for("the end of the call", lambda: said(worker)["peers"] == 0)
    else:
        converge([publisher, worker], [whole_job(publisher, worker), whole_job(worker, publisher)])


def said(node: DhtNode) -> Json:
    """What a node says of its part in the dht network."""
    return cast(Json, node.ask("status")["dht"])


def counted(node: DhtNode, name: str) -> int:
    """A counter of the libp2p process."""
    return cast(dict[str, int], said(node)["counters"]).get(name, 0)


def test_only_the_worker_is_behind_nat(nodes: Nodes, internet: Internet) -> None:
    internet.public("publisher")
    internet.behind("worker")
    publisher = internet.node(nodes, "publisher", [], "--dht-relay", "off").start()
    worker = internet.node(nodes, "worker", [internet.multiaddr(publisher)], "--dht-relay", "off").start()
    publisher.knows(1)
    converge([publisher, worker], [whole_job(publisher, worker), whole_job(worker, publisher)])
