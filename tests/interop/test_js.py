"""A peer that is written in JavaScript, on js-libp2p, takes part: gossip and sync, in both directions.

Its envelopes are signed, and ours are verified, by code that was written from docs/PROTOCOL.md alone.
"""

from __future__ import annotations

import hashlib
import json
import time

import pytest

from tests.interop.conftest import MakeJs, MakeNode
from tests.support.dht import needs_libp2p
from tests.support.nodes import wait_for

pytestmark = [pytest.mark.deep, needs_libp2p]

HISTORY = 500


def told(what: str, count: int, begin: float) -> None:
    """Print a rate, which pytest shows with -rP or -s."""
    seconds = time.monotonic() - begin
    print(f"{what}: {count} envelopes in {seconds:.2f} s, {count / seconds:.0f}/s")


def test_a_foreign_publisher_has_its_task_done_by_a_node(js: MakeJs, dht_node: MakeNode) -> None:
    node, peer = dht_node("node"), js()
    peer.order("connect", address=node.multiaddr)
    peer.knows_the_topics_of(node)
    published = peer.publish(title="Grüße 🦀", command="printf 'a b'", min_price=2)
    seed_id = published["object_id"]
    assert published["recipients"] == 1
    wait_for("the node sees the seed", lambda: node.status(seed_id) == "Open")
    assert node.seed(seed_id)["title"] == "Grüße 🦀"
    bid_id = node.bid(seed_id, 3)
    bid, heard = peer.object(node.node_id, "BidSubmitted", "bid", id=bid_id)
    assert (bid["seed_id"], bid["price"], bid["rests_on"]) == (seed_id, 3, published["envelope"]["meta"]["id"])
    claim = {"seed_id": seed_id, "bid_id": bid_id, "worker": node.node_id, "attempt": 1}
    claim_id = peer.state("ClaimCreated", "claim", **claim, rests_on=heard["meta"]["id"])["object_id"]
    wait_for("the node sees the claim", lambda: node.status(seed_id) == "Claimed")
    node.ask("seed.run", seed_id=seed_id)
    result, heard = peer.object(node.node_id, "TaskResult", "result", seed_id=seed_id)
    assert (result["stdout"], result["output_hash"]) == ("a b", hashlib.sha256(b"a b").hexdigest())
    assert peer.object(node.node_id, "TaskStarted", "run", claim_id=claim_id)
    settled = {"id": seed_id, "status": "Accepted", "claim_id": claim_id, "result_id": result["id"], "attempt": 1}
    settlement = peer.state("TaskSettle", "seed", **settled, rests_on=heard["meta"]["id"])["envelope"]
    wait_for("the node sees the settlement", lambda: node.status(seed_id) == "Accepted")
    peer.object(node.node_id, "SettleAcknowledged", "acknowledgement", rests_on=settlement["meta"]["id"])
    assert not peer.events("invalid")
    assert {each["path"] for each in peer.events("envelope")} >= {"gossip", "direct"}


def test_a_foreign_worker_does_the_task_of_a_node(js: MakeJs, dht_node: MakeNode) -> None:
    """The node dials the foreign peer here."""
    peer = js()
    node = dht_node("node", peer.multiaddr)
    peer.wait_for("connected", peer=node.node_id)
    peer.knows_the_topics_of(node)
    seed_id = node.publish("make much", description="d" * 4_000)
    seed, heard = peer.object(node.node_id, "SeedCreated", "seed", id=seed_id)
    assert seed["description"] == "d" * 4_000
    bid = {"seed_id": seed_id, "bidder": peer.id, "price": 1, "rests_on": heard["meta"]["id"]}
    bid_id = peer.state("BidSubmitted", "bid", **bid)["object_id"]
    wait_for("the bid arrives", lambda: node.rows(seed_id, "bids"))
    node.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
    claim, heard = peer.object(node.node_id, "ClaimCreated", "claim", bid_id=bid_id)
    run = {"seed_id": seed_id, "claim_id": claim["id"], "worker": peer.id}
    started = peer.state("TaskStarted", "run", **run, rests_on=heard["meta"]["id"])
    output = "much" * 20_000
    fields = {**run, "exit_code": 0, "timed_out": False, "stdout": output, "duration_ms": 5}
    fields["output_hash"] = hashlib.sha256(output.encode()).hexdigest()
    peer.state("TaskResult", "result", **fields, rests_on=started["envelope"]["meta"]["id"])
    wait_for("the result arrives", lambda: node.status(seed_id) == "Done")
    assert node.rows(seed_id, "results")[0]["stdout"] == output
    node.ask("seed.settle", seed_id=seed_id, outcome="Accepted")
    peer.object(node.node_id, "TaskSettle", "seed", id=seed_id, status="Accepted")
    assert not peer.events("invalid")


