"""kill -9 of a real node, again and again: under load, while it recovers, while it makes a checkpoint."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Mapping
from itertools import cycle, islice

import pytest

from crabnet.errors import CrabnetError
from crabnet.operator.audit import audit
from crabnet.operator.findings import GENESIS
from crabnet.operator.live import live_point
from crabnet.settings import resolve
from crabnet.storage.files import RealFiles
from crabnet.storage.layout import Layout
from crabnet.storage.lock import read_holder
from tests.support.load import Load
from tests.support.nodes import NodeProcess, Nodes, environment, json_line, wait_for

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 needs POSIX signals: NOT tested")

UNDER_LOAD, CHECKPOINT, RECOVERY = "under load", "during a checkpoint", "during recovery"
_LOAD_S_MAX = 0.3
_RECOVERY_S_MAX = 0.12
_GLANCE_S = 0.0005
_PAUSE_S = 0.02
"""Between two publications of one client, so that a long test does not drown in its history."""


class KillLoop:
    """One data dir and the many lives of its node."""

    def __init__(self, nodes: Nodes, randomness: random.Random) -> None:
        often = environment(CRABNET_CHECKPOINT_JOURNAL_BYTES="4096", CRABNET_CHECKPOINT_INTERVAL_SECONDS="1")
        self.node: NodeProcess = nodes.make("victim", (), "--accept-feed-risk", env=often)
        self.load = Load(self.node.data_dir)
        self.layout = Layout(self.node.data_dir)
        self.random = randomness
        self.hits: Counter[str] = Counter()
        self._recovery_s_max = _RECOVERY_S_MAX
        self.settings = resolve({"data_dir": str(self.node.data_dir)}, {}, None).settings

    def kill(self, moment: str) -> None:
        """One more life, ended at a random moment of this kind; counts what was really hit."""
        if moment == RECOVERY:
            self._kill_in_recovery()
        else:
            self._start_and_check(GENESIS if moment == UNDER_LOAD and self.hits.total() % 20 == 0 else "state")
            with self.load.clients(pause_s=_PAUSE_S) as threads:
                if moment == CHECKPOINT:
                    self._await_checkpoint()
                else:
                    self.load.await_more(1)
                    time.sleep(self.random.uniform(0, _LOAD_S_MAX))
                noticed = len(self.load.errors)
                self.node.kill()
                wait_for(
                    "a client notices",
                    lambda: len(self.load.errors) > noticed or not any(thread.is_alive() for thread in threads),
                )
            self.hits[UNDER_LOAD] += 1
        # Left behind only by a checkpoint that was cut short: the next start removes it.
        self.hits[CHECKPOINT] += self.layout.temporary.exists() and moment != RECOVERY

    def _await_checkpoint(self) -> None:
        deadline = time.monotonic() + 5
        while not self.layout.temporary.exists() and time.monotonic() < deadline:
            time.sleep(_GLANCE_S)
        time.sleep(self.random.choice([0, 0, _GLANCE_S, 10 * _GLANCE_S]))

    def _kill_in_recovery(self) -> None:
        self.node.launch()
        process = self.node.process
        assert process is not None

        def opening() -> bool:
            holder = read_holder(RealFiles(), self.layout.lock)
            return (holder is not None and holder.pid == process.pid) or process.poll() is not None

        wait_for("the node opens its data dir", opening)
        time.sleep(self.random.uniform(0, self._recovery_s_max))
        process.kill()
        process.wait()
        assert process.stdout is not None
        started = "listen started" in process.stdout.read()
        self.node.kill()
        self.hits[UNDER_LOAD if started else RECOVERY] += 1
        if started:  # too late on this machine
            self._recovery_s_max /= 2

    def _start_and_check(self, audit_from: str) -> None:
        self.node.start()
        broken = self.load.broken(self.node)
        if audit_from != GENESIS and not self.layout.state.exists():
            audit_from = GENESIS
        report = audit(
            RealFiles(),
            self.node.data_dir,
            namespace=self.settings.namespace,
            ask_node=lambda: live_point(self.settings.data_dir, self.settings.control_timeout_ms),
            start=audit_from,
        )
        broken += [str(finding) for finding in report.findings]
        if not any(each.equal and each.name == "the running node" for each in report.comparisons):
            broken.append(f"the state hash was not compared: {report.comparisons}")
        assert broken == [], f"after {self.hits}"

    def finish(self) -> None:
        """After the last kill: all is there, and the audit of the whole history finds no gap and no fork."""
        self._start_and_check(GENESIS)
        assert self.node.end() == 0
        report = json_line(self.node.ok("audit", "verify", "--json"))
        assert report["findings"] == []
        self.node.start()
        stated = self.node.ask("status")
        assert report["state_hash"] == stated["state_hash"]
        assert report["envelopes"] == len(self.node.seed_ids()) >= len(self.load.acknowledged)
        assert self.load.broken(self.node) == []
        assert "Traceback" not in self.node.errors()


def run(nodes: Nodes, kills: int, hits_min: Mapping[str, int]) -> Counter[str]:
    """So many kills, and more until each kind of moment has really been hit as often as it must be.

    What moment a kill hits depends on the machine's load; the time limit of the test bounds how often it is tried.
    """
    loop = KillLoop(nodes, random.Random(kills))
    hits = loop.hits
    for moment in islice(cycle([UNDER_LOAD, CHECKPOINT, RECOVERY]), kills):
        loop.kill(moment)
    for moment, count in hits_min.items():
        while hits[moment] < count:
            loop.kill(moment)
    loop.finish()
    total = hits[UNDER_LOAD] + hits[RECOVERY]
    print(f"kill -9: {total} kills, {dict(hits)}; {len(loop.load.acknowledged)} acknowledged, all there")
    assert total >= kills
    assert loop.load.acknowledged
    assert loop.load.errors
    assert all(isinstance(error, CrabnetError) for error in loop.load.errors)
    return hits


def test_a_few_kills(nodes: Nodes) -> None:
    assert run(nodes, 3, {RECOVERY: 1})[RECOVERY] >= 1


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_a_hundred_kills(nodes: Nodes) -> None:
    run(nodes, 102, {CHECKPOINT: 5, RECOVERY: 10})
