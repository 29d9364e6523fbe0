"""A real node under hostile datagrams: each is refused by name, nothing changes, and the node goes on."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import cast

import pytest

from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.fragment_wire import split
from tests.support.envelopes import edit
from tests.support.hostile import Case, Targets, feed_tricks, garbage, rehash, stolen, tampered, unauthorised
from tests.support.nodes import NodeProcess, Nodes, json_line, wait_for

SETTLED_AND_NOT = ("open", "full", "claimed", "done", "accepted", "expired")
REFUSALS = {"datagram_received_bad", "fragment_dropped", "envelope_rejected", "envelope_ignored"}


def victim(nodes: Nodes, *peers: str) -> tuple[NodeProcess, Targets]:
    """A node with one seed of each sort."""
    node = nodes.start("victim", peers)
    ids: dict[str, str] = {}
    for name in SETTLED_AND_NOT:
        ids[name] = node.publish(title=name, min_price=5, max_bids=1 if name == "full" else 0)
        if name == "expired":
            node.ask("seed.settle", seed_id=ids[name], outcome="Expired")
            continue
        bid_id = node.bid(ids[name], 7)
        if name in {"claimed", "done", "accepted"}:
            node.ask("seed.claim", seed_id=ids[name], bid_id=bid_id)
        if name in {"done", "accepted"}:
            node.ask("seed.run", seed_id=ids[name])
    node.ask("seed.settle", seed_id=ids["accepted"], outcome="Accepted")
    return node, Targets(node.node_id, **{name: node.show(ids[name]) for name in SETTLED_AND_NOT})


def attack(node: NodeProcess, cases: list[Case]) -> dict[str, list[tuple[str, str]]]:
    """Send every case from a socket of its own; returns (event, reason) by name, once all have their reason."""
    assert len({case.name for case in cases}) == len(cases)
    with ExitStack() as stack:
        names: dict[str, str] = {}
        for case in cases:
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", 0))
            names[f"127.0.0.1:{sock.getsockname()[1]}"] = case.name
            for data in case.datagrams:
                sock.sendto(data, node.address)

        def seen() -> dict[str, list[tuple[str, str]]]:
            found: dict[str, list[tuple[str, str]]] = {case.name: [] for case in cases}
            for event in node.events():
                name = names.get(str(event.payload.get("address")))
                if name is not None and "reason" in event.payload:
                    found[name].append((event.kind, str(event.payload["reason"])))
            return found

        try:
            wait_for(
                "every case has its reason",
                lambda: all(case.reason in {reason for _, reason in seen()[case.name]} for case in cases),
                30,
            )
        except AssertionError:
            missing = {
                c.name: (c.reason, seen()[c.name]) for c in cases if c.reason not in dict(seen()[c.name]).values()
            }
            pytest.fail(f"not refused as expected (name: wanted, got): {missing}")
        return seen()


def judge(cases: list[Case], seen: dict[str, list[tuple[str, str]]]) -> None:
    for case in cases:
        kinds = {kind for kind, reason in seen[case.name] if reason == case.reason}
        assert kinds <= (REFUSALS | {"envelope_parked"} if case.waits else REFUSALS), (case.name, kinds)


def standing(node: NodeProcess, targets: Targets) -> list[object]:
    """What an attack must not change."""
    found: list[object] = []
    for name in SETTLED_AND_NOT:
        details = node.show(str(cast(JsonObject, getattr(targets, name)["seed"])["id"]))
        seed = cast(JsonObject, details["seed"])
        found.append({key: value for key, value in seed.items() if key != "bid_count"})
        found.append([row["id"] for row in cast(list[JsonObject], details["bids"]) if row["counts"]])
        for rows in ("claims", "runs", "results", "settlements"):
            effective = [row for row in cast(list[JsonObject], details[rows]) if row["verdict"] == "effective"]
            found.append(effective)
    return found


def still_works(node: NodeProcess) -> None:
    assert node.running
    assert json_line(node.ok("status", "--json"))["running"] is True
    seed_id = node.publish()
    node.ask("seed.claim", seed_id=seed_id, bid_id=node.bid(seed_id, 1))
    node.ask("seed.run", seed_id=seed_id)
    node.ask("seed.settle", seed_id=seed_id, outcome="Accepted")
    assert node.status(seed_id) == "Accepted"
    assert "Traceback" not in node.errors()
    assert not node.events("job_failed")


def test_garbage_is_refused_by_name_and_changes_nothing(nodes: Nodes) -> None:
    node, _ = victim(nodes)
    before = node.state_hash()
    cases = garbage()
    judge(cases, attack(node, cases))
    assert node.state_hash() == before
    still_works(node)


def test_tampered_envelopes_are_refused_by_name_and_change_nothing(nodes: Nodes) -> None:
    node, _ = victim(nodes)
    before = node.state_hash()
    cases = tampered(int(time.time()))
    judge(cases, attack(node, cases))
    assert node.state_hash() == before
    still_works(node)


def test_strangers_cannot_move_a_seed(nodes: Nodes) -> None:
    node, targets = victim(nodes)
    before = standing(node, targets)
    cases = unauthorised(targets, int(time.time()))
    judge(cases, attack(node, cases))
    assert standing(node, targets) == before
    still_works(node)
    node.kill()
    node.start()
    assert standing(node, targets) == before


def test_places_in_feeds_are_refused_by_name(nodes: Nodes) -> None:
    node, targets = victim(nodes)
    before = standing(node, targets)
    cases = feed_tricks(int(time.time()))
    judge(cases, attack(node, cases))
    node.await_event("fork_detected")
    assert standing(node, targets) == before
    still_works(node)


@pytest.fixture
def wire() -> Iterator[socket.socket]:
    """Somebody who hears what a node announces."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(30)
        yield sock


