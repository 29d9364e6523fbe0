"""Baseline peers: their captured datagrams at a real node, and what a node with ``legacy_peers`` sends to them."""

from __future__ import annotations

import json
import re
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import pytest

from tests.support.nodes import Json, NodeProcess, Nodes, wait_for

VECTORS: Final = sorted((Path(__file__).parents[1] / "vectors" / "baseline").glob("*.bin"))
JOB: Final = ("01", "02", "03", "04", "05")
SEED_ID: Final = "f940b7cc-6e64-443a-8ec2-e7e35f570c73"
CREATOR: Final = "node-6b8db7e2-53ba-429c-9a70-042ae379933c"
WORKER: Final = "node-5cedc022-6d0c-4b30-9cf6-b7103fa0ad43"
U64_MAX: Final = 2**64 - 1

META: Final = {"id": str, "from": str, "kind": str, "ts": int, "nonce": int, "signature": str}
SEED: Final = {
    "id": str, "title": str, "description": str, "command": str, "timeout_ms": int, "bid_deadline_ts": int,
    "exec_deadline_ms": int, "min_price": int, "max_bids": int, "reward": int, "rules": str, "status": str,
    "created_by": str, "created_at": int,
}  # fmt: skip
SEED_OPTIONS: Final = {"claimed_by": str, "claimed_at": int, "claim_id": str, "result_id": str}
PAYLOADS: Final = {
    "SeedCreated": ("seed", SEED),
    "BidSubmitted": (
        "bid",
        {"id": str, "seed_id": str, "bidder": str, "price": int, "notes": str, "created_at": int},
    ),
    "ClaimCreated": ("claim", {"id": str, "seed_id": str, "bid_id": str, "worker": str, "created_at": int}),
    "TaskResult": (
        "result",
        {
            "id": str, "seed_id": str, "worker": str, "exit_code": int, "timed_out": bool, "stdout": str,
            "stderr": str, "output_hash": str, "duration_ms": int,
        },
    ),
    "TaskSettle": ("seed", SEED),
}  # fmt: skip
STATUSES: Final = {"Open", "Claimed", "Done", "Accepted", "Rejected", "Expired", "Forfeited"}


def read_as_baseline(data: bytes) -> tuple[str, Json]:
    """(kind, object) as a baseline peer reads a datagram: known fields of the known types, unknown ones ignored."""
    assert data[:1] == b"{"
    assert not data.endswith(b"\n")
    envelope = json.loads(data.decode())
    for name, wanted in META.items():
        assert type(envelope["meta"][name]) is wanted, (name, envelope["meta"])
    key, fields = PAYLOADS[envelope["meta"]["kind"]]
    found = envelope["payload"][key]
    for name, wanted in fields.items():
        assert type(found[name]) is wanted, (name, found)
    for name, wanted in SEED_OPTIONS.items():
        assert type(found.get(name)) in {wanted, type(None)}, (name, found)
    assert found.get("status", "Open") in STATUSES
    for value in (*envelope["meta"].values(), *found.values()):
        assert not isinstance(value, int) or 0 <= value <= U64_MAX
    return envelope["meta"]["kind"], found


def redated(path: Path) -> bytes:
    """A captured datagram, as if it were sent now; only its times differ."""
    data = path.read_bytes()
    shift = int(time.time()) - int(json.loads(data)["meta"]["ts"])

    def later(match: re.Match[bytes]) -> bytes:
        return b"%d" % (int(match[0]) + shift)

    return re.sub(rb"\b17954\d{5}\b", later, data)


def vector(number: str) -> bytes:
    [path] = [path for path in VECTORS if path.name.startswith(number)]
    return redated(path)


def unsigned(kind: str, author: str, payload: Json) -> bytes:
    """What a baseline peer sends."""
    now_s = int(time.time())
    meta = {"id": str(uuid.uuid4()), "from": author, "kind": kind, "ts": now_s, "nonce": now_s, "signature": ""}
    return json.dumps({"meta": meta, "payload": payload}, separators=(",", ":"), ensure_ascii=False).encode()


def test_signatures_are_required_by_default(nodes: Nodes) -> None:
    node = nodes.start("node")
    before = node.state_hash()
    for path in VECTORS:
        node.send_to(redated(path))
    wait_for("all are refused", lambda: len(node.events(reason="missing_signature")) == len(VECTORS))
    assert {event.kind for event in node.events(reason="missing_signature")} == {"envelope_rejected"}
    assert node.state_hash() == before
    assert node.seed_ids() == set()


