"""Workers that cannot do what they were claimed for, with real nodes over UDP (ADR 31)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import trio

from crabnet.core.commands import Publish
from crabnet.errors import CrabnetError, Reason, RefusedError
from crabnet.node.node import Node
from crabnet.settings import resolve
from crabnet.settings.resolve import FlagValue
from tests.e2e.test_lease import claimed, command, ended, local_run, processes
from tests.support.nodes import CRABNET, DEADLINE_S, Json, NodeProcess, Nodes, converge, environment, wait_for

NO_SANDBOX = ("--runner-sandbox", "none")


def note_of(publisher: NodeProcess, seed_id: str) -> str:
    """What the forfeit says."""
    [settlement] = publisher.rows(seed_id, "settlements")
    return str(settlement["note"])


TROUBLE = {
    "workdir_missing": ("--runner-workdir", "/nonexistent"),
    "command_not_allowed": ("--runner-allowed-commands", "true"),
}
"""Flags of a worker that cannot run what it bids for, by what its result says."""


@pytest.mark.parametrize("reason", ["workdir_missing", pytest.param("command_not_allowed", marks=pytest.mark.deep)])
def test_the_next_bid_is_claimed_at_once_and_its_worker_does_it(nodes: Nodes, reason: str) -> None:
    publisher = nodes.make("publisher", [], "--auto-reclaim").start()
    good = nodes.make("good", [publisher.listen], *NO_SANDBOX).start()
    bad = nodes.make("bad", [publisher.listen], *NO_SANDBOX, *TROUBLE[reason]).start()
    seed_id = publisher.publish("echo done", timeout_ms=600_000)
    wait_for("the seed comes", lambda: bad.status(seed_id) == "Open")
    bid_id = bad.ok("seed", "bid", seed_id, "--price", "1", "--force").split()[2]
    wait_for("the seed comes to the other", lambda: good.status(seed_id) == "Open")
    good.bid(seed_id, 2)
    wait_for("both bids come", lambda: len(publisher.rows(seed_id, "bids")) == 2)
    publisher.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
    wait_for("the claim comes", lambda: bad.status(seed_id) == "Claimed")
    done = bad.cli("seed", "run", seed_id)
    assert (done.returncode, reason in done.stderr, "failed: worker" in done.stderr) == (0, True, True)
    wait_for("the other bid is claimed", lambda: publisher.seed(seed_id)["claimed_by"] == good.node_id)
    assert publisher.seed(seed_id)["attempt"] == 2
    assert note_of(publisher, seed_id).startswith(f"the worker failed: refused: {reason}: ")
    warning = publisher.await_event("worker_failed", seed_id=seed_id, attempt=1, worker=bad.node_id)
    assert reason in str(warning.payload["detail"])
    wait_for("the claim comes to the other", lambda: good.seed(seed_id)["claimed_by"] == good.node_id)
    assert "done\n" in good.ok("seed", "run", seed_id)
    wait_for("the result comes", lambda: publisher.status(seed_id) == "Done")
    assert publisher.seed(seed_id)["failed"] is None
    publisher.ok("seed", "settle", seed_id, "--accepted")
    converge([publisher, good, bad], [seed_id], "Accepted")


def test_a_failure_of_the_task_is_a_result_to_settle(nodes: Nodes) -> None:
    publisher, worker = nodes.mesh("publisher", "worker")
    seed_id = claimed(publisher, worker, "false")
    worker.ok("seed", "run", seed_id)
    wait_for("the result comes", lambda: publisher.status(seed_id) == "Done")
    [result] = publisher.rows(seed_id, "results")
    assert (result["failed"], publisher.seed(seed_id)["failed"]) == ("task", "task")
    publisher.ok("seed", "settle", seed_id, "--rejected")
    converge([publisher, worker], [seed_id], "Rejected")


def test_a_supervisor_that_was_killed_is_the_workers_failure(nodes: Nodes) -> None:
    publisher, worker = nodes.mesh("publisher", "worker")
    marker = "86412.25"
    seed_id = claimed(publisher, worker, f"sleep {marker}")
    with command(worker, "seed", "run", seed_id, "--json") as run:
        sleeping = wait_for("it runs", lambda: [each for each in processes(marker) if is_sleeping(each)])
        for pid in ancestors(int(Path(sleeping[0]).parent.name), worker):
            os.kill(pid, signal.SIGKILL)
        code, out, _ = ended(run)
    result = cast(Json, json.loads(out)["result"])
    assert code == 0
    assert (result["failed"], cast(Json, result["termination"])["cause"]) == ("worker", "lost")
    wait_for("the attempt is forfeited", lambda: publisher.status(seed_id) == "Forfeited")
    assert note_of(publisher, seed_id) == "the worker failed: lost"


def is_sleeping(command_line: str) -> bool:
    """Whether a process is the command itself, not one that is about to become it."""
    try:
        return Path(command_line).read_bytes().startswith(b"sleep\0")
    except OSError:  # it has ended meanwhile
        return False


def ancestors(pid: int, worker: NodeProcess) -> list[int]:
    """The supervisor of a run: of what stands above it, all that is below the process that starts runs."""
    chain = [pid]
    while chain[-1] > 1:
        stat = Path(f"/proc/{chain[-1]}/stat").read_text(encoding="utf-8")
        chain.append(int(stat.rpartition(")")[2].split()[1]))
        assert worker.process is not None
        if chain[-1] == worker.process.pid:
            return chain[-3:-2]
    raise AssertionError(f"{pid} does not descend from the node")


def test_a_bid_waits_for_the_test_of_the_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A one-shot command has no time before it in which the sandbox was tried."""

    async def bid(*, force: bool) -> None:
        flags: dict[str, FlagValue] = {"data_dir": str(tmp_path / "d"), "announce_addrs": [], "runner_sandbox": "bwrap"}
        async with Node(resolve(flags, {}, None).settings, listen=False) as node:
            seed = await node.publish(Publish(title="t", command="true"))
            await node.bid(seed.id, 1, force=force)

    monkeypatch.setattr("crabnet.runner.self_test.BWRAP_PATHS", ())
    with pytest.raises(RefusedError) as caught:
        trio.run(partial(bid, force=False))
    assert caught.value.reason is Reason.SANDBOX_UNAVAILABLE
    trio.run(partial(bid, force=True))


