"""Topics of the dht network: what a node publishes to, and what it reads, are two settings."""

from __future__ import annotations

from typing import cast

import pytest

from tests.support.dht import dht_node, needs_libp2p
from tests.support.nodes import Json, Nodes, wait_for

pytestmark = [needs_libp2p, pytest.mark.deep]

GOSSIP_ONLY = ("--sync-interval-ms", "3600000")
"""Sync speaks when peers meet, and then not again within the deadline of a test."""


def test_a_node_of_a_new_version_reads_the_topics_of_the_old_one_and_publishes_to_its_own(nodes: Nodes) -> None:
    old = dht_node(nodes, "old", [], *GOSSIP_ONLY, "--dht-publish", "v1/tasks", "--dht-subscribe", "v1/tasks")
    new = dht_node(nodes, "new", [old], *GOSSIP_ONLY, "--dht-subscribe", "tasks,v1/tasks")
    newer = dht_node(nodes, "newer", [new], *GOSSIP_ONLY, "--dht-subscribe", "tasks")
    new.knows(2)
    old.knows(1)
    newer.knows(1)
    old_seed = old.publish()
    wait_for("the news of the old version", lambda: new.status(old_seed) == "Open")
    new_seed = new.publish()
    wait_for("the news of the new version", lambda: newer.status(new_seed) == "Open")
    assert old.status(new_seed) == ""
    unheard = old.await_event("topic_unknown", topic="crabnet/v2/default/tasks")
    assert unheard.payload["peer"] == new.node_id


def test_an_observer_hears_and_publishes_nothing(nodes: Nodes) -> None:
    publisher = dht_node(nodes, "publisher", [], *GOSSIP_ONLY)
    observer = dht_node(nodes, "observer", [publisher], *GOSSIP_ONLY, "--dht-publish", "")
    publisher.knows(1)
    observer.knows(1)
    heard = publisher.publish()
    wait_for("the observer hears", lambda: observer.status(heard) == "Open")
    own = observer.publish()
    last = publisher.publish()
    wait_for("the observer hears again", lambda: observer.status(last) == "Open")
    assert publisher.status(own) == ""


def test_the_topic_of_the_baseline_carries_all_that_the_baseline_knows(nodes: Nodes) -> None:
    words = ("--dht-publish", "baseline", "--dht-subscribe", "baseline")
    one = dht_node(nodes, "one", [], *GOSSIP_ONLY, *words)
    other = dht_node(nodes, "other", [one], *GOSSIP_ONLY, *words)
    one.knows(1)
    other.knows(1)
    seed_id = one.publish()
    wait_for("the task comes", lambda: other.status(seed_id) == "Open")
    bid_id = other.bid(seed_id, 5)
    wait_for("the bid comes", lambda: one.rows(seed_id, "bids"))
    one.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
    wait_for("the claim comes", lambda: other.status(seed_id) == "Claimed")


@pytest.mark.parametrize("item", ["v2", "tasks/more", "v1/else", "baseline/tasks", "crabnet-mvp-v1"])
def test_a_topic_that_is_none_is_refused_at_the_start(nodes: Nodes, item: str) -> None:
    node = nodes.make("node", [], "--network", "dht", "--dht-subscribe", item)
    node.launch()
    assert node.await_end() == 2
    assert "dht_subscribe" in node.errors()


def test_nodes_that_are_no_neighbours_introduce_themselves(nodes: Nodes) -> None:
    left = dht_node(nodes, "left", [], *GOSSIP_ONLY, "--alias", "lefty")
    middle = dht_node(nodes, "middle", [left], *GOSSIP_ONLY)
    right = dht_node(nodes, "right", [middle], *GOSSIP_ONLY)
    right.knows(1)

    def lefty() -> bool:
        shown = cast(list[Json], right.ask("topology")["nodes"])
        return any(each["node_id"] == left.node_id and each["alias"] == "lefty" for each in shown)

    wait_for("the far end has a name", lefty)
    assert right.p2p_peers() == [f"p2p:{middle.node_id}"]
