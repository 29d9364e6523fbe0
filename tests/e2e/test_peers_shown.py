"""`crabnet peers` and `crabnet status` tell who is there, who is refused, and why; commands to whom they sent."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from crabnet.monitor.registry import Severity
from tests.support.nodes import Json, NodeProcess, Nodes, converge, crabnet, quiet, wait_for, whole_job

NOWHERE = "[fe80::1%nosuchzone]:9"
PUBLISH = ["seed", "publish", "--title", "t", "--cmd", "true"]


def peer(node: NodeProcess, address: str) -> Json:
    found = cast(list[Json], node.ask("peers")["peers"])
    return next((each for each in found if each["address"] == address), {})


def test_a_peer_of_another_namespace_is_shown_as_refused_and_told_once(nodes: Nodes) -> None:
    other = nodes.start("other", (), "--namespace", "elsewhere")
    node = nodes.start("node", [other.listen])
    other.peers = (node.listen,)
    other.end()
    other.start()
    event = node.await_event("peer_refused", address=other.source, reason="wrong_namespace")
    assert event.severity is Severity.WARNING
    told_ms = event.ts_ms + 1_000
    wait_for("it goes on", lambda: cast(int, peer(node, other.source)["last_refused_ms"]) > told_ms)
    assert len(node.events("peer_refused", reason="wrong_namespace")) == 1
    line = f"WARNING: messages of the peer {other.source} are refused: wrong_namespace: namespace elsewhere, ours is"
    assert node.errors().count(line) == 1
    (shown,) = node.ok("peers").splitlines()
    assert "not heard" in shown
    assert "s ago: wrong_namespace: namespace elsewhere, ours is default" in shown
    assert node.ask("status")["peers"] == 0
    done = node.cli(*PUBLISH)
    assert done.returncode == 0
    assert "Sent to 1 address from which nothing was received yet." in done.stderr


def test_a_peer_that_is_configured_by_name_is_heard_like_any_other(nodes: Nodes) -> None:
    first = nodes.start("first")
    port = first.address[1]
    node = nodes.start("node", [f"localhost:{port}"])
    converge([first, node], [whole_job(first, node)])
    wait_for("it is heard", lambda: peer(node, first.source).get("node_id") == first.node_id)
    shown = peer(node, first.source)
    assert (shown["names"], shown["configured"]) == ([f"localhost:{port}"], True)
    assert node.ask("status")["peers"] == 1
    (line,) = node.ok("peers").splitlines()
    assert line.startswith(f"{first.source} (localhost:{port})  {first.node_id}  configured")
    assert "heard" in line
    assert node.cli(*PUBLISH).stderr == "Sent to 1 peer.\n"


def test_a_command_without_a_node_says_to_whom_it_sent(nodes: Nodes, tmp_path: Path) -> None:
    peer = nodes.start("peer")
    words = ["--data-dir", str(tmp_path / "d"), "--announce-addr", peer.listen]
    done = crabnet(*PUBLISH, *words)
    assert (done.returncode, done.stderr) == (0, "Sent to 1 peer.\n")
    wait_for("it comes", lambda: len(peer.seed_ids()) == 1)
    done = crabnet(*PUBLISH, *words, "--no-announce")
    assert (done.returncode, done.stderr) == (0, "")
    done = crabnet(*PUBLISH, *words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"announced":{"peers":1,"unheard":0,"broadcast":false,"failed":0,"detail":""}' in done.stdout


def test_a_command_without_a_node_and_without_peers_says_so(tmp_path: Path) -> None:
    done = crabnet(*PUBLISH, *quiet(tmp_path / "d"))
    assert done.returncode == 0
    assert done.stderr.startswith("It was not sent, because no peer is known. It will be sent when")


def test_what_cannot_be_sent_is_stored_printed_and_an_error(nodes: Nodes, tmp_path: Path) -> None:
    """By a command alone, and by way of a node; `--json` tells it too."""
    words = ["--data-dir", str(tmp_path / "d"), "--announce-addr", NOWHERE, "--feed-wait-ms", "0"]
    node = nodes.start("node", [NOWHERE])
    for done in (crabnet(*PUBLISH, *words), node.cli(*PUBLISH)):
        assert done.returncode == 7, done.stderr
        assert done.stdout.startswith("seed published ")
        assert done.stderr.startswith("error: send_failed: the envelope is stored, but cannot be sent now: ")
        assert done.stderr.count("\n") == 1
    assert len(node.seed_ids()) == 1
    done = node.cli(*PUBLISH, "--json")
    assert done.returncode == 7
    assert '"announced":{' in done.stdout
    listed = crabnet("seed", "list", *quiet(tmp_path / "d"))
    assert len(listed.stdout.splitlines()) == 1
