"""The whole job with real nodes over UDP, joiners and leavers included."""

from __future__ import annotations

import hashlib
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.nodes import CRABNET, Nodes, converge, crabnet, environment, json_line, quiet, wait_for, whole_job
from tests.support.ports import reserved_port


def test_three_nodes_do_the_whole_job_by_the_command_line(nodes: Nodes) -> None:
    publisher, cheap, dear = nodes.mesh("publisher", "cheap", "dear")
    line = publisher.ok(
        "seed", "publish", "--title", "tït€l 🦀", "--cmd", "printf 'a\\nb'", "--desc", "d", "--timeout-ms", "5000",
        "--bid-window-ms", "600000", "--min-price", "3", "--max-bids", "2", "--reward", "7", "--rules", "be nice",
        "--announce",
    )  # fmt: skip
    assert line.startswith("seed published ")
    seed_id = line.split()[2]
    wait_for("all hear of it", lambda: all(node.status(seed_id) == "Open" for node in (cheap, dear)))
    bids = {}
    for worker, price in ((dear, 9), (cheap, 3)):
        printed = worker.ok("seed", "bid", seed_id, "--price", str(price), "--notes", "I can", "--announce")
        assert printed.startswith("bid submitted ")
        bids[price] = printed.split()[2]
    wait_for("both bids arrive", lambda: len(publisher.rows(seed_id, "bids")) == 2)
    claim = publisher.ok("seed", "claim", seed_id, bids[3], "--announce")
    assert claim.startswith("claim created ")
    wait_for("both know", lambda: all(node.status(seed_id) == "Claimed" for node in (cheap, dear)))
    refused = dear.cli("seed", "run", seed_id)
    assert (refused.returncode, refused.stderr.split(":")[1].strip()) == (3, "unauthorised")
    result = cheap.ok("seed", "run", seed_id).split()
    assert result[:2] == ["task", "result"]
    assert result[3] == "hash=" + hashlib.sha256(b"a\nb").hexdigest()
    wait_for("the result arrives", lambda: publisher.status(seed_id) == "Done")
    settled = publisher.ok("seed", "settle", seed_id, "--accepted", "--note", "thanks", "--announce")
    assert settled == f"seed {seed_id} settled as Accepted\n"

    converge([publisher, cheap, dear], [seed_id])
    for node in (publisher, cheap, dear):
        shown = json_line(node.ok("seed", "show", seed_id, "--json"))
        seed = node.seed(seed_id)
        assert seed == shown["seed"]
        assert (seed["title"], seed["claimed_by"], seed["claim_id"]) == ("tït€l 🦀", cheap.node_id, claim.split()[2])
        assert (seed["result_id"], seed["note"], seed["created_by"]) == (result[2], "thanks", publisher.node_id)
        [output] = node.rows(seed_id, "results")
        assert (output["stdout"], output["exit_code"], output["worker"]) == ("a\nb", 0, cheap.node_id)


def test_a_rejected_result_ends_the_same_everywhere(nodes: Nodes) -> None:
    publisher, worker = nodes.mesh("publisher", "worker")
    seed_id = publisher.publish("false")
    wait_for("the seed arrives", lambda: worker.status(seed_id))
    bid_id = worker.bid(seed_id, 0)
    wait_for("the bid arrives", lambda: publisher.rows(seed_id, "bids"))
    publisher.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
    wait_for("the claim arrives", lambda: worker.status(seed_id) == "Claimed")
    worker.ask("seed.run", seed_id=seed_id)
    wait_for("the result arrives", lambda: publisher.status(seed_id) == "Done")
    assert publisher.rows(seed_id, "results")[0]["exit_code"] == 1
    publisher.ask("seed.settle", seed_id=seed_id, outcome="Rejected")
    converge([publisher, worker], [seed_id], "Rejected")
    for words in (["--accepted"], ["--rejected"], ["--cancelled"], ["--forfeited"]):
        assert publisher.cli("seed", "settle", seed_id, *words).returncode == 3
    assert publisher.status(seed_id) == "Rejected"


@pytest.mark.deep
def test_a_late_joiner_catches_up(nodes: Nodes) -> None:
    publisher, worker = nodes.mesh("publisher", "worker")
    seed_ids = [whole_job(publisher, worker) for _ in range(3)]
    late = nodes.start("late", [worker.listen])
    converge([publisher, worker, late], seed_ids)
    late.await_event("gap_filled")


@pytest.mark.deep
def test_a_long_history_is_caught_up_with(nodes: Nodes) -> None:
    publisher = nodes.start("publisher")
    seed_ids = [publisher.publish(description="x" * size) for size in [0] * 150 + [3_000] * 100 + [60_000] * 5]
    late = nodes.start("late", [publisher.listen])
    converge([publisher, late], seed_ids, "Open")


