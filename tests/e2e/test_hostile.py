"""A real node under hostile datagrams: each is refused by name, nothing changes, and the node goes on."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from typing import cast

import pytest

from crabnet import limits
from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.fragment_wire import split
from crabnet.protocol.fragments import Complete, Reassembler
from tests.hostile.attack import attack, standing, still_works, victim
from tests.hostile.case import Recipe, Row, data, rehash
from tests.hostile.corpus import CORPUS
from tests.hostile.places import stolen
from tests.support.envelopes import edit
from tests.support.nodes import Nodes, converge, wait_for

PLACELESS = [group for group in CORPUS if not group.keeps_place]
PLACED = [group for group in CORPUS if group.keeps_place]


def test_what_is_broken_or_forged_is_refused_by_name_and_leaves_no_trace(nodes: Nodes) -> None:
    node, targets = victim(nodes)
    before, feeds = node.state_hash(), node.ask("status")["feeds"]
    for group in PLACELESS:
        attack(node, group.rows, int(time.time()), targets)
        assert (node.state_hash(), node.ask("status")["feeds"]) == (before, feeds), group.title
    still_works(node)


def test_what_is_signed_but_not_allowed_is_refused_by_name_and_moves_nothing(nodes: Nodes) -> None:
    node, targets = victim(nodes)
    before = standing(node, targets)
    for group in PLACED:
        attack(node, group.rows, int(time.time()), targets)
        assert standing(node, targets) == before, group.title
    node.await_event("fork_detected")
    still_works(node)
    node.kill()
    node.start()
    assert standing(node, targets) == before
    # Whoever learns all this later comes to the same state.
    late = nodes.start("late", [node.listen])
    converge([node, late])
    assert standing(late, targets) == before


def test_tiny_datagrams_are_told_together_after_the_first_ones(nodes: Nodes) -> None:
    off = ("--udp-source-rejects-per-sec", "0", "--udp-source-fast-fail-threshold-per-sec", "0")
    node = nodes.start("node", [], *off)
    tiny = [b"\x00\x01", b"{}", split(b"{" * 2_000)[0][:5]]
    for at in range(600):
        node.send_to(tiny[at % len(tiny)])
        if at % 50 == 49:  # none is to be lost in the socket's buffer
            node.ask("status")

    def heard() -> bool:
        told = (*node.events("datagram_received_bad"), *node.events("envelope_rejected", "fragment_dropped"))
        return sum(int(cast(int, event.payload.get("count", 1))) for event in told) >= 560

    wait_for("all are told but the last few", heard)
    told = node.events("datagram_received_bad", "envelope_rejected", "fragment_dropped")
    assert len(told) <= limits.TRIFLES_TOLD_ALONE + sum(map(len, tiny)) * 200 // limits.TOLD_BYTES_MIN
    assert node.status(node.publish()) == "Open"


@pytest.fixture
def wire() -> Iterator[socket.socket]:
    """Somebody who hears what a node announces."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(30)
        yield sock


def heard_about(seed_id: object, wire: socket.socket) -> dict[str, bytes]:
    """Everything that a node sent about a settled seed: kind and envelope."""
    found: dict[str, bytes] = {}
    reassembler = Reassembler()
    steps = {"SeedCreated", "BidSubmitted", "ClaimCreated", "TaskStarted", "TaskResult", "TaskSettle"}
    while set(found) != steps:
        sent = wire.recv(65_536)
        if not sent.startswith(b"{"):  # a result with long numbers does not fit in one datagram
            taken = reassembler.add("the node", sent, 0)
            if not isinstance(taken, Complete):
                continue
            sent = taken.message
        if str(seed_id).encode() in sent:
            found[json.loads(sent)["meta"]["kind"]] = sent
    return found


def replays(about: dict[str, bytes]) -> list[Row]:
    """The same again, as it was and disguised."""
    rows = []
    for kind, raw in about.items():
        value = cast(JsonObject, json.loads(raw))
        spelled = json.dumps(dict(reversed(value.items())), indent=1).encode()
        unsigned = edit(edit(raw, "meta.v", ...), "meta.id", kind)
        rows += [
            Row(f"{kind} again", data("as it was", raw), Reason.DUPLICATE, Outcome.IGNORED),
            Row(f"{kind} respelled", data("spelled otherwise", spelled), Reason.DUPLICATE, Outcome.IGNORED),
            Row(f"{kind} under another id", data("id of zeros", edit(raw, "meta.id", "0" * 64)), Reason.WRONG_ID),
            Row(f"{kind} with another nonce", data("id made to fit", rehash(raw, nonce=1)), Reason.BAD_SIGNATURE),
            Row(f"{kind} of baseline form", data("unsigned", unsigned), Reason.MISSING_SIGNATURE),
        ]
    return rows


def thefts(about: dict[str, bytes]) -> list[Row]:
    """The same as somebody else's. A claim does not name its author, so its id gives the theft away."""

    def theft(raw: bytes) -> Recipe:
        return Recipe("signed anew by a stranger", lambda stranger: split(stolen(raw, stranger)))

    return [
        Row(
            f"{kind} stolen",
            theft(raw),
            Reason.WRONG_ID if kind == "ClaimCreated" else Reason.UNAUTHORISED,
        )
        for kind, raw in about.items()
    ]


def test_replays_are_without_effect_also_after_a_restart_and_once_forgotten(nodes: Nodes, wire: socket.socket) -> None:
    node, targets = victim(nodes, f"127.0.0.1:{wire.getsockname()[1]}")
    about = heard_about(targets.seed("accepted")["id"], wire)
    before, before_hash = standing(node, targets), node.state_hash()
    attack(node, replays(about), int(time.time()), targets)
    node.kill()
    # The window of seen ids holds next to nothing from now on: the feeds alone have to know.
    node.words = ("--seen-messages-capacity", "1", "--seen-messages-ttl-s", "43500")
    node.start()
    attack(node, replays(about), int(time.time()), targets)
    assert (standing(node, targets), node.state_hash()) == (before, before_hash)
    attack(node, thefts(about), int(time.time()), targets)
    assert standing(node, targets) == before
    still_works(node)


def test_a_storm_of_noise_does_not_keep_work_from_being_done(nodes: Nodes) -> None:
    publisher, worker = nodes.mesh("publisher", "worker")
    noise = random.Random(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(1_500):
            junk = noise.randbytes(noise.randrange(200))
            sock.sendto(noise.choice([junk, b"{" + junk, b"CRB2\x01" + junk, b"CRB2\x02" + junk]), worker.address)
    seed_id = publisher.publish()
    wait_for("the seed arrives", lambda: worker.status(seed_id) == "Open")
    still_works(worker)
