"""A node that is asked to end, at any moment of its life, ends in order: nothing is lost, nothing is left."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import cast

import pytest

from crabnet.errors import CrabnetError
from crabnet.monitor.reader import read_events
from crabnet.runner.sandbox import cgroups
from crabnet.storage.layout import Layout
from tests.support import orphans
from tests.support.load import Load
from tests.support.nodes import CRABNET, Json, NodeProcess, Nodes, crabnet, environment, json_line, quiet, wait_for
from tests.support.slices import todays

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc: orderly ends NOT tested")

SIGNALS = (
    (signal.SIGTERM,),
    (signal.SIGINT,),
    (signal.SIGHUP,),
    (signal.SIGTERM, signal.SIGTERM),
    (signal.SIGTERM, signal.SIGINT),
    (signal.SIGINT, signal.SIGTERM),
)
"""What is sent, one signal a few milliseconds after the other. Either may be seen first."""
EXIT_CODES = {signal.SIGTERM: 0, signal.SIGHUP: 0, signal.SIGINT: 130}
STOPS = 42
"""Each of the seven moments with each of the six."""
TROUBLE = ("ledger_recovered", "ledger_poisoned", "job_failed", "events_lost", "checkpoint_failed")
_GLANCE_S = 0.0005
_CAUGHT = re.compile(r"SigCgt:\s*([0-9a-f]+)")


class Stops:
    """One data dir, its many lives, and a neighbour that has much to tell."""

    def __init__(self, nodes: Nodes, directory: Path, randomness: random.Random, others: frozenset[int]) -> None:
        """``others`` are the children of this process that are none of this test."""
        self.random = randomness
        self.others = others
        self.temporary = directory / "temporary"
        self.temporary.mkdir()
        self.env = environment(
            CRABNET_CHECKPOINT_JOURNAL_BYTES="4096",
            CRABNET_CHECKPOINT_INTERVAL_SECONDS="1",
            CRABNET_ARCHIVE_AFTER_SECONDS="1",
            TMPDIR=str(self.temporary),
        )
        self.nodes = nodes
        self.neighbour = nodes.start("neighbour")
        self.victim = self._make("victim")
        self.load = Load(self.victim.data_dir)
        self.neighbours_load = Load(self.neighbour.data_dir)
        with self.neighbours_load.clients():
            self.neighbours_load.await_more(300)
        self.newcomers = 0
        self.numbers: tuple[signal.Signals, ...] = ()
        self.done: Counter[str] = Counter()
        self.moments: dict[str, Callable[[], None]] = {
            "start": self._start,
            "idling": self._idling,
            "ingest": self._ingest,
            "sync": self._sync,
            "checkpoint": self._checkpoint,
            "archive": self._archive,
            "run": self._run,
        }

    def _make(self, name: str) -> NodeProcess:
        return self.nodes.make(name, [self.neighbour.listen], "--runner-allowed-commands", "*", env=self.env)

    def stop(self, moment: str, numbers: tuple[signal.Signals, ...]) -> None:
        """One more life, ended at such a moment by these signals."""
        self.numbers = numbers
        self.moments[moment]()
        self.done[moment] += 1

    # --- moments ---------------------------------------------------------------------------------------

    def _rest(self, seconds_max: float) -> None:
        time.sleep(self.random.uniform(0, seconds_max))

    def _alive(self) -> NodeProcess:
        self.victim.start()
        self.nothing_lost()
        return self.victim

    def nothing_lost(self) -> None:
        """All that the victim has acknowledged is there."""
        lost = set(self.load.acknowledged.values()) - self.victim.seed_ids()
        assert lost == set(), self.done

    def _start(self) -> None:
        """From the moment when a handler stands, which is before anything of the node is imported."""
        node = self.victim
        node.launch()
        assert node.process is not None
        await_handler(node.process)
        self._rest(0.7)
        self._end(node)

    def _idling(self) -> None:
        node = self._alive()
        self._rest(0.5)
        self._end(node)

    def _ingest(self) -> None:
        node = self._alive()
        with self.neighbours_load.clients(), self.load.clients():
            self.load.await_more(1)
            self._rest(0.2)
            self._end(node)

    def _sync(self) -> None:
        """A newcomer that fetches the neighbour's feed."""
        self.newcomers += 1
        newcomer = self._make(f"newcomer-{self.newcomers}").start()
        self._rest(0.6)
        self._end(newcomer)

    def _checkpoint(self) -> None:
        node = self._alive()
        being_made = Layout(node.data_dir).temporary
        with self.load.clients(pause_s=0.01):
            deadline = time.monotonic() + 10
            while not being_made.exists() and time.monotonic() < deadline:
                time.sleep(_GLANCE_S)
            self._rest(0.01)
            self._end(node)

    def _archive(self) -> None:
        """Seeds that are due from the start on, and more that become so."""
        node = self._alive()
        for _ in range(10):
            node.ask("seed.cancel", seed_id=node.publish("true", title="withdrawn"))
        time.sleep(self.random.choice([0, 0.9]))
        self._rest(0.4)
        self._end(node)

    def _run(self) -> None:
        node = self._alive()
        seed_id = self.neighbour.publish("sleep 3600", timeout_ms=3_000_000)
        wait_for("the seed comes", lambda: node.status(seed_id) == "Open")
        bid_id = node.bid(seed_id, 5)
        wait_for("the bid comes", lambda: self.neighbour.rows(seed_id, "bids"))
        self.neighbour.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
        wait_for("the claim comes", lambda: node.status(seed_id) == "Claimed")

        def run() -> None:
            with suppress(CrabnetError):
                node.ask("seed.run", seed_id=seed_id)

        running = threading.Thread(target=run)
        running.start()
        self._rest(0.3)
        self._end(node)
        running.join()

    # --- the end ---------------------------------------------------------------------------------------

    def _end(self, node: NodeProcess) -> None:
        process = node.process
        assert process is not None
        for number in self.numbers:
            process.send_signal(number)
            self._rest(0.01)
        code = node.end(self.numbers[-1])
        context = f"{self.numbers} {self.done} {node.errors()[-2000:]}"
        assert code in {EXIT_CODES[number] for number in self.numbers}, context
        assert "error" not in node.errors(), context
        assert "Traceback" not in node.errors(), context
        self._nothing_left(node, context)
        if node.data_dir.exists():
            self._in_order(node, context)

    def _nothing_left(self, node: NodeProcess, context: str) -> None:
        known = self.others | {made.process.pid for made in self.nodes.made if made.process is not None}
        left = {pid: words for pid, words in orphans.children().items() if pid not in known}
        orphans.reap(known)
        assert left == {}, context
        assert sorted(self.temporary.iterdir()) == [], context
        tag = cgroups.owner_tag(node.data_dir)
        groups = [path for path, _, _ in os.walk("/sys/fs/cgroup") if tag in path]  # others come and go meanwhile
        assert groups == [], context
        assert not (node.data_dir / "control.sock").exists(), context

    def _in_order(self, node: NodeProcess, context: str) -> None:
        events = node.events()
        started = [event for event in events if event.kind == "node_started"]
        stopped = [event for event in events if event.kind == "node_stopped"]
        assert len(started) == len(stopped), context
        assert all(event.payload["clean"] for event in stopped)
        assert [event for event in events if event.kind in TROUBLE] == [], context
        if started:
            layout = Layout(node.data_dir)
            assert layout.state.exists(), context
            assert not layout.temporary.exists(), context


