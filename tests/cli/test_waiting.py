"""Waiting for tasks, their output, and the history of a node, with real nodes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crabnet.errors import ExitCode
from tests.support.nodes import CRABNET, NodeProcess, crabnet, environment, wait_for


@pytest.fixture(name="nodes")
def _nodes(tmp_path: Path) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    buyer = NodeProcess(tmp_path / "buyer" / "data").start()
    worker = NodeProcess(tmp_path / "worker" / "data", [buyer.listen]).start()
    try:
        yield buyer, worker
    finally:
        for node in (worker, buyer):
            node.end()


def follower(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*CRABNET, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())


@pytest.mark.deep
def test_a_task_is_awaited_and_its_output_follows(nodes: tuple[NodeProcess, NodeProcess]) -> None:
    buyer, worker = nodes
    at_buyer, at_worker = ["-d", str(buyer.data_dir)], ["-d", str(worker.data_dir)]
    command = "printf a\\x00\\377"
    published = crabnet("seed", "publish", "--title", "t", "--cmd", command, "--bid-window", "10m", "-q", *at_buyer)
    seed_id = published.stdout.strip()
    late = crabnet("seed", "wait", seed_id[:8], "--timeout", "100ms", *at_buyer)
    assert late.returncode == ExitCode.TIMEOUT
    assert f"the task {seed_id} is still Open" in late.stderr
    claimed = follower("seed", "wait", "@last", "--for", "claimed", *at_buyer)
    output = follower("seed", "logs", "@last", "--follow", *at_buyer)
    over = follower("seed", "wait", "@last", "-q", *at_buyer)
    wait_for("the worker to know the task", lambda: seed_id in crabnet("seed", "list", "-q", *at_worker).stdout)
    bid_id = crabnet("seed", "bid", seed_id[:6], "--price", "4", "-q", *at_worker).stdout.strip()
    wait_for("the buyer to know the bid", lambda: bid_id in crabnet("seed", "show", "@last", *at_buyer).stdout)
    assert crabnet("seed", "list", "--needs-me", "-q", *at_buyer).stdout.strip() == seed_id
    assert crabnet("seed", "claim", "@last", bid_id[:5], *at_buyer).returncode == 0
    assert f"{seed_id} [".encode() in claimed.communicate(timeout=60)[0]
    assert claimed.returncode == 0
    wait_for("the claim", lambda: seed_id in crabnet("seed", "list", "--needs-me", "-q", *at_worker).stdout)
    assert crabnet("seed", "run", seed_id[:8], *at_worker).returncode == 0
    assert output.communicate(timeout=60)[0] == crabnet_bytes("seed", "logs", "@last", *at_buyer)
    assert crabnet("seed", "wait", "@last", "--for", "done", *at_buyer).returncode == 0
    assert crabnet("seed", "settle", "@last", "--accepted", *at_buyer).returncode == 0
    assert over.communicate(timeout=60)[0] == f"{seed_id}\n".encode()
    missed = crabnet("seed", "wait", "@last", "--for", "rejected", *at_buyer)
    assert (missed.returncode, "is Accepted" in missed.stderr) == (ExitCode.REFUSED, True)
    assert_histories(at_buyer, at_worker, seed_id)


def crabnet_bytes(*words: str) -> bytes:
    return subprocess.run([*CRABNET, *words], capture_output=True, check=True, env=environment(), timeout=60).stdout


def assert_histories(at_buyer: list[str], at_worker: list[str], seed_id: str) -> None:
    told = crabnet("history", *at_buyer).stdout.splitlines()
    acts = [line.split("  ", 1)[1] for line in told]
    assert acts == [
        f"this node accepted the result of task {seed_id[:8]} 't' at 4",
        f"this node claimed a bid on task {seed_id[:8]} 't' at 4",
        f"this node published task {seed_id[:8]} 't'",
    ]

    def told_by_worker() -> str:
        text = crabnet("history", "--seed", seed_id[:4], *at_worker).stdout
        return text if "acknowledged" in text else ""

    worked = wait_for("the acknowledgement", told_by_worker)
    acts = [line.split("  ", 1)[1].split(f" task {seed_id[:8]}")[0] for line in worked.splitlines()]
    assert acts[-1] == "this node bid on"
    assert any(act.endswith("chose the bid of this node, 4, on") for act in acts)
    assert any(act.endswith("accepted the result of") and act.startswith("node …") for act in acts)
    assert {"this node began to run", "this node returned the result of"} <= set(acts)