def test_gossip_goes_both_ways_and_loses_nothing(js: MakeJs, dht_node: MakeNode) -> None:
    count = 100
    node, peer = dht_node("node"), js()
    peer.order("connect", address=node.multiaddr)
    peer.knows_the_topics_of(node)
    begin = time.monotonic()
    ours = {node.publish(f"echo {number}") for number in range(count)}
    for seed_id in ours:
        peer.object(node.node_id, "SeedCreated", "seed", id=seed_id)
    told("node to js over gossip", count, begin)
    assert peer.events("envelope", path="gossip", place="next")
    begin = time.monotonic()
    peer.order("burst", count=count, kind="SeedCreated", name="seed", body=peer.seed())
    wait_for("all of them", lambda: len(node.seed_ids() - ours) == count)
    told("js to node over gossip", count, begin)
    assert not peer.events("invalid")


def test_a_foreign_peer_gets_the_history_of_a_node(js: MakeJs, dht_node: MakeNode) -> None:
    node = dht_node("node")
    ours = {node.publish(f"echo {number}") for number in range(HISTORY)}
    peer = js()
    begin = time.monotonic()
    peer.order("connect", address=node.multiaddr)
    wait_for("it holds all", lambda: [node.node_id, HISTORY] in [each[:2] for each in peer.order("report")["heads"]])
    told("history of the node to js over sync", HISTORY, begin)
    held = [each for each in peer.events("envelope", path="sync") if each["place"] == "next"]
    assert {each["payload"]["seed"]["id"] for each in held} == ours
    assert not peer.events("invalid")


def test_a_node_gets_the_history_of_a_foreign_peer(js: MakeJs, dht_node: MakeNode) -> None:
    peer = js()
    peer.order("burst", count=HISTORY, kind="SeedCreated", name="seed", body=peer.seed(), silent=True)
    node = dht_node("late", peer.multiaddr)
    peer.wait_for("connected", peer=node.node_id)
    peer.wait_for("talk", path="sync")
    begin = time.monotonic()
    peer.order("announce")
    wait_for("it holds all", lambda: len(node.seed_ids()) == HISTORY)
    told("history of js to the node over sync", HISTORY, begin)
    assert peer.events("talk", path="sync", kind="FeedRequest")
    assert not peer.events("envelope", path="gossip")


def test_history_goes_through_a_foreign_peer_to_another_node(js: MakeJs, dht_node: MakeNode) -> None:
    """What one node signed comes to another over the foreign peer alone, and both hold the same state."""
    first = dht_node("first")
    ours = {first.publish(f"echo {number}") for number in range(20)}
    peer = js()
    peer.order("connect", address=first.multiaddr)
    wait_for("it holds all", lambda: [first.node_id, 20] in [each[:2] for each in peer.order("report")["heads"]])
    state_hash = first.state_hash()
    assert first.end() == 0
    second = dht_node("second", peer.multiaddr)
    peer.wait_for("connected", peer=second.node_id)
    wait_for("the node greets", lambda: len(peer.events("talk", path="sync")) and second.ask("status")["peers"])
    peer.order("announce")
    wait_for("it holds all", lambda: second.seed_ids() == ours)
    assert second.state_hash() == state_hash


def test_broken_envelopes_of_a_foreign_peer_are_refused_by_name(js: MakeJs, dht_node: MakeNode) -> None:
    node, peer = dht_node("node"), js()
    source = f"p2p:{peer.id}"
    peer.order("connect", address=node.multiaddr)
    peer.knows_the_topics_of(node)
    envelope = peer.publish(silent=True)["envelope"]
    altered = json.loads(json.dumps(envelope))
    altered["payload"]["seed"]["reward"] = 1_000_000
    swapped = json.loads(json.dumps(envelope))
    swapped["meta"]["signature"] = peer.publish(silent=True)["envelope"]["meta"]["signature"]
    for text, reason in (
        (json.dumps(altered), "wrong_id"),
        (json.dumps(swapped), "bad_signature"),
        ("not JSON", "malformed"),
    ):
        assert peer.order("raw", channel="tasks", text=text)["recipients"] == 1
        node.await_event("envelope_rejected", address=source, reason=reason)
    assert not node.seed_ids()
    peer.order("raw", channel="tasks", text=json.dumps(envelope))
    wait_for("the genuine one is taken", lambda: node.seed_ids() == {envelope["payload"]["seed"]["id"]})
    told_of = node.events("envelope_rejected", address=source, reason="wrong_id")
    assert [each.payload["count"] for each in told_of] == [1], "it is not asked for again while the peer offers it"
