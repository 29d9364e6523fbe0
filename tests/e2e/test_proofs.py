"""Proofs of forks between real nodes, and on the command line."""

from __future__ import annotations

import json
import socket
import time
from functools import partial
from pathlib import Path

from crabnet.errors import ExitCode
from crabnet.protocol.envelope import Envelope, Kind
from tests.sim.test_proofs import forked
from tests.support.envelopes import Author
from tests.support.nodes import NodeProcess, Nodes, crabnet, json_line, wait_for


def send(node: NodeProcess, *envelopes: Envelope) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for envelope in envelopes:
            sock.sendto(envelope.raw, node.address)


def knows(node: NodeProcess, author: Author) -> bool:
    return node.ask("status")["equivocators"] == [author.id]


def test_a_fork_is_proved_to_everybody_and_remembered(nodes: Nodes, tmp_path: Path) -> None:
    """The second node hears only of what stands; it learns of the fork, and so does who gets the file alone."""
    first = nodes.start("first")
    second = nodes.start("second", peers=[first.listen])
    author = Author("forger")
    now_s = int(time.time())
    offer = author.say(Kind.SEED_CREATED, {"seed": author.seed(now_s, bid_deadline_ts=now_s + 600)}, now_s)
    stands, loser = forked(author, now_s)
    send(second, offer, stands)
    send(first, offer, stands, loser)
    seed_id = str(json.loads(offer.raw)["payload"]["seed"]["id"])
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
    assert (row["author"], row["seq"], row["stands"], row["does_not_stand"]) == (
        author.id,
        2,
        stands.meta.id,
        loser.meta.id,
    )
    assert author.id in second.ok("audit", "proof", author.id)
    assert second.ok("audit", "proof", second.node_id) == ""

    path = tmp_path / "proof.json"
    second.ok("audit", "proof", author.id, "--out", str(path))
    elsewhere = ["--data-dir", str(tmp_path / "nowhere")]
    checked = crabnet("audit", "proof", "--check", str(path), "--json", *elsewhere)
    assert checked.returncode == 0, checked.stderr
    assert json_line(checked.stdout)["does_not_stand"] == loser.meta.id
    assert not (tmp_path / "nowhere").exists()
    whole = path.read_bytes()
    for broken in (whole.replace(b'"reward":10', b'"reward":11', 1), whole[:-3], b"", stands.raw):
        path.write_bytes(broken)
        done = crabnet("audit", "proof", "--check", str(path), *elsewhere)
        assert done.returncode == ExitCode.REFUSED
        assert "proves no fork" in done.stderr
    assert crabnet("audit", "proof", "--check", str(tmp_path / "absent"), *elsewhere).returncode == ExitCode.USAGE
    report = json_line(second.ok("audit", "verify", "--json"))
    assert report["feeds"] == [{"author": author.id, "seq": 2, "id": stands.meta.id, "whole": True, "forks": 1}]
    assert f"feed {author.id}: 1 to 2 verified, without gaps, head {stands.meta.id}" in second.ok("audit", "verify")


def test_a_node_that_knows_no_fork_says_so(nodes: Nodes, tmp_path: Path) -> None:
    node = nodes.start("node")
    node.publish()
    done = node.cli("audit", "proof")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no fork is proved here" in done.stderr
    path = tmp_path / "proof.json"
    assert node.cli("audit", "proof", "--out", str(path)).returncode == ExitCode.REFUSED
    assert not path.exists()
