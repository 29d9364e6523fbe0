"""kill -9 at any moment: what was answered is there afterwards, and no command runs twice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from crabnet.errors import CrabnetError, NetworkError, NodeTimeoutError, Reason, StorageFailedError
from tests.support.nodes import CRABNET, NodeProcess, Nodes, converge, environment, wait_for

PUBLISHERS = 4


class Load:
    """Threads that publish as fast as they can until the node is gone; ``answered`` are the ids they were given."""

    def __init__(self, node: NodeProcess) -> None:
        self.node = node
        self.answered: set[str] = set()
        self.wrong: list[CrabnetError] = []
        self.threads = [threading.Thread(target=self._publish) for _ in range(PUBLISHERS)]
        for thread in self.threads:
            thread.start()

    def _publish(self) -> None:
        while True:
            try:
                self.answered.add(self.node.publish("echo hi", description="x" * 2_000))
            except (NetworkError, NodeTimeoutError):
                return
            except CrabnetError as error:
                self.wrong.append(error)
                return

    def await_answers(self, enough: int) -> None:
        """Wait until so many were answered."""
        wait_for("some are answered", lambda: len(self.answered) >= enough or self.wrong)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


def await_own_feed(node: NodeProcess) -> None:
    """A kill in the middle of a write leaves a torn tail: nothing is written until a peer confirms the feed."""
    wait_for("the node may write its feed", lambda: not node.ask("status")["feed_risk"])


def crash_again_and_again(nodes: Nodes, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    words = ["--checkpoint-journal-bytes", "100000"]
    peer = nodes.start("peer")
    node = nodes.make("node", [peer.listen], *words)
    answered: set[str] = set()
    for _ in range(rounds):
        node.launch()
        if chance.random() < 0.2:
            time.sleep(chance.uniform(0, 0.5))  # kill it while it starts
            node.kill()
            continue
        node.ready()
        await_own_feed(node)
        load = Load(node)
        enough = chance.randrange(1, 60)
        load.await_answers(enough)
        node.kill()
        load.join()
        assert load.wrong == []
        answered |= load.answered
    node.start()
    missing = answered - node.seed_ids()
    assert missing == set()
    assert answered
    converge([node, peer])
    assert not node.events("fork_detected")
    assert not peer.events("fork_detected")


def test_what_was_answered_survives_kill_9_under_load(nodes: Nodes) -> None:
    crash_again_and_again(nodes, 6, seed=1)


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(2, 10))
def test_what_was_answered_survives_any_kill_9(nodes: Nodes, seed: int) -> None:
    crash_again_and_again(nodes, 15, seed)


@pytest.mark.deep
def test_what_commands_printed_survives_kill_9(nodes: Nodes) -> None:
    node = nodes.start("node")
    words = [*CRABNET, "seed", "publish", "--title", "t", "--cmd", "true", "--data-dir", str(node.data_dir)]
    words += ["--announce-addr", ""]
    commands = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        for _ in range(12)
    ]
    wait_for("one has printed", lambda: any(command.poll() is not None for command in commands))
    node.kill()
    outputs = [(*command.communicate(timeout=100), command.returncode) for command in commands]
    printed = {out.split()[2] for out, _, _ in outputs if out}
    for out, err, code in outputs:
        # The node was gone before the answer (8), while it was asked (7), or another command had the data dir (4).
        assert code == 0 if out else code in {4, 7, 8}, (out, err, code)
        assert "Traceback" not in err
    node.start()
    assert printed
    assert printed <= node.seed_ids()


def processes_that_name(path: Path) -> list[str]:
    """Processes with this path in their arguments."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(path).encode() in entry.read_bytes():
                found.append(entry.parent.name)
    return found


