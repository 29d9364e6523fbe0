"""The operator's tools beside real nodes: topology, sync, trail, bids, pause, drain, stop, doctor, bundle, top."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import tarfile
import termios
import time
from pathlib import Path
from typing import cast

import pytest

from crabnet.control.client import JsonValue
from crabnet.errors import CrabnetError, Reason
from tests.support.nodes import CRABNET, DEADLINE_S, Json, NodeProcess, Nodes, environment, json_line, wait_for
from tests.support.polling import readable


def rows(answer: Json, name: str) -> list[Json]:
    return cast(list[Json], answer[name])


@pytest.fixture
def line(nodes: Nodes) -> list[NodeProcess]:
    """Three nodes in a line: the first and the last know each other only through the one between. One task, one bid."""
    first = nodes.start("first", (), "--alias", "first")
    between = nodes.start("between", [first.listen], "--alias", 'be"tween\\n')
    last = nodes.start("last", [between.listen], "--alias", "last")
    seed_id = last.publish("echo line")
    wait_for("the task comes through", lambda: first.status(seed_id) == "Open")
    between.bid(seed_id, 3)
    wait_for("the bid comes", lambda: first.rows(seed_id, "bids") and last.rows(seed_id, "bids"))
    return [first, between, last]


def test_the_topology_has_direct_and_relayed_ways(line: list[NodeProcess]) -> None:
    first, between, last = line
    seen = first.ask("topology")
    nodes = {str(node["node_id"]): node for node in rows(seen, "nodes")}
    assert list(nodes) == [first.node_id, between.node_id, last.node_id]
    assert nodes[first.node_id]["own"]
    assert nodes[between.node_id]["alias"] == 'be"tween\\n'
    assert str(nodes[between.node_id]["agent"]).startswith("crabnet/")
    edges = {str(edge["node_id"]): edge for edge in rows(seen, "edges")}
    direct, relayed = edges[between.node_id], edges[last.node_id]
    assert (direct["path"], direct["transport"], direct["address"]) == ("direct", "udp", between.source)
    assert (direct["confirmed"], direct["envelopes_behind"]) == (True, 0)
    assert "measured" in cast(list[str], direct["sources"])
    assert isinstance(direct["round_trip_ms"], int)
    assert isinstance(direct["last_seen_ms"], int)
    assert (relayed["path"], relayed["via"], relayed["sources"]) == ("relayed", between.node_id, ["told"])
    [configured] = [edge for edge in rows(between.ask("topology"), "edges") if edge["address"] == first.source]
    assert "configured" in cast(list[str], configured["sources"])
    assert {str(edge["node_id"]) for edge in rows(between.ask("topology"), "edges")} == {first.node_id, last.node_id}


def test_the_topology_is_remembered_without_a_node(line: list[NodeProcess]) -> None:
    first, between, last = line
    first.end()
    seen = json_line(first.ok("topology", "--format", "json"))
    assert seen["running"] is False
    edges = {str(edge["node_id"]): edge for edge in rows(seen, "edges")}
    assert edges[between.node_id]["sources"] == ["remembered"]
    assert edges[between.node_id]["address"] == between.source
    assert edges[last.node_id]["path"] == "relayed"
    assert json_line(first.ok("--dump-topology", "--json"))["edges_total"] == seen["edges_total"]
    dot = first.ok("topology", "--format", "dot")
    assert dot.startswith("digraph crabnet {")
    text = between.ok("topology")
    assert '"be\\"tween\\\\n\\n…' not in text
    assert '"be"tween\\n" (running)' in text


def test_sync_feeds_trail_and_bids(line: list[NodeProcess]) -> None:
    first, between, last = line
    [neighbour] = rows(first.ask("sync"), "neighbours")
    assert (neighbour["node_id"], neighbour["envelopes_behind"]) == (between.node_id, 0)
    page = first.ask("feed.list", limit=1)
    authors = [str(row["author"]) for row in rows(page, "feeds")]
    while page["next"] is not None:
        page = first.ask("feed.list", limit=1, after=page["next"])
        authors += [str(row["author"]) for row in rows(page, "feeds")]
    assert authors == sorted([between.node_id, last.node_id])
    assert first.ask("feed.show", author=last.node_id)["head_seq"] == 1
    with pytest.raises(CrabnetError) as refused:
        first.ask("feed.show", author="nobody")
    assert refused.value.reason is Reason.UNKNOWN_KEY
    assert rows(first.ask("feed.list", forked=True), "feeds") == []
    [bid] = rows(first.ask("bid.list"), "bids")
    assert (bid["bidder"], bid["own"], bid["chosen"], bid["status"]) == (between.node_id, False, False, "Open")
    assert rows(first.ask("bid.list", own=True), "bids") == []
    [own] = rows(between.ask("bid.list", own=True), "bids")
    assert own["title"] == "t"
    seed_id = str(bid["seed_id"])
    trail = first.ask("seed.trail", seed_id=seed_id)
    assert [row["kind"] for row in rows(trail, "decisions")] == ["seed", "bid"]
    assert trail["next_lsn"] is None
    logged = [json.loads(row) for row in first.ok("audit", "log", "--seed", seed_id, "--all", "--json").splitlines()]
    assert logged == rows(trail, "decisions")
    some = first.ask("seed.trail", seed_id=seed_id, limit=1)
    rest = first.ask("seed.trail", seed_id=seed_id, after_lsn=some["next_lsn"])
    assert rows(some, "decisions") + rows(rest, "decisions") == rows(trail, "decisions")
    first.end()
    assert json_line(first.ok("feeds", "--json"))["total"] == 2


def claimed(node: NodeProcess, command: str) -> str:
    """A task of a node that it has claimed for itself."""
    seed_id = node.publish(command)
    node.ask("seed.claim", seed_id=seed_id, bid_id=node.bid(seed_id, 1))
    return seed_id


def run(node: NodeProcess, seed_id: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CRABNET, "seed", "run", seed_id, "--data-dir", str(node.data_dir)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip


def stages(node: NodeProcess) -> list[JsonValue]:
    return [cast(Json, row["local_run"])["stage"] for row in rows(node.ask("run.list"), "runs")]


def test_paused_runs_wait_until_they_are_resumed(nodes: Nodes) -> None:
    node = nodes.start("node")
    assert "runs are paused" in node.ok("runs", "pause")
    answer = node.ask("runs.pause", request_id="again")
    assert answer == node.ask("runs.pause", request_id="again")
    seed_id = claimed(node, "echo resumed")
    with run(node, seed_id) as waiting:
        wait_for("it waits", lambda: stages(node) == ["queued"])
        assert node.ask("run.list")["paused"] is True
        assert node.status(seed_id) == "Claimed"
        assert "not paused" in node.ok("runs", "resume")
        out, _ = waiting.communicate(timeout=DEADLINE_S)
    assert "resumed" in out
    wait_for("the event", lambda: node.events("runs_resumed"))
    assert (len(node.events("runs_paused")), len(node.events("runs_resumed"))) == (1, 1)


def test_a_drained_node_lets_runs_end_takes_no_more_and_is_gone(nodes: Nodes, tmp_path: Path) -> None:
    node = nodes.start("node", (), "--runner-allowed-commands", "sleep,echo", "--runner-drain-ms", "0")
    slow, other = claimed(node, "sleep 3"), claimed(node, "echo never")
    unbid = node.publish("echo unbid")
    with run(node, slow) as running:
        wait_for("it runs", lambda: stages(node) == ["running"])
        with subprocess.Popen(
            [*CRABNET, "drain", "--timeout-ms", "60000", "--json", "--data-dir", str(node.data_dir)],
            stdout=subprocess.PIPE, text=True, env=environment(),
        ) as draining:  # fmt: skip
            wait_for("it drains", lambda: node.ask("run.list")["draining"])
            for method, params in (("seed.run", {"seed_id": other}), ("seed.bid", {"seed_id": unbid, "price": 1})):
                with pytest.raises(CrabnetError) as refused:
                    node.ask(method, **params)
                assert refused.value.reason is Reason.NODE_STOPPING
            out, _ = draining.communicate(timeout=DEADLINE_S)
        assert node.process is not None
        assert node.process.poll() is not None, "the command waits until the process is gone"
        running.communicate(timeout=DEADLINE_S)
    told = json_line(out)
    assert (draining.returncode, told["finished"], told["ended"], told["gone"]) == (0, 1, 0, True)
    assert node.await_end() == 0
    [stopped] = node.events("node_stopped")
    assert stopped.payload["clean"] is True
    assert (node.data_dir / "state.json").exists(), "it has made a checkpoint"
    done = node.cli("drain")
    assert (done.returncode, done.stderr.split(": ")[1]) == (7, "node_unreachable")


def test_a_stopped_node_ends_its_runs_soon_also_while_it_drains(nodes: Nodes) -> None:
    node = nodes.start("node", (), "--runner-allowed-commands", "sleep")
    seed_id = claimed(node, "sleep 600")
    with run(node, seed_id) as running:
        wait_for("it runs", lambda: stages(node) == ["running"])
        with subprocess.Popen(
            [*CRABNET, "drain", "--timeout-ms", "86400000", "--data-dir", str(node.data_dir)],
            stdout=subprocess.PIPE, text=True, env=environment(),
        ) as draining:  # fmt: skip
            wait_for("it drains", lambda: node.ask("run.list")["draining"])
            told = json_line(node.ok("stop", "--json"))
            out, _ = draining.communicate(timeout=DEADLINE_S)
        running.communicate(timeout=DEADLINE_S)
    assert (told["finished"], told["ended"]) == (0, 1)
    assert "1 were ended" in out
    assert node.await_end() == 0
    [finished] = node.events("run_finished")
    assert finished.payload["failed"] == "worker"


def test_the_doctor_sees_a_node_and_what_is_wrong_with_it(nodes: Nodes) -> None:
    peer = nodes.start("peer")
    node = nodes.start("node", [peer.listen])
    wait_for("they meet", lambda: node.ask("status")["peers"])
    words = ["--listen-addr", node.listen, "--announce-addr", "", "--bootstrap-peers", peer.listen]
    found = json_line(node.ok("doctor", "--json", *words))
    assert (found["ok"], found["running"]) == (True, True)
    live = {str(row["name"]): row for row in rows(found, "node")}
    assert {live[name]["verdict"] for name in ("peers", "ledger", "clock", "ready")} == {"ok"}
    checks = {str(row["name"]): row for row in rows(found, "checks")}
    assert checks["bootstrap_peers"]["verdict"] == "ok"
    assert f"{peer.listen} answered in" in str(checks["bootstrap_peers"]["detail"])
    assert "agrees with 1 peers" in str(checks["clock"]["detail"])
    node.ask("runs.pause")
    text = node.ok("doctor", *words)
    assert "warn     runs: runs are paused" in text
    node.end()
    (node.data_dir / "identity.key").unlink()
    done = node.cli("doctor", *words)
    assert done.returncode == 5
    assert "fail     ledger:" in done.stdout


@pytest.mark.deep
def test_a_peer_that_does_not_answer_and_one_of_another_namespace_are_warned_of(nodes: Nodes, tmp_path: Path) -> None:
    other = nodes.start("other", (), "--namespace", "elsewhere")
    free = "127.0.0.1:9"
    done = subprocess.run(
        [*CRABNET, "config", "verify", "--json", "--data-dir", str(tmp_path / "new"), "--listen-addr", "127.0.0.1:0",
         "--announce-addr", "", "--bootstrap-peers", f"{other.listen},{free}"],
        capture_output=True, text=True, check=False, env=environment(), timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 0
    warned = [row for row in rows(json_line(done.stdout), "checks") if row["reason"] == "node_unreachable"]
    assert {str(row["detail"]).split()[0] for row in warned} == {other.listen, free}
    assert {row["verdict"] for row in warned} == {"warn"}
    assert all(row["remedy"] for row in warned)
    assert rows(other.ask("topology"), "edges") == [], "a probe does not become a peer"


@pytest.mark.parametrize("running", [True, pytest.param(False, marks=pytest.mark.deep)])
def test_a_debug_bundle_can_be_read_and_holds_no_secret_and_no_task(
    nodes: Nodes, tmp_path: Path, running: bool
) -> None:
    node = nodes.start("node")
    seed_id = node.publish("echo PRIVATE-COMMAND", title="PRIVATE-TITLE", description="PRIVATE-TEXT")
    key = (node.data_dir / "identity.key").read_text()
    if not running:
        node.end()
    archive = tmp_path / "bundle.tar.gz"
    node.ok("debug", "bundle", "--out", str(archive))
    assert archive.stat().st_mode & 0o777 == 0o600
    files = unpacked(archive)
    assert {"README.txt", "status.json", "config.json", "doctor.json", "topology.json", "events.ndjson",
            "versions.json", "limits.json"} <= set(files)  # fmt: skip
    for name, text in files.items():
        assert "PRIVATE" not in text, name
        assert "PRIVATE KEY" not in text
        assert not any(secret in text for secret in key.splitlines()[1:-1]), name
        if name.endswith(".json"):
            json.loads(text)
    assert seed_id in files["tasks.json"]
    assert json.loads(files["status.json"])["running"] is running
    assert node.cli("debug", "bundle", "--out", str(archive)).returncode == 2
    node.ok("debug", "bundle", "--out", str(archive), "--force", "--with-tasks")
    assert "PRIVATE-TITLE" in unpacked(archive)["tasks.json"]


def unpacked(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as found:
        members = {member.name.split("/", 1)[1]: found.extractfile(member) for member in found.getmembers()}
        return {name: file.read().decode() for name, file in members.items() if file is not None}


def test_top_prints_one_picture_where_there_is_no_terminal(line: list[NodeProcess]) -> None:
    first = line[0]
    shown = first.ok("top", "--interval-ms", "100")
    assert "\x1b" not in shown
    assert line[1].listen in shown
    assert 'be"tween\\n' in shown
    assert json_line(first.ok("top", "--json"))["status"]


@pytest.mark.parametrize("key", [b"q", b"\x03", None])
def test_top_draws_on_a_terminal_of_80_by_24_and_leaves_it_as_it_was(nodes: Nodes, key: bytes | None) -> None:
    node = nodes.start("node", (), "--alias", "the-alias")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [*CRABNET, "top", "--interval-ms", "100", "--data-dir", str(node.data_dir)],
        stdin=slave, stdout=slave, stderr=slave, env=environment(TERM="xterm"), start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - this process has one thread
    )  # fmt: skip
    seen = b""
    try:
        seen = read_until(master, seen, b"q quits")
        frame = seen.split(b"\x1b[H")[1].decode()
        lines = [row.removesuffix("\x1b[K") for row in frame.split("\x1b[J")[0].split("\r\n")]
        assert "the-alias" in lines[0]
        assert len(lines) <= 24
        assert all(len(row) <= 80 for row in lines)
        if key is None:
            process.send_signal(signal.SIGTERM)
        else:
            os.write(master, key)
        seen = read_until(master, seen, b"\x1b[?1049l")
        process.wait(DEADLINE_S)
        assert termios.tcgetattr(slave) == before
        assert process.returncode == {b"q": 0, b"\x03": 130, None: 143}[key]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)
        os.close(slave)


def read_until(fd: int, seen: bytes, wanted: bytes) -> bytes:
    deadline = time.monotonic() + DEADLINE_S
    while wanted not in seen:
        assert time.monotonic() < deadline, seen
        if readable([fd], 1):
            seen += os.read(fd, 65_536)
    return seen