def await_handler(process: subprocess.Popen[str]) -> None:
    """Wait until a process has a handler for SIGTERM, or has ended."""
    status = Path(f"/proc/{process.pid}/status")

    def handled() -> bool:
        caught = _CAUGHT.search(status.read_text())
        return process.poll() is not None or (caught is not None and int(caught[1], 16) >> signal.SIGTERM - 1 & 1 == 1)

    wait_for("a handler stands", handled)


def await_change(path: Path, before_ns: int, process: subprocess.Popen[str]) -> None:
    """Wait until a file was written, or the process has ended."""
    wait_for("it is written", lambda: path.stat().st_mtime_ns != before_ns or process.poll() is not None)


def run(nodes: Nodes, directory: Path, stops: int, seed: int) -> None:
    with orphans.adopted() as others:
        scene = Stops(nodes, directory, random.Random(seed), others)
        for moment, numbers in islice(zip(cycle(scene.moments), cycle(SIGNALS), strict=False), stops):
            scene.stop(moment, numbers)
        node = scene.victim.start()
        scene.nothing_lost()
        assert node.ask("status")["feed_risk"] is False
        wait_for("all is there", lambda: scene.neighbour.state_hash() == node.state_hash())
        assert node.end() == 0
    print(f"{stops} stops, {dict(scene.done)}; {len(scene.load.acknowledged)} acknowledged, all there")


