"""Runs that wait, are cancelled, withdrawn, forfeited and claimed anew, with real nodes over UDP."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from crabnet.domain.model import SeedStatus
from tests.support.nodes import CRABNET, DEADLINE_S, Json, NodeProcess, Nodes, converge, environment, wait_for

LONG_MS = 600_000


@contextmanager
def command(node: NodeProcess, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on beside the test; ended at last, whatever happens."""
    process = subprocess.Popen(
        [*CRABNET, *words, "--data-dir", str(node.data_dir)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, output and messages of a command, once it has ended."""
    out, messages = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, messages


def claimed(publisher: NodeProcess, worker: NodeProcess, task: str, **params: int) -> str:
    """A seed that was claimed for the worker, who knows it."""
    seed_id = publisher.publish(task, **{"timeout_ms": LONG_MS, **params})
    wait_for("the seed comes to the worker", lambda: worker.status(seed_id) == "Open")
    bid_id = worker.bid(seed_id, 5)
    wait_for("the bid comes to the publisher", lambda: publisher.rows(seed_id, "bids"))
    publisher.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
    wait_for("the claim comes to the worker", lambda: worker.status(seed_id) == "Claimed")
    return seed_id


def local_run(node: NodeProcess, seed_id: str) -> Json:
    return cast(Json, node.show(seed_id)["local_run"] or {})


def processes(marker: str) -> list[str]:
    """Command lines of this machine's processes that hold ``marker`` as an argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if marker.encode() in words:
            found.append(str(path))
    return found


def test_a_withdrawal_ends_the_workers_run_without_a_result(nodes: Nodes) -> None:
    publisher, worker = nodes.mesh("publisher", "worker")
    marker = "86411.25"
    seed_id = claimed(publisher, worker, f"sleep {marker}")
    with command(worker, "seed", "run", seed_id) as run:
        wait_for("the publisher hears that it runs", lambda: publisher.status(seed_id) == "Running")
        wait_for("it runs", lambda: processes(marker))
        assert publisher.ok("seed", "cancel", seed_id, "--note", "no more") == f"seed {seed_id} withdrawn\n"
        code, out, messages = ended(run)
    assert (code, out) == (3, "")
    assert messages.startswith("error: claim_over: ")
    assert processes(marker) == []
    converge([publisher, worker], [seed_id], "Expired")
    assert worker.rows(seed_id, "results") == []
    assert worker.seed(seed_id)["note"] == "no more"
    worker.await_event("run_cancelled", seed_id=seed_id, reason="claim_over", status="Expired")
    assert cast(Json, worker.ask("status")["runs"])["running"] == 0
    refused = publisher.cli("seed", "cancel", seed_id)
    assert (refused.returncode, "wrong_state" in refused.stderr) == (3, True)


def test_a_worker_cancels_its_run_and_the_attempt_is_forfeited(nodes: Nodes) -> None:
    publisher, worker = nodes.mesh("publisher", "worker")
    seed_id = claimed(publisher, worker, "sleep 600")
    with command(worker, "seed", "run", seed_id, "--progress") as run:
        wait_for("the publisher hears that it runs", lambda: publisher.status(seed_id) == "Running")
        assert worker.ok("seed", "cancel", seed_id) == f"seed {seed_id} cancelled run\n"
        code, out, messages = ended(run)
    assert code == 0
    assert out.startswith("task result ")
    assert f"{seed_id} [RUNNING] attempt=1" in messages
    assert "failed: worker" in messages
    wait_for("the publisher forfeits by the worker's word", lambda: publisher.status(seed_id) == "Forfeited")
    (settlement,) = publisher.rows(seed_id, "settlements")
    assert settlement["note"] == "the worker failed: cancelled"
    worker.await_event("run_cancelled", seed_id=seed_id, reason="run_cancelled")
    refused = worker.cli("seed", "cancel", seed_id)
    assert (refused.returncode, "error: " in refused.stderr) == (3, True)
    publisher.ok("seed", "cancel", seed_id)
    converge([publisher, worker], [seed_id], "Expired")


def test_runs_wait_in_turn_are_seen_and_leave_the_queue(nodes: Nodes) -> None:
    publisher = nodes.start("publisher")
    worker = nodes.start("worker", [publisher.listen], "--runner-runs-max", "1", "--runner-queue-max", "1")
    wait_for("they know one another", lambda: cast(int, publisher.ask("status")["peers"]) >= 1)
    first, second, third = (claimed(publisher, worker, "sleep 600") for _ in range(3))
    with command(worker, "seed", "run", first), command(worker, "seed", "run", second) as waiting:
        wait_for("one waits", lambda: cast(Json, worker.ask("status")["runs"])["queued"] == 1)
        queued = next(each for each in (first, second) if local_run(worker, each)["stage"] == "queued")
        running = first if queued == second else second
        wait_for("the other runs", lambda: local_run(worker, running)["stage"] == "running")
        assert (local_run(worker, running)["stage"], local_run(worker, queued)["stage"]) == ("running", "queued")
        assert local_run(worker, queued)["position"] == 1
        assert "run on this node\n  stage: queued\n  position: 1\n" in worker.ok("seed", "show", queued)
        full = worker.cli("seed", "run", third)
        assert (full.returncode, "queue_full" in full.stderr) == (3, True)
        assert worker.ok("seed", "cancel", queued) == f"seed {queued} cancelled queued\n"
        if queued == second:
            assert ended(waiting)[0] == 3
        assert (worker.status(queued), worker.rows(queued, "runs")) == ("Claimed", [])
        assert worker.ok("seed", "cancel", running) == f"seed {running} cancelled run\n"
    with command(worker, "seed", "run", queued):
        wait_for("what left the queue can be run later", lambda: publisher.status(queued) == "Running")


@pytest.mark.deep
def test_a_crash_leaves_waiting_runs_not_started_and_begun_ones_interrupted(nodes: Nodes) -> None:
    publisher = nodes.start("publisher")
    worker = nodes.start("worker", [publisher.listen], "--runner-runs-max", "1")
    wait_for("they know one another", lambda: cast(int, publisher.ask("status")["peers"]) >= 1)
    begun, queued = (claimed(publisher, worker, "sleep 600") for _ in range(2))
    with command(worker, "seed", "run", begun):
        wait_for("it runs", lambda: worker.status(begun) == "Running")
        with command(worker, "seed", "run", queued):
            wait_for("the other waits", lambda: local_run(worker, queued).get("stage") == "queued")
            worker.kill()
    worker.start()
    wait_for("the interrupted run is forfeited", lambda: publisher.status(begun) == "Forfeited")
    assert publisher.seed(begun)["note"] == "the worker failed: interrupted"
    assert (worker.status(queued), worker.rows(queued, "runs")) == ("Claimed", [])
    assert local_run(worker, queued) == {}


@pytest.mark.deep
def test_who_does_not_deliver_loses_the_claim_to_the_next(nodes: Nodes) -> None:
    publisher = nodes.start(
        "publisher", [], "--auto-reclaim", "--auto-reclaim-attempts-max", "2", "--execution-grace-s", "0"
    )
    cheap, dear = (nodes.start(name, [publisher.listen]) for name in ("cheap", "dear"))
    seed_id = publisher.publish("true", timeout_ms=1_000, exec_deadline_ms=1_500)
    bids = {}
    for price, worker in enumerate((cheap, dear), 3):
        wait_for("the seed comes to the worker", lambda worker=worker: worker.status(seed_id) == "Open")  # type: ignore[misc]
        bids[worker.node_id] = worker.bid(seed_id, price)
    wait_for("both bids come", lambda: len(publisher.rows(seed_id, "bids")) == 2)
    publisher.ask("seed.claim", seed_id=seed_id, bid_id=bids[cheap.node_id])
    alert = publisher.await_event("claim_overdue", seed_id=seed_id, attempt=1)
    assert (alert.severity.value, alert.payload["worker"]) == ("alert", cheap.node_id)
    publisher.await_event("seed_reclaimed", seed_id=seed_id, attempt=2, worker=dear.node_id)
    wait_for("the second claim comes to the next worker", lambda: dear.seed(seed_id).get("attempt") == 2)
    workers = {cast(int, row["attempt"]): row["worker"] for row in dear.rows(seed_id, "claims")}
    assert workers == {1: cheap.node_id, 2: dear.node_id}
    publisher.await_event("claim_overdue", seed_id=seed_id, attempt=2)
    converge([publisher, cheap, dear], [seed_id], "Forfeited")
    assert len(publisher.rows(seed_id, "claims")) == 2


def status_told(line: str, *, as_json: bool) -> str:
    return str(json.loads(line)["seed"]["status"]) if as_json else line.split()[1].strip("[]").capitalize()


@pytest.mark.parametrize("as_json", [True, pytest.param(False, marks=pytest.mark.deep)])
def test_a_task_is_followed_to_its_end(nodes: Nodes, as_json: bool) -> None:
    publisher, worker = nodes.mesh("publisher", "worker")
    seed_id = publisher.publish("echo hi")
    words = ["seed", "show", seed_id, "--follow", *(["--json"] if as_json else [])]
    with command(publisher, *words) as following:
        assert following.stdout is not None
        lines = [following.stdout.readline()]
        wait_for("the seed comes to the worker", lambda: worker.status(seed_id) == "Open")
        bid_id = worker.bid(seed_id, 5)
        wait_for("the bid comes to the publisher", lambda: publisher.rows(seed_id, "bids"))
        publisher.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
        wait_for("the claim comes to the worker", lambda: worker.status(seed_id) == "Claimed")
        while status_told(lines[-1], as_json=as_json) != "Claimed":  # several changes may be told in one line
            lines.append(following.stdout.readline())
        worker.ask("seed.run", seed_id=seed_id)
        wait_for("the result comes to the publisher", lambda: publisher.status(seed_id) == "Done")
        publisher.ask("seed.settle", seed_id=seed_id, outcome="Accepted")
        code, rest, messages = ended(following)
    lines += rest.splitlines()
    assert (code, messages) == (0, "")
    told = [status_told(line, as_json=as_json) for line in lines]
    if as_json:
        shown = [json.loads(line) for line in lines]
        assert len({json.dumps(each, sort_keys=True) for each in shown}) == len(shown)
        # The worker may say that it has seen the settlement after the last line.
        assert {**shown[-1], "acknowledgements": []} == {**publisher.show(seed_id), "acknowledgements": []}
    order = list(SeedStatus)
    assert told == sorted(told, key=lambda name: order.index(SeedStatus(name)))
    assert (told[0], told[-1]) == ("Open", "Accepted")
    assert "Claimed" in told
    publisher.end()
    again = publisher.ok(*words)
    assert len(again.splitlines()) == 1


@pytest.mark.deep
def test_following_a_task_that_is_not_over_needs_a_node(nodes: Nodes) -> None:
    publisher = nodes.start("publisher")
    seed_id = publisher.publish("echo hi")
    publisher.end()
    done = publisher.cli("seed", "show", seed_id, "--follow")
    assert (done.returncode, "no node runs" in done.stderr) == (7, True)