def test_captured_datagrams_are_taken_and_linked_where_the_operator_allows_it(nodes: Nodes) -> None:
    node = nodes.start("node", [], "--no-require-signatures")
    for number, status in zip(JOB, ("Open", "Open", "Claimed", "Done", "Accepted"), strict=True):
        node.send_to(vector(number))
        envelope_id = json.loads(vector(number))["meta"]["id"]
        node.await_event("envelope_accepted", envelope_id=envelope_id)
        assert node.status(SEED_ID) == status
    seed = node.seed(SEED_ID)
    assert (seed["created_by"], seed["claimed_by"], seed["note"]) == (CREATOR, WORKER, "done")
    [result] = node.rows(SEED_ID, "results")
    assert (result["worker"], result["seed_id"], result["stdout"]) == (WORKER, SEED_ID, "ok\n")
    assert (result["signed"], node.rows(SEED_ID, "claims")[0]["signed"]) == (False, False)
    assert result["id"] == seed["result_id"]
    for number in JOB:
        node.send_to(vector(number))
    wait_for("none is taken twice", lambda: len(node.events(reason="duplicate")) == len(JOB))
    for number in ("09", "13"):
        node.send_to(vector(number))
        node.await_event("envelope_accepted", envelope_id=json.loads(vector(number))["meta"]["id"])
    assert len(node.seed_ids()) == 3
    titles = {str(node.seed(seed_id)["title"]) for seed_id in node.seed_ids()}
    assert 'tït€l 🦀 "q" \\ / \x01 \x7f \t nl\nend' in titles
    before = node.state_hash()
    node.kill()
    node.start()
    assert node.state_hash() == before
    assert node.status(SEED_ID) == "Accepted"


