"""Output that is not UTF-8 keeps its bytes, so that its hash can be computed again (run-5)."""

from __future__ import annotations

import hashlib
import json
import subprocess

from tests.support.nodes import CRABNET, DEADLINE_S, NodeProcess, Nodes, environment, wait_for

RAW = b"\xff\x00\xfe not text\n"


def raw_of(node: NodeProcess, *words: str) -> bytes:
    done = subprocess.run(
        [*CRABNET, *words, "--data-dir", str(node.data_dir)],
        capture_output=True, check=True, env=environment(), timeout=DEADLINE_S,
    )  # fmt: skip
    return done.stdout


def test_bytes_come_through_to_the_publisher(nodes: Nodes) -> None:
    publisher, worker = nodes.mesh("publisher", "worker")
    octal = "".join(f"\\{byte:03o}" for byte in RAW)
    seed_id = publisher.publish(f"printf '{octal}'")
    wait_for("the seed comes", lambda: worker.status(seed_id) == "Open")
    assert publisher.cli("seed", "logs", seed_id).returncode == 3
    bid_id = worker.bid(seed_id, 1)
    wait_for("the bid comes", lambda: publisher.rows(seed_id, "bids"))
    publisher.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
    wait_for("the claim comes", lambda: worker.status(seed_id) == "Claimed")
    worker.ask("seed.run", seed_id=seed_id)
    wait_for("the result comes", lambda: publisher.status(seed_id) == "Done")
    assert raw_of(publisher, "seed", "logs", seed_id) == RAW
    assert raw_of(publisher, "seed", "logs", seed_id, "--stderr") == b""
    (result,) = publisher.rows(seed_id, "results")
    assert result["output_hash"] == hashlib.sha256(RAW).hexdigest()
    assert result["stdout"] == RAW.decode(errors="replace")
    as_json = json.loads(raw_of(publisher, "seed", "logs", seed_id, "--json"))
    assert (as_json["stream"], as_json["base64"]) == ("stdout", result["stdout_base64"])
    publisher.end()
    assert raw_of(publisher, "seed", "logs", seed_id) == RAW


def test_text_is_written_as_it_is(nodes: Nodes) -> None:
    node = nodes.start("node")
    seed_id = node.publish("echo grün")
    node.ask("seed.claim", seed_id=seed_id, bid_id=node.bid(seed_id, 1))
    node.ask("seed.run", seed_id=seed_id)
    assert raw_of(node, "seed", "logs", seed_id) == "grün\n".encode()
    assert node.rows(seed_id, "results")[0]["stdout_base64"] == ""
