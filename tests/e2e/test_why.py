"""Real nodes say why they do not bid, directly and through a node in between, and ``crabnet why`` tells it."""

from __future__ import annotations

import pytest

from crabnet.control.client import JsonValue
from tests.support.dht import dht_node, needs_libp2p
from tests.support.nodes import NodeProcess, Nodes, wait_for

WORKS = ("--auto-bid", "--auto-run")
pytestmark = pytest.mark.deep


def bids_stage(node: NodeProcess, seed_id: str) -> dict[str, JsonValue]:
    stages = node.ask("seed.why", seed_id=seed_id)["stages"]
    assert isinstance(stages, list)
    return next(each for each in stages if isinstance(each, dict) and each["stage"] == "bids")


def await_bids_text(node: NodeProcess, seed_id: str, text: str) -> None:
    wait_for(f"{text!r} is said", lambda: text in str(bids_stage(node, seed_id)["text"]))


def test_workers_that_do_not_bid_say_why(nodes: Nodes) -> None:
    publisher = nodes.start("publisher")
    peers = [publisher.listen]
    nodes.start("strict", peers, *WORKS, "--runner-allowed-commands", "echo")
    nodes.start("dear", peers, *WORKS, "--runner-allowed-commands", "python3", "--work-price", "9")
    nodes.start("silent", peers, *WORKS, "--runner-allowed-commands", "true", "--no-tell-declines")
    wait_for("all are there", lambda: publisher.ask("status")["peers"] == 3)
    seed_id = publisher.publish("python3 -c 1", reward=5)
    said = "2 workers saw it: 1 does not allow python3, 1 wants more than 5 (9 would do)"
    await_bids_text(publisher, seed_id, f"no worker has bid: {said}")
    page = publisher.ok("why", seed_id)
    assert said in page
    assert "what would change it: offer more (`--max-price`)" in page
    wait_for("both are told of", lambda: len(publisher.events("bid_declined")) == 2)


def test_a_node_in_between_passes_a_decline_on(nodes: Nodes) -> None:
    publisher = nodes.start("publisher")
    middle = nodes.start("middle", [publisher.listen])
    worker = nodes.start("worker", [middle.listen], *WORKS, "--runner-allowed-commands", "true")
    wait_for("the middle knows both", lambda: middle.ask("status")["peers"] == 2)
    seed_id = publisher.publish("echo hello", reward=5)
    await_bids_text(publisher, seed_id, "1 worker saw it: 1 does not allow echo")
    event = publisher.await_event("bid_declined")
    assert event.payload["worker"] == worker.node_id
    assert event.payload["address"] == middle.source


@needs_libp2p
def test_declines_go_over_libp2p(nodes: Nodes) -> None:
    publisher = dht_node(nodes, "publisher")
    middle = dht_node(nodes, "middle", [publisher])
    far = dht_node(nodes, "far", [middle], *WORKS, "--runner-allowed-commands", "true")
    middle.knows(2)
    far.knows(1)
    seed_id = publisher.publish("echo hello", reward=5)
    await_bids_text(publisher, seed_id, "1 worker saw it: 1 does not allow echo")


def test_each_stage_of_a_job_is_explained_by_all_parties(nodes: Nodes) -> None:
    publisher = nodes.start("publisher")
    worker = nodes.start("worker", [publisher.listen], *WORKS, "--runner-allowed-commands", "echo")
    wait_for("both know each other", lambda: publisher.ask("status")["peers"] == 1)
    seed_id = publisher.publish("echo hello", reward=5)
    wait_for("a bid comes", lambda: publisher.rows(seed_id, "bids"))
    assert "you have to claim the one bid" in publisher.ok("why", seed_id)
    bid_id = str(publisher.rows(seed_id, "bids")[0]["id"])
    refused = worker.cli("seed", "claim", seed_id, bid_id)
    publisher_ends = f"{publisher.node_id[:4]}…{publisher.node_id[-4:]}"
    assert f"only the task's creator ({publisher_ends}) may do this" in refused.stderr
    publisher.ok("seed", "claim", seed_id, bid_id)
    wait_for("the result comes", lambda: publisher.status(seed_id) == "Done")
    assert "you have to settle the result" in publisher.ok("why", seed_id)
    assert f"{publisher_ends} has to settle the result" in worker.ok("why", seed_id)
    publisher.ok("seed", "settle", seed_id, "--accepted")
    wait_for("it is acknowledged", lambda: "was accepted at" in publisher.ok("why", seed_id))
    wait_for("the worker knows that too", lambda: worker.status(seed_id) == "Accepted")
    late = worker.cli("seed", "bid", seed_id, "--price", "1", "--force")
    assert "was accepted at" in late.stderr
    assert "and is over: bids are taken while a task is open" in late.stderr
    publisher.kill()
    alone = publisher.ok("why", seed_id)
    assert "accepted by this node" in alone