# --- a node that stops ------------------------------------------------------------------------------------


def test_a_node_that_stops_lets_a_run_end(nodes: Nodes, tmp_path: Path) -> None:
    publisher = nodes.start("publisher")
    worker = nodes.make("worker", [publisher.listen], *NO_SANDBOX, "--runner-drain-ms", "60000").start()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    seed_id = claimed(publisher, worker, f"cat {gate}")
    waiting = claimed(publisher, worker, "true")
    with command(worker, "seed", "run", seed_id) as run:
        wait_for("it runs", lambda: publisher.status(seed_id) == "Running")
        assert worker.process is not None
        worker.process.send_signal(signal.SIGTERM)
        wait_for("the node says that it waits", lambda: "stopping: 1 run(s) may end within 60000 ms" in worker.errors())
        with pytest.raises(CrabnetError) as caught:
            worker.ask("seed.run", seed_id=waiting)
        assert caught.value.reason is Reason.NODE_STOPPING
        gate.write_text("the end\n", encoding="utf-8")
        code, out, messages = ended(run)
    assert (code, "the end\n" in out) == (0, True), messages
    assert worker.await_end() == 0
    wait_for("the result comes", lambda: publisher.status(seed_id) == "Done")
    assert publisher.seed(seed_id)["failed"] is None
    assert publisher.status(waiting) == "Claimed"


def test_a_command_that_is_signalled_with_its_node_is_not_blamed(nodes: Nodes) -> None:
    """As service managers do it that signal every process of a service."""
    publisher = nodes.start("publisher")
    worker = nodes.make("worker", [publisher.listen], *NO_SANDBOX, "--runner-drain-ms", "600000").start()
    marker = "86414.25"
    seed_id = claimed(publisher, worker, f"sleep {marker}")
    with command(worker, "seed", "run", seed_id):
        sleeping = wait_for("it runs", lambda: [each for each in processes(marker) if is_sleeping(each)])
        assert worker.process is not None
        worker.process.send_signal(signal.SIGTERM)
        wait_for("the node says that it waits", lambda: "stopping: " in worker.errors())
        os.kill(int(Path(sleeping[0]).parent.name), signal.SIGTERM)
        assert worker.await_end() == 0
    wait_for("the attempt is forfeited", lambda: publisher.status(seed_id) == "Forfeited")
    assert note_of(publisher, seed_id) == "the worker failed: signaled"


@pytest.mark.parametrize("how", ["the time is over", pytest.param("a second signal", marks=pytest.mark.deep)])
def test_a_node_that_cannot_wait_tells_the_publishers(nodes: Nodes, how: str) -> None:
    publisher = nodes.start("publisher")
    drain_ms = "300" if how == "the time is over" else "600000"
    worker = nodes.make("worker", [publisher.listen], "--runner-drain-ms", drain_ms, "--runner-runs-max", "1").start()
    first, second = (claimed(publisher, worker, "sleep 600") for _ in range(2))
    with command(worker, "seed", "run", first), command(worker, "seed", "run", second):
        wait_for("one waits", lambda: cast(Json, worker.ask("status")["runs"])["queued"] == 1)
        queued = next(each for each in (first, second) if local_run(worker, each)["stage"] == "queued")
        running = first if queued == second else second
        wait_for("the other runs", lambda: publisher.status(running) == "Running")
        assert worker.process is not None
        worker.process.send_signal(signal.SIGTERM)
        if how == "a second signal":
            wait_for("the node says that it waits", lambda: "a second signal ends them now" in worker.errors())
            worker.process.send_signal(signal.SIGINT)
        assert worker.await_end() == 0
    wait_for("both are forfeited", lambda: {publisher.status(each) for each in (first, second)} == {"Forfeited"})
    assert note_of(publisher, running) == "the worker failed: cancelled"
    assert note_of(publisher, queued).startswith("the worker failed: refused: node_stopping: ")
    worker.start()
    converge([publisher, worker], [first, second], "Forfeited")
    assert worker.events("run_cancelled", seed_id=running, reason="node_stopping")


def test_a_command_without_a_node_that_is_interrupted_says_so(nodes: Nodes) -> None:
    publisher = nodes.start("publisher")
    worker = nodes.start("worker", [publisher.listen])
    marker = "86413.25"
    seed_id = claimed(publisher, worker, f"sleep {marker}")
    worker.end()
    words = ["seed", "run", seed_id, "--data-dir", str(worker.data_dir), "--announce-addr", publisher.listen]
    run = subprocess.Popen(
        [*CRABNET, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    try:
        wait_for("it runs", lambda: processes(marker))
        run.send_signal(signal.SIGINT)
        out, messages = run.communicate(timeout=DEADLINE_S)
    finally:
        run.kill()
        run.communicate()
    assert (run.returncode, out) == (130, "")
    assert "the run was ended; its result tells the publisher that this worker failed" in messages
    assert processes(marker) == []
    wait_for("the attempt is forfeited", lambda: publisher.status(seed_id) == "Forfeited")
    assert note_of(publisher, seed_id) == "the worker failed: cancelled"