def test_a_settled_seed_cannot_be_reopened_by_what_was_sent_before(nodes: Nodes, wire: socket.socket) -> None:
    node, targets = victim(nodes, f"127.0.0.1:{wire.getsockname()[1]}")
    heard: list[bytes] = []
    accepted = str(cast(JsonObject, targets.accepted["seed"])["id"]).encode()
    while not any(b'"TaskSettle"' in data and accepted in data for data in heard):
        heard.append(wire.recv(65_536))
    about = [data for data in heard if accepted in data]
    kinds = [json.loads(data)["meta"]["kind"] for data in about]
    assert set(kinds) == {"SeedCreated", "BidSubmitted", "ClaimCreated", "TaskStarted", "TaskResult", "TaskSettle"}
    before = standing(node, targets)
    before_hash = node.state_hash()
    cases = []
    for kind, data in zip(kinds, about, strict=True):
        cases += [
            Case(f"{kind} again", "duplicate", [data]),
            Case(f"{kind} under another id", "wrong_id", [edit(data, "meta.id", "0" * 64)]),
            Case(f"{kind} with another nonce", "bad_signature", [rehash(data, nonce=1)]),
            Case(f"{kind} of baseline form", "missing_signature", [edit(edit(data, "meta.v", ...), "meta.id", kind)]),
        ]
    judge(cases, attack(node, cases))
    assert standing(node, targets) == before
    assert node.state_hash() == before_hash
    # A claim does not name its author, so its id gives the theft away.
    thefts = [
        Case(kind, "wrong_id" if kind == "ClaimCreated" else "unauthorised", split(stolen(data, kind)))
        for kind, data in zip(kinds, about, strict=True)
    ]
    judge(thefts, attack(node, thefts))
    assert standing(node, targets) == before
    still_works(node)


def test_a_storm_of_noise_does_not_keep_work_from_being_done(nodes: Nodes) -> None:
    publisher, worker = nodes.mesh("publisher", "worker")
    noise = random.Random(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(1_500):
            data = noise.randbytes(noise.randrange(200))
            sock.sendto(noise.choice([data, b"{" + data, b"CRB2\x01" + data, b"CRB2\x02" + data]), worker.address)
    seed_id = publisher.publish()
    wait_for("the seed arrives", lambda: worker.status(seed_id) == "Open")
    still_works(worker)