def test_what_cannot_be_linked_is_refused(nodes: Nodes) -> None:
    node = nodes.start("node", [], "--no-require-signatures")
    node.send_to(vector("10"))
    node.await_event("envelope_rejected", reason="ambiguous")
    own = node.publish()
    seed = node.seed(own)
    attempts = {
        "unauthorised": unsigned("TaskSettle", node.node_id, {"seed": {**seed, "status": "Rejected"}}),
        "wrong_id": unsigned("SeedCreated", CREATOR, {"seed": {**seed, "created_by": CREATOR}}),
        "malformed": unsigned("SeedCreated", CREATOR, {"seed": {}}),
        "unknown_seed": unsigned("TaskSettle", CREATOR, {"seed": {**seed, "id": "x", "status": "Accepted"}}),
        "unknown_kind": unsigned("TaskStarted", CREATOR, {"run": {}}),
        "expired": re.sub(rb'"ts":\d+', b'"ts":1', vector("01")),
    }
    for reason, data in attempts.items():
        node.send_to(data)
        node.await_event("envelope_rejected", "envelope_ignored", reason=reason)
    assert node.seed(own) == seed
    assert node.seed_ids() == {own}


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    """The socket of a baseline peer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(30)
        yield sock


def legacy_node(nodes: Nodes, peer: socket.socket) -> NodeProcess:
    words = ["--no-require-signatures", "--legacy-peers"]
    return nodes.start("node", [f"127.0.0.1:{peer.getsockname()[1]}"], *words)


def heard(peer: socket.socket, kind: str) -> Json:
    """The next datagram, which must be of this kind."""
    found, body = read_as_baseline(peer.recv(65_536))
    assert found == kind
    return body


def test_only_what_a_baseline_peer_can_read_is_sent(nodes: Nodes, peer: socket.socket) -> None:
    node = legacy_node(nodes, peer)
    seed_id = node.publish(title="tït€l", description="d" * 20_000)
    seed = heard(peer, "SeedCreated")
    assert (seed["id"], seed["title"], seed["status"]) == (seed_id, "tït€l", "Open")
    bid_id = node.bid(seed_id, 3)
    assert heard(peer, "BidSubmitted")["id"] == bid_id
    node.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
    claim = heard(peer, "ClaimCreated")
    assert (claim["bid_id"], claim["worker"]) == (bid_id, node.node_id)
    node.ask("seed.run", seed_id=seed_id)
    result = heard(peer, "TaskResult")
    assert (result["seed_id"], result["worker"], result["stdout"]) == (seed_id, node.node_id, "hi\n")
    node.ask("seed.settle", seed_id=seed_id, outcome="Accepted", note="thanks")
    settled = heard(peer, "TaskSettle")
    assert (settled["id"], settled["status"], settled["result_id"]) == (seed_id, "Accepted", result["id"])
    withdrawn = node.publish()
    assert heard(peer, "SeedCreated")["id"] == withdrawn
    node.ask("seed.settle", seed_id=withdrawn, outcome="Expired")
    told = heard(peer, "TaskSettle")
    assert (told["id"], told["status"]) == (withdrawn, "Expired")
    # Broken and foreign datagrams are not answered, and time passes without announcements.
    for data in (b"CRB2\x02" + bytes(40), b"{}", vector("01")):
        node.send_to(data, peer)
    until_ms = cast(int, node.ask("status")["uptime_ms"]) + 1_000
    wait_for("some sync intervals pass", lambda: cast(int, node.ask("status")["uptime_ms"]) > until_ms)
    last = node.publish()
    assert heard(peer, "SeedCreated")["id"] == last


def test_a_node_works_for_a_baseline_publisher(nodes: Nodes, peer: socket.socket) -> None:
    node = legacy_node(nodes, peer)
    node.send_to(vector("01"), peer)
    wait_for("the seed is taken", lambda: node.status(SEED_ID) == "Open")
    bid_id = node.bid(SEED_ID, 2)
    bid = heard(peer, "BidSubmitted")
    assert (bid["id"], bid["bidder"], bid["price"]) == (bid_id, node.node_id, 2)
    claim: Json = {"bid_id": bid_id, "created_at": int(time.time()), "id": str(uuid.uuid4()), "seed_id": SEED_ID}
    node.send_to(unsigned("ClaimCreated", CREATOR, {"claim": {**claim, "worker": node.node_id}}), peer)
    wait_for("the claim is taken", lambda: node.status(SEED_ID) == "Claimed")
    node.ask("seed.run", seed_id=SEED_ID)
    result = heard(peer, "TaskResult")
    assert (result["seed_id"], result["worker"], result["stdout"]) == (SEED_ID, node.node_id, "ok\n")
    settled: Json = {**node.seed(SEED_ID), "status": "Accepted", "rules": "well done"}
    node.send_to(unsigned("TaskSettle", CREATOR, {"seed": settled}), peer)
    wait_for("it is settled", lambda: node.status(SEED_ID) == "Accepted")
    assert node.seed(SEED_ID)["note"] == "well done"


def test_a_baseline_worker_works_for_a_node(nodes: Nodes, peer: socket.socket) -> None:
    node = legacy_node(nodes, peer)
    seed_id = node.publish()
    heard(peer, "SeedCreated")
    bid: Json = {"id": str(uuid.uuid4()), "seed_id": seed_id, "bidder": WORKER, "price": 1, "notes": ""}
    bid["created_at"] = int(time.time())
    node.send_to(unsigned("BidSubmitted", WORKER, {"bid": bid}), peer)
    wait_for("the bid is taken", lambda: node.rows(seed_id, "bids"))
    node.ask("seed.claim", seed_id=seed_id, bid_id=bid["id"])
    assert heard(peer, "ClaimCreated")["worker"] == WORKER
    node.send_to(vector("04"), peer)
    wait_for("the result is linked", lambda: node.status(seed_id) == "Done")
    [result] = node.rows(seed_id, "results")
    assert (result["stdout"], result["worker"], result["signed"]) == ("ok\n", WORKER, False)
    node.ask("seed.settle", seed_id=seed_id, outcome="Accepted")
    assert heard(peer, "TaskSettle")["status"] == "Accepted"


def test_nodes_that_are_set_for_baseline_peers_understand_each_other(nodes: Nodes) -> None:
    first = nodes.start("first", [], "--legacy-peers")
    second = nodes.start("second", [first.listen], "--legacy-peers")
    seed_id = second.publish(description="d" * 20_000)
    wait_for("the seed arrives", lambda: first.status(seed_id) == "Open")
    assert first.seed(seed_id) == second.seed(seed_id)
    assert second.ask("status")["peers"] == 0
