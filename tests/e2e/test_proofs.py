"""Proofs of forks between real nodes, and on the command line."""

from __future__ import annotations

import socket
import time
from functools import partial
from pathlib import Path

import pytest

from crabnet.errors import ExitCode
from crabnet.protocol.envelope import Envelope
from tests.support.envelopes import Author, seed_id_of
from tests.support.nodes import NodeProcess, Nodes, crabnet, json_line, wait_for


def send(node: NodeProcess, *envelopes: Envelope) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for envelope in envelopes:
            sock.sendto(envelope.raw, node.address)


def knows(node: NodeProcess, author: Author) -> bool:
    return node.ask("status")["equivocators"] == [author.id]


@pytest.mark.deep
def test_a_fork_is_proved_to_everybody_and_remembered(nodes: Nodes, tmp_path: Path) -> None:
    """The second node hears only of one of the two; it learns of the fork, and so does who gets the file alone."""
    first = nodes.start("first")
    second = nodes.start("second", peers=[first.listen])
    author = Author("forger")
    now_s = int(time.time())
    offer = author.publish(now_s, bid_deadline_ts=now_s + 600)
    other = author.twin().publish(now_s)
    one = author.publish(now_s)
    send(second, offer, one)
    send(first, offer, one, other)
    seed_id = seed_id_of(offer)
    for node in (first, second):
        wait_for("the author to be known for it", partial(knows, node, author))
        assert node.seed(seed_id)["equivocator"] is True
        refused = node.cli("seed", "bid", seed_id, "--price", "5")
        assert refused.returncode == ExitCode.REFUSED
        assert "equivocator" in refused.stderr

    second.kill()
    second.start()
    assert second.ask("status")["equivocators_total"] == 1
    row = json_line(second.ok("audit", "proof", "--json"))
    assert (row["author"], row["seq"]) == (author.id, 2)
    assert row["envelope_ids"] == sorted([one.meta.id, other.meta.id])
    assert author.id in second.ok("audit", "proof", author.id)
    assert second.ok("audit", "proof", second.node_id) == ""

    path = tmp_path / "proof.json"
    second.ok("audit", "proof", author.id, "--out", str(path))
    elsewhere = ["--data-dir", str(tmp_path / "nowhere")]
    checked = crabnet("audit", "proof", "--check", str(path), "--json", *elsewhere)
    assert checked.returncode == 0, checked.stderr
    assert json_line(checked.stdout)["envelope_ids"] == row["envelope_ids"]
    assert not (tmp_path / "nowhere").exists()
    report = json_line(second.ok("audit", "verify", "--json"))
    assert report["feeds"] == [{"author": author.id, "seq": 1, "id": offer.meta.id, "whole": True, "end": 2}]
    text = second.ok("audit", "verify")
    assert f"feed {author.id}: 1 to 1 verified, without gaps, head {offer.meta.id}; it ends before 2" in text

    # By hand to a node that hears of nobody, while it runs, and to one at rest.
    third = nodes.start("third")
    assert third.ok("state", "import", str(path)) == "imported 1 of 1 proofs of forks\n"
    assert knows(third, author)
    third.await_event("fork_detected", author=author.id, seq=2)
    assert third.ok("state", "import", str(path)) == "imported 0 of 1 proofs of forks\nignored 1: duplicate\n"
    send(third, offer, one)
    wait_for("what comes before the fork", lambda: third.status(seed_id) == "Open")
    third.await_event("envelope_ignored", envelope_id=one.meta.id, reason="feed_ended")
    rest = ["--data-dir", str(tmp_path / "rest")]
    done = crabnet("state", "import", str(path), "--json", *rest)
    assert json_line(done.stdout)["accepted"] == 1, done.stderr
    assert json_line(crabnet("state", "vector", "--json", *rest).stdout)["heads"] == {author.id: [0, "", 2]}
    assert crabnet("state", "vector", *rest).stdout == f"{author.id} 0 - 2\n"

    whole = path.read_bytes()
    for broken in (whole.replace(b'"reward":10', b'"reward":11', 1), whole[:-3], b"", one.raw):
        path.write_bytes(broken)
        done = crabnet("audit", "proof", "--check", str(path), *elsewhere)
        assert done.returncode == ExitCode.REFUSED
        assert "proves no fork" in done.stderr
        before = third.state_hash()
        assert third.cli("state", "import", str(path)).returncode in {ExitCode.REFUSED, ExitCode.DAMAGED}
        assert third.state_hash() == before
    assert crabnet("audit", "proof", "--check", str(tmp_path / "absent"), *elsewhere).returncode == ExitCode.USAGE
    assert third.cli("state", "import", str(tmp_path / "absent")).returncode == ExitCode.USAGE


def test_a_node_that_knows_no_fork_says_so(nodes: Nodes, tmp_path: Path) -> None:
    node = nodes.start("node")
    node.publish()
    done = node.cli("audit", "proof")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no fork is proved here" in done.stderr
    path = tmp_path / "proof.json"
    assert node.cli("audit", "proof", "--out", str(path)).returncode == ExitCode.REFUSED
    assert not path.exists()