@pytest.mark.parametrize("stops", [4, pytest.param(STOPS, marks=pytest.mark.deep)])
def test_stops(nodes: Nodes, tmp_path: Path, stops: int) -> None:
    with subprocess.Popen(["sleep", "inf"]) as child_of_other_tests:  # as the browser is in the same worker
        try:
            run(nodes, tmp_path, stops, seed=0)
            assert child_of_other_tests.poll() is None
        finally:
            child_of_other_tests.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.deep)])
def test_a_command_without_a_node_that_is_ended_leaves_the_data_dir_in_order(
    tmp_path: Path, number: signal.Signals
) -> None:
    """It is done and says so, or it ends by the signal; in both cases the data dir is closed as it should be."""
    data_dir, randomness, printed = tmp_path / "data", random.Random(number), set()
    publish = ["seed", "publish", "--title", "t", "--cmd", "true", *quiet(data_dir)]
    assert crabnet(*publish).returncode == 0
    lock = data_dir / "lock"
    for _ in range(3):
        before = lock.stat().st_mtime_ns
        words = [*CRABNET, *publish]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment()) as command:
            await_change(lock, before, command)
            time.sleep(randomness.uniform(0, 0.15))
            command.send_signal(number)
            assert command.stdout is not None
            said = command.stdout.read()
        if said:
            printed.add(said.split()[-1])
        assert command.returncode in {0, 130 if number == signal.SIGINT else -number}
        assert command.returncode != 0 or said
        assert not Layout(data_dir).temporary.exists()
    listed = json_line(crabnet("seed", "list", "--json", *quiet(data_dir)).stdout)["seeds"]
    assert printed <= {str(seed["id"]) for seed in cast(list[Json], listed)}
    assert [event.payload for event in read_events(data_dir).events if event.kind in TROUBLE] == []
    assert json_line(crabnet("status", "--json", *quiet(data_dir)).stdout)["feed_risk"] is False


def test_a_signal_that_came_before_anything_was_begun_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from crabnet.cli.main import main; from crabnet.signals import HELD;"
        " HELD.hold(); os.kill(os.getpid(), int(sys.argv.pop(1))); sys.exit(main())"
    )
    for number, code in EXIT_CODES.items():
        words = [sys.executable, "-c", program, str(number.value), "listen", *quiet(tmp_path / "data")]
        done = subprocess.run(words, capture_output=True, text=True, env=environment(), check=False, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
        assert not (tmp_path / "data").exists()


@pytest.mark.deep
def test_a_node_that_has_too_few_descriptors_to_start_says_so(tmp_path: Path) -> None:
    """Before it makes anything. A limit that may be raised is raised (run-4)."""
    words = quiet(tmp_path / "data")
    for descriptors in (16, 24, 383):
        for command in (["listen"], ["seed", "publish", "--title", "t", "--cmd", "true"]):
            limited = ["prlimit", f"--nofile={descriptors}", *CRABNET, *command, *words]
            done = subprocess.run(limited, capture_output=True, text=True, check=False, env=environment())
            assert done.returncode == 2, done.stderr
            assert f"this process may have {descriptors} files open at once, but a node needs 384" in done.stderr
            assert done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()
    raised = ["prlimit", "--nofile=24:4096", *CRABNET, "listen", *words]
    with subprocess.Popen(
        raised, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        started = process.stdout.readline()
        process.terminate()
    assert started.startswith("listen started")
    assert process.returncode == 0
    assert json_line(crabnet("status", "--json", *words).stdout)["feed_risk"] is False


@pytest.mark.deep
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", todays(range(1, 8), 7))
def test_three_hundred_stops(nodes: Nodes, tmp_path: Path, seed: int) -> None:
    run(nodes, tmp_path, STOPS, seed)
