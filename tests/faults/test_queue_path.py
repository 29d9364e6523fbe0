"""Runs that wait, are renewed and withdrawn: a crash at any file call leaves each not started, or begun once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count

import pytest
import trio

from crabnet.core.commands import Publish
from crabnet.core.replica.records import envelope_of
from crabnet.domain.model import Run, SeedStatus, TaskResult, TerminationCause
from crabnet.domain.record import Record
from crabnet.errors import Reason, RefusedError
from crabnet.node.node import Node
from crabnet.settings import Settings
from tests.faults.seam import Fault, FaultyFiles, applies
from tests.faults.suites import Report
from tests.faults.test_run_path import Scene, Sink, check, journal_of
from tests.faults.workload import put, scratch, take

LONG, SHORT = "long", "short"
ENDS = {TerminationCause.INTERRUPTED, TerminationCause.TIMEOUT}
"""How the first may end but for the withdrawal: on a slow machine its time is over before that."""


class Queue(Scene):
    """Two claimed seeds, one runs at a time: the first is renewed, then withdrawn, then the other has its turn."""

    def settings(self, announce: str | None = None) -> Settings:
        return replace(
            super().settings(announce), runner_runs_max=1, runner_lease_ms=200, runner_timeout_kill_wait_ms=100
        )

    async def prepare(self) -> None:
        put(self.data_dir, {})
        self.seeds: dict[str, str] = {}
        async with Node(self.settings(), listen=False) as node:
            for name, rest in ((LONG, "; sleep 20"), (SHORT, "")):
                wish = Publish(
                    title=name, command=f"echo {name} >> {self.trace}{rest}", bid_window_ms=3_600_000, timeout_ms=3_200
                )
                self.seeds[name] = (await node.publish(wish)).id
                bid = await node.bid(self.seeds[name], 1)
                await node.claim(self.seeds[name], bid.id)
        self.start = take(self.data_dir)

    async def work(self, node: Node) -> None:
        """What an operator does: run both, withdraw the first once it was renewed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.try_run, node, LONG)
            await node.wait_for(self.seeds[LONG], lambda state: state.status is not SeedStatus.CLAIMED)
            nursery.start_soon(self.try_run, node, SHORT)
            await node.wait_for(
                self.seeds[LONG],
                lambda state: (bool(state.progress.renewals) and bool(self.traced())) or over(state.status),
            )
            try:
                await node.cancel(self.seeds[LONG])
            except RefusedError as error:
                assert error.reason is Reason.WRONG_STATE  # noqa: PT017

    async def try_run(self, node: Node, name: str) -> None:
        try:
            await node.run(self.seeds[name])
        except RefusedError:
            return

    def traced(self) -> Counter[str]:
        """How often each command ran."""
        return Counter(self.trace.read_text().split()) if self.trace.exists() else Counter()


def over(status: SeedStatus) -> bool:
    return status in {SeedStatus.EXPIRED, SeedStatus.DONE, SeedStatus.FORFEITED}


def journal_broken(scene: Queue, sent: dict[str, str]) -> list[str]:
    """Broken promises of the journal as a crash has left it."""
    held = journal_of(scene.data_dir)
    found = [f"{kind} was sent and is not in the journal" for each, kind in sent.items() if each not in held]
    bodies = [envelope_of(record).payload for _, record in held.values()]
    begun = Counter(
        run["seed_id"] for body in bodies if isinstance(run := body.get("run"), dict) and not run.get("renews")
    )
    traced = scene.traced()
    for name, seed_id in scene.seeds.items():
        if begun[seed_id] > 1:
            found.append(f"{name} was started {begun[seed_id]} times")
        if traced[name] > begun[seed_id]:
            found.append(f"{name} ran {traced[name]} times and was started {begun[seed_id]} times")
    return found


def bodies_of(record: Record) -> tuple[list[Run], list[TaskResult]]:
    """The starts, without renewals, and the results, also of an attempt that was forfeited or withdrawn."""
    bodies = [fact.body for fact in (*record.others, *record.fallen)]
    runs = [body for body in bodies if isinstance(body, Run) and body.renews is None]
    return runs, [body for body in bodies if isinstance(body, TaskResult)]


async def judge(scene: Queue) -> list[str]:
    """Broken promises after a crash, and after the work was done to its end."""
    found = journal_broken(scene, scene.sink.heard())
    before = scene.traced()
    async with Node(scene.settings()) as node:
        started = {name for name, seed_id in scene.seeds.items() if bodies_of(node.core.record(seed_id))[0]}
        for name, seed_id in scene.seeds.items():
            record = node.core.record(seed_id)
            _, results = bodies_of(record)
            status = record.progress.status
            if status is SeedStatus.RUNNING:
                found.append(f"{name} is still said to run")
            if name in started and status is SeedStatus.DONE and not results:
                found.append(f"{name} has no result")
            if name == LONG and any(
                result.termination is None or result.termination.cause not in ENDS for result in results
            ):
                found.append(f"{name} has a result that says something else")
        if not started:
            await scene.work(node)
        elif SHORT not in started:
            await scene.try_run(node, SHORT)
        for name in started:
            await scene.try_run(node, name)
            if scene.traced()[name] != before[name]:
                found.append(f"{name} ran again")
        for name, seed_id in scene.seeds.items():
            if not over(node.core.record(seed_id).progress.status):
                found.append(f"in the end {name} is {node.core.record(seed_id).progress.status}")
    return found + journal_broken(scene, scene.sink.heard())


@pytest.fixture(name="scene")
def _scene() -> Iterator[Queue]:
    with scratch() as base, Sink() as sink:
        made = Queue(base, sink)
        trio.run(made.prepare)
        yield made


async def crashes(scene: Queue, *, step: int, faults: tuple[Fault, ...]) -> Report:
    """Faults at every ``step``th file call of the work."""
    report = Report()
    scene.restore()
    scene.sink.heard()
    files: FaultyFiles = await scene.crash(None)
    assert scene.traced() == {LONG: 1, SHORT: 1}
    assert (await judge(scene)) == []
    for at in count(1, step):
        reached = False
        for fault in faults:
            scene.restore()
            scene.sink.heard()
            files = await scene.crash((at, fault))
            if not files.injected:
                continue
            reached = True
            name, path = files.calls[files.armed_at - 1]
            if applies(fault, name):
                report.add(f"{fault.value} at call {at}, {name} {path.name}", await judge(scene))
        if not reached:
            return report
    raise AssertionError("unreachable")


@pytest.mark.deep
def test_a_crash_while_runs_wait_are_renewed_and_withdrawn(scene: Queue) -> None:
    report = trio.run(partial(crashes, scene, step=9, faults=(Fault.KILL_BEFORE,)))
    check(report, "queue, renew, withdraw, a sample", 4)


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_a_crash_at_every_file_call_while_runs_wait_are_renewed_and_withdrawn(scene: Queue) -> None:
    report = trio.run(partial(crashes, scene, step=1, faults=(Fault.KILL_BEFORE,)))
    check(report, "queue, renew, withdraw", 30)
