"""Floods against a real node: honest work goes on, memory does not grow, and the node recovers by itself.

Each lasts ``CRABNET_FLOOD_SECONDS`` (30). What was measured is printed and kept as a property of the test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crabnet import limits
from tests.support.nodes import NodeProcess, Nodes, environment, wait_for

SECONDS = float(os.environ.get("CRABNET_FLOOD_SECONDS", "30"))
MEMORY_GROWTH_BYTES_MAX = 50 * 1024 * 1024
JOBS_MIN = 2
"""Of two, at least one has ended before the flood did."""
RATES = {
    "one_source": 10_000,
    "many_sources": 10_000,
    "costly_datagrams": 1_000,
    "fragment_bombs": 10_000,
    "signed_flooder": 2_000,
    "fresh_identities": 2_000,
}
"""Datagrams a second, or envelopes a second for those who sign."""
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    made.close()


class Memory:
    """Watches the resident memory of a process until it is told to stop."""

    def __init__(self, node: NodeProcess) -> None:
        assert node.process is not None
        self._path = Path(f"/proc/{node.process.pid}/statm")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.before = self.now()
        self.peak = self.before

    def now(self) -> int:
        return int(self._path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self.peak = max(self.peak, self.now())

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


class Times:
    """How long honest operations took, in seconds."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}

    @contextmanager
    def timed(self, operation: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.of.setdefault(operation, []).append(time.monotonic() - began)

    def __str__(self) -> str:
        parts = []
        for operation, taken in self.of.items():
            ordered = sorted(taken)
            p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99))
            parts.append(f"{operation} p50 {p50 * 1000:.0f} p99 {p99 * 1000:.0f} ms (n={len(ordered)})")
        return "; ".join(parts)


def job(publisher: NodeProcess, worker: NodeProcess, times: Times) -> str:
    """A whole job between two nodes. Each step is timed until the other side sees it."""

    def until(what: str, probe: Callable[[], object]) -> None:
        wait_for(what, probe, 120)

    with times.timed("job"):
        with times.timed("publish"):
            seed_id = publisher.publish("true")
            until("the seed comes to the worker", lambda: worker.status(seed_id) == "Open")
        with times.timed("bid"):
            bid_id = worker.bid(seed_id, 5)
            until("the bid comes to the publisher", lambda: publisher.rows(seed_id, "bids"))
        with times.timed("claim"):
            publisher.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
            until("the claim comes to the worker", lambda: worker.status(seed_id) == "Claimed")
        with times.timed("run"):
            worker.ask("seed.run", seed_id=seed_id)
            until("the result comes to the publisher", lambda: publisher.status(seed_id) == "Done")
        with times.timed("settle"):
            publisher.ask("seed.settle", seed_id=seed_id, outcome="Accepted")
            until("the settlement comes to the worker", lambda: worker.status(seed_id) == "Accepted")
    return seed_id


def old_friends(publisher: NodeProcess, worker: NodeProcess, times: Times) -> list[str]:
    """Let two nodes do so much together that each counts as an author with a history for the other."""
    seeds = [job(publisher, worker, times) for _ in range(limits.AUTHOR_KNOWN_ENTRIES // 3 + 1)]
    for node in (publisher, worker):
        node.end()
        node.start()
    seeds.append(job(publisher, worker, Times()))
    return seeds


def agree(publisher: NodeProcess, worker: NodeProcess, seeds: list[str]) -> None:
    """Both nodes come to the same state, whatever of the flood was let in."""
    wait_for("both nodes hold the same", lambda: publisher.state_hash() == worker.state_hash(), 240)
    assert {node.status(seed_id) for node in (publisher, worker) for seed_id in seeds} == {"Accepted"}


@contextmanager
def flood(kind: str, target: NodeProcess) -> Iterator[subprocess.Popen[str]]:
    """A process that floods the node."""
    host, port = target.address
    words = [sys.executable, "-m", "tests.flood.generator", kind, host, str(port), str(SECONDS), str(RATES[kind])]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.deep
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", RATES)
def test_flood(kind: str, nodes: Nodes, record_property: Callable[[str, object], None]) -> None:
    publisher, worker = nodes.mesh("publisher", "worker")
    calm, storm, after = Times(), Times(), Times()
    seeds = old_friends(publisher, worker, calm)
    with Memory(worker) as memory:
        with flood(kind, worker) as process:
            assert process.stdout is not None
            while process.poll() is None:
                seeds.append(job(publisher, worker, storm))
            sent = json.loads(process.stdout.read())
        seeds += [job(publisher, worker, after) for _ in range(5)]
    with after.timed("agreement"):
        agree(publisher, worker, seeds)
    grown = memory.peak - memory.before
    figures = {
        "sent": sent["sent"],
        "per_second": int(sent["sent"] / sent["seconds"]),
        "memory_growth_mib": round(grown / 2**20, 1),
        "calm": str(calm),
        "storm": str(storm),
        "after": str(after),
        "counters": worker.ask("status").get("counters"),
    }
    for name, value in figures.items():
        record_property(name, value)
    print(f"flood {kind}: {json.dumps(figures, indent=1)}")
    assert len(storm.of["job"]) >= JOBS_MIN
    assert grown < MEMORY_GROWTH_BYTES_MAX, f"{grown} bytes"
    assert worker.running
    assert not worker.events("job_failed")
    assert "Traceback" not in worker.errors() + publisher.errors()