def test_a_node_that_was_down_catches_up(nodes: Nodes) -> None:
    publisher, worker, third = nodes.mesh("publisher", "worker", "third")
    before = whole_job(publisher, worker)
    converge([publisher, worker, third], [before])
    third.end()
    missed = [whole_job(publisher, worker) for _ in range(2)]
    third.start()
    converge([publisher, worker, third], [before, *missed])


def test_what_was_not_announced_comes_by_sync(nodes: Nodes) -> None:
    publisher, other = nodes.mesh("publisher", "other")
    seed_id = publisher.ok("seed", "publish", "--title", "t", "--cmd", "true", "--no-announce").split()[2]
    wait_for("sync brings it", lambda: other.status(seed_id) == "Open")
    converge([publisher, other], [seed_id], "Open")
    assert not publisher.events("announce_sent", seed_id=seed_id)
    announced = publisher.publish()
    publisher.await_event("announce_sent", kind="SeedCreated")
    wait_for("this one comes too", lambda: other.status(announced) == "Open")


def test_a_command_without_a_node_is_heard(nodes: Nodes, tmp_path: Path) -> None:
    listener = nodes.start("listener")
    words = ["--data-dir", str(tmp_path / "d"), "--announce-addr", listener.listen]
    done = crabnet("seed", "publish", "--title", "t", "--cmd", "true", *words)
    assert done.returncode == 0, done.stderr
    wait_for("it arrives", lambda: listener.status(done.stdout.split()[2]) == "Open")


@pytest.mark.deep
def test_a_target_that_is_down_costs_nothing_and_is_healed(nodes: Nodes) -> None:
    port = reserved_port()
    publisher = nodes.start("publisher", [f"127.0.0.1:{port}"])
    printed = {publisher.ok("seed", "publish", "--title", str(n), "--cmd", "true").split()[2] for n in range(3)}
    assert publisher.seed_ids() == printed
    other = nodes.make("other")
    other.listen = f"127.0.0.1:{port}"
    other.start()
    wait_for("all of it arrives", lambda: other.seed_ids() == printed)
    converge([publisher, other])


def test_an_unroutable_target_does_not_undo_anything(nodes: Nodes) -> None:
    """A socket on the loopback address cannot send beyond the machine: the kernel refuses it at once."""
    publisher = nodes.start("publisher", ["240.0.0.1:9"])
    worker = nodes.start("worker", [publisher.listen, "240.0.0.1:9"])
    seed_id = whole_job(publisher, worker)
    converge([publisher, worker], [seed_id])
    worker.await_event("run_finished", seed_id=seed_id)
    assert len(worker.events("run_started", seed_id=seed_id)) == 1
    for node in (publisher, worker):
        event = node.await_event("send_failed", address="udp:240.0.0.1:9")
        assert event.payload["reason"] == "send_failed"


@pytest.mark.parametrize("target", ["127.0.0.1:9", pytest.param("nowhere.invalid:9", marks=pytest.mark.deep)])
def test_a_command_without_a_node_whose_target_is_down_stores_what_it_says(tmp_path: Path, target: str) -> None:
    words = ["--data-dir", str(tmp_path / "d"), "--announce-addr", target]
    done = crabnet("seed", "publish", "--title", "t", "--cmd", "true", *words)
    assert done.returncode == (7 if target == "nowhere.invalid:9" else 0), done.stderr
    listed = crabnet("seed", "list", *quiet(tmp_path / "d"))
    assert listed.stdout.split()[0] == done.stdout.split()[2]
    failed = crabnet("events", "--kind", "send_failed", "--json", *quiet(tmp_path / "d")).stdout.splitlines()
    assert bool(failed) is (target == "nowhere.invalid:9")


def test_twenty_publishers_at_once_are_heard_by_a_peer(nodes: Nodes) -> None:
    publisher, peer = nodes.mesh("publisher", "peer")
    words = [*CRABNET, "seed", "publish", "--title", "t", "--cmd", "true", "--data-dir", str(publisher.data_dir)]
    commands = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        for _ in range(20)
    ]
    outputs = [(*command.communicate(timeout=100), command.returncode) for command in commands]
    assert [code for _, _, code in outputs] == [0] * 20, outputs
    printed = {out.split()[2] for out, _, _ in outputs}
    assert len(printed) == 20
    assert publisher.seed_ids() == printed
    wait_for("the peer has all", lambda: peer.seed_ids() == printed)
    converge([publisher, peer])


def test_ipv6(nodes: Nodes) -> None:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    publisher = nodes.make("publisher")
    publisher.listen = "[::1]:0"
    publisher.start()
    worker = nodes.make("worker", [publisher.listen])
    worker.listen = "[::1]:0"
    worker.start()
    converge([publisher, worker], [whole_job(publisher, worker)])
