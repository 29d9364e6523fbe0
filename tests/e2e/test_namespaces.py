"""Real nodes on hosts of their own (network namespaces), with loss, delay, one-way blocks, partitions. Needs root."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.netns import Fate, Lab, needs_namespaces
from tests.support.nodes import NodeProcess, Nodes, converge, wait_for, whole_job

PORT = 9_012
ROUGH = Fate(loss=0.1, duplicate=0.05, delay_ms=20, jitter_ms=15)
SLOW = Fate(delay_ms=20, jitter_ms=15)
GONE = Fate(cut=True)
pytestmark = pytest.mark.deep


@pytest.fixture
def lab() -> Iterator[Lab]:
    needs_namespaces()
    with Lab(seed=7) as lab:
        yield lab


def start(nodes: Nodes, lab: Lab, host: str, *neighbours: str) -> NodeProcess:
    """A node on a host, which is told of these neighbours."""
    node = nodes.make(host, [f"{lab.address(host, neighbour)}:{PORT}" for neighbour in neighbours])
    node.netns, node.listen = lab.namespace(host), f"0.0.0.0:{PORT}"
    return node.start()


def a_line(nodes: Nodes, lab: Lab) -> tuple[NodeProcess, NodeProcess, NodeProcess]:
    """west – middle – east: the ends know nothing of each other and have no way to each other."""
    for host in ("west", "middle", "east"):
        lab.host(host)
    lab.link("west", "middle", ROUGH)
    lab.link("middle", "east", ROUGH)
    middle = start(nodes, lab, "middle")
    return start(nodes, lab, "west", "middle"), middle, start(nodes, lab, "east", "middle")


def test_regions_joined_by_a_third_node_converge_and_so_does_a_late_joiner(nodes: Nodes, lab: Lab) -> None:
    west, middle, east = a_line(nodes, lab)
    seeds = [whole_job(west, east, f"echo {number}") for number in range(3)]
    seeds.append(whole_job(east, west, "echo " + "x" * 3_000))
    converge([west, middle, east], seeds)
    lab.host("far east")
    lab.link("east", "far east", ROUGH)
    late = start(nodes, lab, "far east", "east")
    converge([west, middle, east, late], seeds)
    assert not any(str(event.payload.get("address", "")).startswith("10.99.2.") for event in west.events())
    assert min(lab.lost, lab.carried) > 0
    for node in (west, middle, east, late):
        assert not node.events("fork_detected", "job_failed")
        assert "Traceback" not in node.errors()


def test_a_partition_heals(nodes: Nodes, lab: Lab) -> None:
    west, middle, east = a_line(nodes, lab)
    converge([west, middle, east], [whole_job(west, east)])
    lab.fare("middle", "east", GONE)
    for number in range(20):
        west.publish(title=f"west {number}")
        east.publish(title=f"east {number}")
    wait_for("one side goes on", lambda: west.state_hash() == middle.state_hash())
    assert len(west.seed_ids() & east.seed_ids()) == 1
    lab.fare("middle", "east", ROUGH)
    converge([west, middle, east])
    assert len(west.seed_ids()) == 41
    whole_job(east, west)


def test_a_one_way_block_stops_one_direction_only_and_heals(nodes: Nodes, lab: Lab) -> None:
    west, middle, east = a_line(nodes, lab)
    converge([west, middle, east], [whole_job(west, east)])
    # East hears, but cannot ask for what it might miss: so nothing may be lost on the way to it.
    lab.fare("west", "middle", SLOW)
    lab.fare_one_way("middle", "east", SLOW)
    lab.fare_one_way("east", "middle", GONE)
    seed_id = west.publish(title="who hears this?")
    wait_for("east still hears", lambda: east.status(seed_id) == "Open")
    east.bid(seed_id, 5)
    later = west.publish(title="and this?")
    wait_for("east still hears", lambda: east.status(later) == "Open")
    assert not west.rows(seed_id, "bids")
    lab.fare_one_way("east", "middle", ROUGH)
    wait_for("the bid comes", lambda: west.rows(seed_id, "bids"))
    converge([west, middle, east])
