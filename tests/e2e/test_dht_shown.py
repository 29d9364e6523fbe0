"""What a node in the dht network shows of itself and its peers, and what a command without a node says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from tests.support.dht import DhtNode, dht_node, needs_libp2p
from tests.support.nodes import Json, Nodes, crabnet, wait_for

pytestmark = needs_libp2p
PUBLISH = ["seed", "publish", "--title", "t", "--cmd", "true"]


def p2p_rows(node: DhtNode) -> list[Json]:
    found = cast(list[Json], node.ask("peers")["peers"])
    return [each for each in found if str(each["address"]).startswith("p2p:")]


def test_a_node_shows_its_part_in_the_network(nodes: Nodes) -> None:
    first = dht_node(nodes, "first")
    second = dht_node(nodes, "second", [first])
    multiaddr = first.multiaddr
    assert second.process is not None
    assert second.process.stdout is not None
    assert second.process.stdout.readline() == f"listen started on Dht:{second.multiaddr}\n", "and no line of UDP"
    second.knows(1)
    (row,) = p2p_rows(second)
    assert (row["address"], row["node_id"]) == (f"p2p:{first.node_id}", first.node_id)
    assert (row["names"], row["configured"], row["confirmed"]) == ([multiaddr], True, True)
    own, _ = second.ok("peers").splitlines()
    assert own == f"this node: {second.multiaddr}"

    def dht() -> Json:
        return cast(Json, second.ask("status")["dht"])

    wait_for("both subscribe", lambda: [each["peers"] for each in cast(list[Json], dht()["topics"])] == [1, 1, 1])
    second.publish()
    wait_for("it is published", lambda: dht()["published"] == 1)
    shown = dht()
    assert (shown["state"], shown["peers"], shown["addresses"]) == ("running", 1, [second.multiaddr])
    (edge,) = cast(list[Json], second.ask("topology")["edges"])
    assert (edge["address"], edge["transport"], edge["path"]) == (f"p2p:{first.node_id}", "dht", "direct")
    checks = cast(list[Json], second.ask("doctor")["checks"])
    assert [each["verdict"] for each in checks if each["name"] == "dht"] == ["ok"]
    families = cast(list[Json], second.ask("metrics")["families"])
    values = {
        str(family["name"]): [sample.get("value") for sample in cast(list[Json], family["samples"])]
        for family in families
    }
    assert values["crabnet_dht_peers"] == [1]
    assert values["crabnet_dht_published_total"] == [1]
    assert second.ask("health")["ready"] is True
    assert re.search(r"^dht +running +libp2p peers 1 ", second.ok("top", "--once"), re.MULTILINE)

    first.end()
    wait_for("it is gone", lambda: not p2p_rows(second)[0]["confirmed"])
    checks = cast(list[Json], second.ask("doctor")["checks"])
    assert [each["verdict"] for each in checks if each["name"] == "dht"] == ["warn"]
    second.end()
    at_rest = second.ok("peers")
    assert f"p2p:{first.node_id} ({multiaddr})" in at_rest


def test_a_command_without_a_node_says_that_it_is_not_in_the_network(tmp_path: Path) -> None:
    words = ["--data-dir", str(tmp_path / "d"), "--network", "dht", "--listen-addr", "127.0.0.1:0"]
    done = crabnet(*PUBLISH, *words)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("It was not sent, because only a running node is in the dht network. It will be sent when")