def test_an_interrupted_run_is_recorded_and_never_repeated(nodes: Nodes, tmp_path: Path) -> None:
    marks, temporary = tmp_path / "marks", tmp_path / "temporary"
    marks.mkdir()
    temporary.mkdir()
    publisher = nodes.start("publisher")
    marks_outside = ("--runner-sandbox", "none", "--runner-allow-shell-operators")
    words = (*marks_outside, "--runner-allowed-commands", "mktemp,sleep")
    worker = nodes.make("worker", [publisher.listen], *words, env=environment(TMPDIR=str(temporary)))
    worker.start()
    seed_id = publisher.publish(f"mktemp {marks}/ran.XXXXXX && sleep 600", timeout_ms=700_000)
    wait_for("the seed arrives", lambda: worker.status(seed_id))
    bid_id = worker.bid(seed_id, 1)
    wait_for("the bid arrives", lambda: publisher.rows(seed_id, "bids"))
    publisher.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
    wait_for("the claim arrives", lambda: worker.status(seed_id) == "Claimed")
    run = [*CRABNET, "seed", "run", seed_id, "--json", "--data-dir", str(worker.data_dir)]
    command = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    wait_for("the command runs", lambda: list(marks.iterdir()))
    wait_for("the publisher knows", lambda: publisher.status(seed_id) == "Running")
    worker.end(signal.SIGKILL)
    wait_for("nothing of the run is left", lambda: not processes_that_name(marks))
    out, err = command.communicate(timeout=60)
    assert out == ""
    assert command.returncode in {3, 8}
    assert json.loads(err)["error"]["exit_code"] == command.returncode

    worker.start()
    wait_for("what the run left is removed", lambda: not list(temporary.iterdir()))
    wait_for("the publisher forfeits by the worker's word", lambda: publisher.status(seed_id) == "Forfeited")
    [settlement] = publisher.rows(seed_id, "settlements")
    assert settlement["note"] == "the worker failed: interrupted"
    worker.await_event("run_interrupted", seed_id=seed_id)
    with pytest.raises(CrabnetError) as caught:
        worker.ask("seed.run", seed_id=seed_id)
    assert caught.value.reason is Reason.WRONG_STATE
    worker.kill()
    worker.start()
    publisher.ask("seed.settle", seed_id=seed_id, outcome="Expired")
    converge([publisher, worker], [seed_id], "Expired")
    assert len(list(marks.iterdir())) == 1


@pytest.mark.deep
def test_a_publisher_that_crashes_between_the_steps_goes_on(nodes: Nodes) -> None:
    worker = nodes.start("worker")
    publisher = nodes.make("publisher", [worker.listen]).start()
    seed_id = publisher.publish()
    wait_for("the seed arrives", lambda: worker.status(seed_id) == "Open")
    publisher.kill()
    bid_id = worker.bid(seed_id, 1)
    publisher.start()
    wait_for("the bid arrives", lambda: publisher.rows(seed_id, "bids"))
    publisher.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
    publisher.kill()
    publisher.start()
    wait_for("the claim arrives", lambda: worker.status(seed_id) == "Claimed")
    publisher.kill()
    worker.ask("seed.run", seed_id=seed_id)
    publisher.start()
    wait_for("the result arrives", lambda: publisher.status(seed_id) == "Done")
    publisher.ask("seed.settle", seed_id=seed_id, outcome="Accepted")
    publisher.kill()
    publisher.start()
    converge([publisher, worker], [seed_id])


def test_a_node_whose_disk_is_full_says_so_and_stops(nodes: Nodes, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for a full disk: the journal cannot grow beyond it."""
    node = nodes.make("node")
    node.limit_file_bytes = 2 * 1024 * 1024
    node.start()
    answered: set[str] = set()

    def fill() -> None:
        for _ in range(200):
            answered.add(node.publish("echo hi", description="x" * 60_000))

    with pytest.raises(CrabnetError) as caught:
        fill()
    assert isinstance(caught.value, StorageFailedError | NodeTimeoutError)
    process = node.process
    assert process is not None
    process.wait(60)
    assert node.end() == 6
    assert "Traceback" not in node.errors()
    assert [line for line in node.errors().splitlines() if line.startswith("error: ")]
    node.limit_file_bytes = None
    node.start()
    assert answered <= node.seed_ids()
