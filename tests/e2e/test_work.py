"""`crabnet work` with real nodes: it bids by its policy, runs what it wins, and says what it has earned."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path
from typing import cast

import pytest

from tests.support.nodes import CRABNET, DEADLINE_S, Json, NodeProcess, Nodes, crabnet, earned_by, environment, wait_for

BUYS = ("--auto-award", "first", "--auto-settle", "auto")


def worker(nodes: Nodes, name: str, publisher: NodeProcess, *words: str) -> NodeProcess:
    """A worker that joins the network of a publisher."""
    node = nodes.make(name, [], "--join", publisher.listen, *words)
    node.command = "work"
    return node


def work(node: NodeProcess) -> Json:
    return node.ask("work.status")


def test_bids_runs_and_earns(nodes: Nodes) -> None:
    publisher = nodes.make("publisher", [], *BUYS).start()
    seller = worker(nodes, "seller", publisher, "--allow", "echo,sha256sum", "--min-price", "2").start()
    seed_id = publisher.publish("echo hello", reward=5)
    refused = publisher.publish("cat x", reward=5)
    wait_for("the task is settled", lambda: publisher.status(seed_id) == "Accepted")
    assert publisher.rows(seed_id, "results")[0]["stdout"] == "hello\n"
    wait_for("the settlement comes", lambda: earned_by(seller.data_dir) == 2)
    wait_for("the other is declined", lambda: work(seller)["declined"] == [{"reason": "not_allowed", "count": 1}])
    assert publisher.rows(refused, "bids") == []
    assert publisher.await_event("bid_declined", seed_id=refused).payload["reason"] == "not_allowed"

    busy = crabnet("work", "--data-dir", str(seller.data_dir))
    assert busy.returncode == 4
    assert "a node runs on" in busy.stderr
    assert "auto_bid = true" in busy.stderr
    assert "earned: 2\n" in seller.ok("work", "status")
    assert seller.ok("work", "--dry-run").startswith(f"{refused}  no bid: not_allowed: this worker does not run 'cat'")

    seller.ok("runs", "pause")
    waits = publisher.publish("echo later")
    wait_for("it is seen", lambda: {"reason": "busy", "count": 1} in cast(list[Json], work(seller)["declined"]))
    assert publisher.rows(waits, "bids") == []
    seller.ok("runs", "resume")
    wait_for("it is settled after all", lambda: earned_by(seller.data_dir) == 4)
    assert publisher.status(waits) == "Accepted"
    assert seller.end(signal.SIGINT) == 130
    assert "this session: 2 results, 2 accepted; earned 4\n" in seller.errors()
    assert f"task {seed_id} accepted by" in seller.errors()


MARKS = """#!/bin/sh
echo "$CRABNET_TEST_WORKER $1" >> {marks}
sleep "$2"
"""


def marking(directory: Path) -> tuple[Path, Path]:
    """A program that notes in a file that it was run, and by whom, then sleeps; and that file."""
    script, marks = directory / "mark", directory / "marks"
    script.write_text(MARKS.format(marks=marks))
    script.chmod(0o755)
    marks.touch()
    return script, marks


@pytest.mark.deep
def test_a_worker_that_is_killed_runs_nothing_twice(nodes: Nodes, tmp_path: Path) -> None:
    """One worker is killed in the middle of a run and started again; the other one takes over."""
    script, marks = marking(tmp_path)
    publisher = nodes.make("publisher", [], *BUYS, "--auto-reclaim").start()
    sellers = []
    for name in ("one", "two"):
        words = ("--allow", str(script), "--runner-sandbox", "none", "--runner-environment", "WORKER")
        seller = worker(nodes, name, publisher, *words)
        seller.env = environment(WORKER=name)
        sellers.append(seller.start())
    script.write_text(script.read_text().replace("CRABNET_TEST_WORKER", "WORKER"))
    long = publisher.publish(f"{script} long 60", timeout_ms=90_000)
    wait_for("the long one runs", lambda: publisher.status(long) == "Running")
    short = [publisher.publish(f"{script} {number} 0") for number in range(6)]
    wait_for("the short ones are done", lambda: all(publisher.status(each) == "Accepted" for each in short))
    by_id = {seller.node_id: seller for seller in sellers}
    victim = by_id[str(publisher.seed(long)["claimed_by"])]
    wait_for("it has begun", lambda: " long\n" in marks.read_text())
    victim.kill()
    script.write_text(script.read_text().replace('sleep "$2"', "true"))
    victim.start()
    wait_for("the other one has done it", lambda: publisher.status(long) == "Accepted")
    lines = [line.split() for line in marks.read_text().splitlines()]
    assert sorted(what for _, what in lines) == sorted([*map(str, range(6)), "long", "long"])
    assert len({who for who, what in lines if what == "long"}) == 2  # each attempt has another worker
    assert publisher.seed(long)["attempt"] == 2
    assert "was interrupted by the end of the node, and is not repeated" in victim.errors()


@pytest.mark.deep
def test_what_was_won_while_the_worker_was_away_is_run_at_its_start(nodes: Nodes) -> None:
    publisher = nodes.make("publisher").start()
    seller = worker(nodes, "seller", publisher, "--allow", "echo").start()
    seed_id = publisher.publish("echo hello")
    wait_for("it bids", lambda: len(publisher.rows(seed_id, "bids")) == 1)
    seller.kill()
    publisher.ask("seed.claim", seed_id=seed_id, bid_id=publisher.rows(seed_id, "bids")[0]["id"])
    seller.start()
    wait_for("it is run", lambda: publisher.status(seed_id) == "Done")
    assert work(seller)["owed_results"] == 1


@pytest.mark.deep
def test_two_workers_and_the_default_port(nodes: Nodes, tmp_path: Path) -> None:
    """The second one on a machine listens on a free port; one that has chosen its port says that it is in use."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = taken.getsockname()[1]
        chosen = crabnet("work", "--data-dir", str(tmp_path / "a"), "--listen-addr", f"127.0.0.1:{port}")
        assert chosen.returncode == 7, chosen.stderr
        assert "in use" in chosen.stderr
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        try:
            taken.bind(("0.0.0.0", 9012))
        except OSError:
            pytest.skip("another program has the default port")
        words = ["work", "--data-dir", str(tmp_path / "b"), "--announce-addr", "", "--web-addr", "off"]
        process = subprocess.Popen(
            [*CRABNET, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=DEADLINE_S)
    assert line.startswith("listen started on Udp:0.0.0.0:")
    assert not line.endswith(":9012\n")
    assert "port 9012 is in use, so this node listens on a free one" in errors


@pytest.mark.deep
def test_a_dry_run_looks_around_and_leaves_no_trace(nodes: Nodes, tmp_path: Path) -> None:
    publisher = nodes.make("publisher").start()
    cheap, dear = publisher.publish("echo cheap", reward=1), publisher.publish("echo dear", reward=9)
    words = ("--data-dir", str(tmp_path / "looks"), "--listen-addr", "127.0.0.1:0", "--announce-addr", "")
    done = crabnet("work", "--dry-run", "--join", publisher.listen, "--price", "5", *words, "--wait-ms", "20000")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(
        [f"{cheap}  no bid: price: it wants 5, and the reward is 1  echo cheap", f"{dear}  bid 5  echo dear"]
    )
    assert [publisher.rows(each, "bids") for each in (cheap, dear)] == [[], []]
    publisher.end()
    alone = crabnet("work", "--dry-run", "--price", "10", "--wait-ms", "0", *words)
    assert f"{dear}  no bid: price: it wants 10, and the reward is 9  echo dear" in alone.stdout
    assert "no other node has answered" in alone.stderr


def test_join() -> None:
    bad = crabnet("work", "--join", "host:port")
    assert bad.returncode == 2
    assert "'host:port' has no valid port" in bad.stderr
