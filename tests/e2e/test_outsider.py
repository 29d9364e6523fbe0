"""A second implementation, written from docs/PROTOCOL.md alone, works with a real node."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.e2e.outsider import Outsider, jcs
from tests.support.nodes import NodeProcess, Nodes, wait_for


@pytest.fixture
def node(nodes: Nodes) -> NodeProcess:
    """A node that announces to nobody it was told of."""
    return nodes.start("node")


@pytest.fixture
def outsider(node: NodeProcess) -> Iterator[Outsider]:
    """A peer of the node."""
    made = Outsider(node.address)
    yield made
    made.close()


def test_an_outsider_has_its_task_done_by_a_node(node: NodeProcess, outsider: Outsider) -> None:
    seed_id = outsider.publish(title="Grüße 🦀", command="printf 'a b'", min_price=2)
    wait_for("the node sees the seed", lambda: node.status(seed_id) == "Open")
    assert node.seed(seed_id)["title"] == "Grüße 🦀"
    outsider.pump("the node trusts the address", lambda: node.events("peer_confirmed"))
    bid_id = node.bid(seed_id, 3)
    bid = outsider.pump("the bid", lambda: outsider.found("BidSubmitted", "bid", node.node_id, id=bid_id))
    assert (bid["seed_id"], bid["price"]) == (seed_id, 3)
    claim = {"seed_id": seed_id, "bid_id": bid_id, "worker": node.node_id, "attempt": 1}
    claim["rests_on"] = outsider.named(node.node_id, "BidSubmitted", "bid", bid_id)
    claim_id = outsider.say("ClaimCreated", "claim", **claim)
    wait_for("the node sees the claim", lambda: node.status(seed_id) == "Claimed")
    assert node.cli("seed", "run", seed_id).returncode == 0
    result = outsider.pump("the result", lambda: outsider.found("TaskResult", "result", node.node_id))
    assert outsider.found("TaskStarted", "run", node.node_id, claim_id=claim_id)
    assert (result["stdout"], result["output_hash"]) == ("a b", hashlib.sha256(b"a b").hexdigest())
    settled = {"id": seed_id, "status": "Accepted", "claim_id": claim_id, "result_id": result["id"], "attempt": 1}
    settled["rests_on"] = outsider.named(node.node_id, "TaskResult", "result", result["id"])
    outsider.say("TaskSettle", "seed", **settled)
    wait_for("the node sees the settlement", lambda: node.status(seed_id) == "Accepted")
    rests_on = outsider.feeds[outsider.id][-1]["meta"]["id"]
    outsider.pump(
        "the node has acknowledged it",
        lambda: outsider.found("SettleAcknowledged", "acknowledgement", node.node_id, rests_on=rests_on),
    )


def test_an_outsider_works_for_a_node(node: NodeProcess, outsider: Outsider) -> None:
    outsider.talk("NodeHello", {"identity": {"node_id": outsider.id}, "challenge": "who", "echo": ""})
    outsider.pump("an echo", lambda: [e for e in outsider.heard if e["payload"].get("echo") == "who"])
    outsider.pump("the node trusts the address", lambda: node.events("peer_confirmed"))
    seed_id = node.publish("make much", description="d" * 4_000)
    seed = outsider.pump("the seed", lambda: outsider.found("SeedCreated", "seed", node.node_id))
    assert (seed["id"], seed["description"]) == (seed_id, "d" * 4_000)
    rests_on = outsider.named(node.node_id, "SeedCreated", "seed", seed_id)
    bid_id = outsider.say("BidSubmitted", "bid", seed_id=seed_id, bidder=outsider.id, price=1, rests_on=rests_on)
    wait_for("the bid arrives", lambda: node.rows(seed_id, "bids"))
    node.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
    claim = outsider.pump("the claim", lambda: outsider.found("ClaimCreated", "claim", node.node_id, bid_id=bid_id))
    assert claim["rests_on"] == outsider.named(outsider.id, "BidSubmitted", "bid", bid_id)
    run = {"seed_id": seed_id, "claim_id": claim["id"], "worker": outsider.id}
    run["rests_on"] = outsider.named(node.node_id, "ClaimCreated", "claim", claim["id"])
    run_id = outsider.say("TaskStarted", "run", **run)
    output = "much" * 20_000
    fields = {"seed_id": seed_id, "claim_id": claim["id"], "worker": outsider.id, "exit_code": 0, "timed_out": False}
    fields["rests_on"] = outsider.named(outsider.id, "TaskStarted", "run", run_id)
    digest = hashlib.sha256(output.encode()).hexdigest()
    outsider.say("TaskResult", "result", **fields, stdout=output, output_hash=digest, duration_ms=5)
    outsider.pump("the result arrives", lambda: node.status(seed_id) == "Done")
    assert node.rows(seed_id, "results")[0]["stdout"] == output
    node.ask("seed.settle", seed_id=seed_id, outcome="Accepted")
    assert outsider.pump("settled", lambda: outsider.found("TaskSettle", "seed", node.node_id, status="Accepted"))
    settlement = outsider.named(node.node_id, "TaskSettle", "seed", seed_id)
    said = {"seed_id": seed_id, "worker": outsider.id, "rests_on": settlement}
    outsider.say("SettleAcknowledged", "acknowledgement", **said)
    wait_for("the acknowledgement counts", lambda: node.rows(seed_id, "acknowledgements"))


def test_a_gap_is_asked_for_and_filled(node: NodeProcess, outsider: Outsider) -> None:
    first = outsider.publish(title="first")
    outsider.mute = True
    hidden = outsider.publish(title="hidden")
    outsider.mute = False
    last = outsider.publish(title="last")
    outsider.pump("all three are there", lambda: node.seed_ids() == {first, hidden, last})
    assert [e for e in outsider.heard if e["meta"]["kind"] == "FeedRequest"]


def test_a_head_is_enough_to_be_asked_for_everything(node: NodeProcess, outsider: Outsider) -> None:
    outsider.mute = True
    seeds = {outsider.publish(title=str(number)) for number in range(5)}
    head = outsider.feeds[outsider.id][-1]["meta"]
    outsider.talk("FeedHeads", {"heads": [[outsider.id, 5, head["id"]]]})
    outsider.pump("all are there", lambda: node.seed_ids() == seeds)


def test_an_outsider_that_lost_its_memory_gets_its_feed_back(node: NodeProcess, outsider: Outsider) -> None:
    seeds = {outsider.publish(title=str(number)) for number in range(3)}
    outsider.pump("all are there", lambda: node.seed_ids() == seeds and node.events("peer_confirmed"))
    reborn = Outsider(node.address, outsider.private_key)
    try:
        reborn.talk("NodeHello", {"identity": {"node_id": reborn.id}})
        reborn.pump("the new address is trusted", lambda: len(node.events("peer_confirmed")) == 2)
        reborn.talk("FeedRequest", {"wants": [[reborn.id, 1, 64]]})
        reborn.pump("the own feed", lambda: len(reborn.feeds.get(reborn.id, [])) == 3)
        assert reborn.feeds[reborn.id] == outsider.feeds[outsider.id]
        more = reborn.publish(title="more")
        wait_for("the feed goes on", lambda: node.status(more) == "Open")
        assert not node.events("fork_detected")
    finally:
        reborn.close()


def test_two_envelopes_for_one_place_end_the_feed(node: NodeProcess, outsider: Outsider) -> None:
    """Section 7: what comes before stands, nothing comes after, and the head says where it ends."""
    before = outsider.publish(title="before")
    feed = outsider.feeds[outsider.id]
    outsider.mute = True
    outsider.publish(title="one")
    one = feed.pop()
    two_id = outsider.publish(title="two")
    two = feed.pop()
    outsider.mute = False
    for envelope in (one, two):
        outsider.send(jcs(envelope))
    node.await_event("fork_detected", author=outsider.id, seq=2)
    assert node.seed_ids() == {before}
    feed.append(one)
    after = outsider.publish(title="after")
    node.await_event("envelope_ignored", reason="feed_ended")
    assert node.seed_ids() == {before}
    assert after != two_id
    outsider.pump(
        "its head with its end",
        lambda: [
            said
            for said in outsider.heard
            if [outsider.id, 1, feed[0]["meta"]["id"], 2] in said["payload"].get("heads", [])
        ],
    )


def test_what_rests_on_an_envelope_that_nobody_holds_is_waited_for_and_asked_for(
    node: NodeProcess, outsider: Outsider
) -> None:
    other = Outsider(node.address)
    try:
        other.mute = True
        seed_id = other.publish(title="unheard of")
        seed = other.feeds[other.id][0]
        rests_on = seed["meta"]["id"]
        outsider.say("BidSubmitted", "bid", seed_id=seed_id, bidder=outsider.id, price=1, rests_on=rests_on)
        node.await_event("envelope_parked", author=outsider.id, reason="unknown_parent")
        asked = outsider.pump(
            "a request by name",
            lambda: [e for e in outsider.heard if [seed_id, rests_on] in e["payload"].get("names", [])],
        )
        assert asked[0]["meta"]["kind"] == "FeedRequest"
        outsider.send(jcs(seed))
        wait_for("the bid counts", lambda: node.rows(seed_id, "bids"))
    finally:
        other.close()


SPOILT: dict[str, dict[str, object]] = {
    "bad_signature": {"signature": "A" * 86},
    "wrong_id": {"nonce": 1},
    "missing_signature": {"signature": ""},
    "malformed": {"seq": "1"},
}


def test_what_is_broken_is_refused_with_its_reason(node: NodeProcess, outsider: Outsider) -> None:
    for reason, fields in SPOILT.items():
        outsider.mute = True
        outsider.publish(title=reason)
        outsider.mute = False
        envelope = outsider.feeds[outsider.id].pop()
        envelope["meta"].update(fields)
        outsider.send(jcs(envelope))
        node.await_event("envelope_rejected", reason=reason)
    assert node.seed_ids() == set()
    good = outsider.publish(title="good")
    wait_for("the node is well", lambda: node.status(good) == "Open")
