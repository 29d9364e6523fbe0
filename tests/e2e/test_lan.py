"""Real nodes on local networks without a way out, found by what they do without being told (net-3). Needs root."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.netns import Lab, needs_namespaces
from tests.support.nodes import NodeProcess, Nodes, converge, wait_for, whole_job

EVERYBODY = "255.255.255.255:9012"


@pytest.fixture
def lab() -> Iterator[Lab]:
    needs_namespaces()
    with Lab() as lab:
        yield lab


def start(nodes: Nodes, lab: Lab, host: str, listen: str) -> NodeProcess:
    """A node that knows nobody."""
    node = nodes.make(host, [EVERYBODY])
    node.netns, node.listen = lab.namespace(host), listen
    return node.start()


def test_nodes_on_every_network_of_a_host_are_found(nodes: Nodes, lab: Lab) -> None:
    """The middle is on two networks; nobody has a default route."""
    for host in ("left", "middle", "right"):
        lab.host(host)
    lab.lan(1, "left", "middle")
    lab.lan(2, "middle", "right")
    left, middle, right = (start(nodes, lab, host, "0.0.0.0:9012") for host in ("left", "middle", "right"))
    converge([left, middle, right], [whole_job(middle, left), whole_job(middle, right)])
    assert not middle.events("send_failed")
    wait_for("both are peers", lambda: middle.ask("status")["peers"] == 2)
    assert (
        "Sent to 2 peers and everybody on the local network.\n"
        in middle.cli("seed", "publish", "--title", "t", "--cmd", "true").stderr
    )


def test_nodes_that_serve_both_families_find_each_other_without_ipv4(nodes: Nodes, lab: Lab) -> None:
    for host in ("one", "other"):
        lab.host(host)
    lab.lan(1, "one", "other", ipv4=False)
    one, other = (start(nodes, lab, host, "[::]:9012") for host in ("one", "other"))
    converge([one, other], [whole_job(one, other)])
    assert not one.events("send_failed")


def test_a_node_without_any_network_says_so(nodes: Nodes, lab: Lab) -> None:
    lab.host("alone")
    node = start(nodes, lab, "alone", "0.0.0.0:9012")
    done = node.cli("seed", "publish", "--title", "t", "--cmd", "true")
    assert done.returncode == 7
    assert done.stdout.startswith("seed published ")
    assert "the envelope is stored, but cannot be sent now" in done.stderr
    assert len(node.seed_ids()) == 1
