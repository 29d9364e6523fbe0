"""run, result, settle: no order of crashes leaves one without the other, or a message that the journal lacks."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import pytest
import trio

from crabnet import limits
from crabnet.core.commands import Operation, Publish, StartRun
from crabnet.core.effects import Effects, Reply
from crabnet.core.replica.records import EnvelopeRecord, decode_frame, envelope_of
from crabnet.domain.model import SeedStatus, TaskResult
from crabnet.domain.record import Record
from crabnet.errors import CrabnetError, RefusedError
from crabnet.node.durable.committer import Committer
from crabnet.node.durable.framing import Batch
from crabnet.node.node import Node
from crabnet.protocol.envelope import FEED_KINDS, Kind, shape
from crabnet.protocol.fragments import Complete, Reassembler
from crabnet.settings import FlagValue, Settings, resolve
from crabnet.storage.files import RealFiles
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole
from tests.faults.seam import Fault, FaultyFiles, KilledError, applies
from tests.faults.suites import Report
from tests.faults.workload import Snapshot, put, scratch, take

ORDER: Final = [
    Kind.SEED_CREATED,
    Kind.BID_SUBMITTED,
    Kind.CLAIM_CREATED,
    Kind.TASK_STARTED,
    Kind.TASK_RESULT,
    Kind.TASK_SETTLE,
]
"""The only order that a feed may have here; every journal must hold a beginning of it."""


class Sink:
    """Hears all that a node sends."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024 * 1024)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def heard(self) -> dict[str, str]:
        """Id and kind of every feed envelope heard since the last question."""
        reassembler = Reassembler()
        found: dict[str, str] = {}
        while True:
            try:
                datagram, source = self._socket.recvfrom(65_535)
            except BlockingIOError:
                return found
            if not datagram.startswith(b"{"):
                whole = reassembler.add(f"{source[0]}:{source[1]}", datagram, 0)
                if not isinstance(whole, Complete):
                    continue
                datagram = whole.message
            meta = shape(json.loads(datagram), datagram).meta
            if meta.kind in FEED_KINDS:
                found[meta.id] = meta.kind


@dataclass
class Scene:
    """A claimed seed of a node that is publisher and worker at once, and what came of it."""

    base: Path
    sink: Sink
    seed_id: str = ""
    start: Snapshot = field(default_factory=dict)

    @property
    def data_dir(self) -> Path:
        return self.base / "data"

    @property
    def trace(self) -> Path:
        """One line for each time that the command ran."""
        return self.base / "trace"

    @property
    def runs(self) -> int:
        return len(self.trace.read_text().splitlines()) if self.trace.exists() else 0

    def settings(self, announce: str | None = None) -> Settings:
        flags: dict[str, FlagValue] = {
            "data_dir": str(self.data_dir),
            "listen_addr": "127.0.0.1:0",
            "announce_addrs": [announce or self.sink.address],
            "accept_feed_risk": True,
            "runner_allow_shell_operators": True,
            "runner_sandbox": "none",  # the command leaves a trace on the host
        }
        return resolve(flags, {}, None).settings

    async def prepare(self) -> None:
        """Publish, bid and claim, without faults."""
        put(self.data_dir, {})
        async with Node(self.settings(), listen=False) as node:
            wish = Publish(title="t", command=f"echo ran >> {self.trace}", bid_window_ms=3_600_000)
            self.seed_id = (await node.publish(wish)).id
            bid = await node.bid(self.seed_id, 1)
            await node.claim(self.seed_id, bid.id)
        self.start = take(self.data_dir)

    def restore(self) -> None:
        put(self.data_dir, self.start)
        self.trace.unlink(missing_ok=True)

    async def attempt(self, files: FaultyFiles, fault: tuple[int, Fault] | None, *, from_start: bool = False) -> None:
        """Run and settle as a process that meets a fault."""
        if fault is not None and from_start:
            files.arm(*fault)
        with trio.fail_after(30):
            async with Node(self.settings(), files=files) as node:
                if fault is not None and not from_start:
                    files.arm(*fault)
                await self.work(node)

    async def work(self, node: Node) -> None:
        """What an operator does: run if it is still to be run, then settle. A run that was interrupted is forfeited by
        the node itself.
        """
        if node.core.record(self.seed_id).progress.status is SeedStatus.CLAIMED:
            await node.run(self.seed_id)
        record = node.core.record(self.seed_id)
        if record.worker_failed:
            await node.wait_for(self.seed_id, lambda state: state.status is SeedStatus.FORFEITED)
        elif record.progress.status is SeedStatus.DONE:
            await node.settle(self.seed_id, SeedStatus.ACCEPTED)

    async def crash(
        self, fault: tuple[int, Fault] | None, *, from_start: bool = False, files: FaultyFiles | None = None
    ) -> FaultyFiles:
        """``attempt`` to its end, whatever that is. Afterwards the files and locks of the process are gone."""
        files = files or FaultyFiles()
        try:
            await self.attempt(files, fault, from_start=from_start)
        except BaseExceptionGroup as group:
            _, others = group.split((KilledError, CrabnetError))
            if others is not None:
                raise
        except (KilledError, CrabnetError):
            pass
        finally:
            files.abandon()
        return files


def journal_of(data_dir: Path) -> dict[str, tuple[str, EnvelopeRecord]]:
    """All that the journal holds, in order: kind and record by envelope id."""
    with Ledger.open(data_dir, files=RealFiles(), now_ms=1, role=LockRole.COMMAND) as ledger:
        records = [record for frame in ledger.frames_after(0) for record in decode_frame(frame.payload)]
    envelopes = [(envelope_of(record), record) for record in records if isinstance(record, EnvelopeRecord)]
    return {envelope.meta.id: (str(envelope.meta.kind), record) for envelope, record in envelopes}


def journal_broken(scene: Scene, sent: dict[str, str]) -> list[str]:
    """Broken promises of the journal as a crash has left it."""
    held = journal_of(scene.data_dir)
    kinds = [kind for kind, _ in held.values()]
    found = [f"{kind} was sent and is not in the journal" for each, kind in sent.items() if each not in held]
    if kinds != ORDER[: len(kinds)]:
        found.append(f"the journal holds {kinds}")
    if scene.runs and Kind.TASK_STARTED not in kinds:
        found.append("the command ran, and no start of it is in the journal")
    if scene.runs > 1:
        found.append(f"the command ran {scene.runs} times")
    return found


def exit_codes(record: Record) -> list[int]:
    """Of all results, also of an attempt that was forfeited."""
    return [fact.body.exit_code for fact in (*record.others, *record.fallen) if isinstance(fact.body, TaskResult)]


async def judge(scene: Scene) -> list[str]:
    """Broken promises after a crash: at once, after the recovery, and after the work was done to its end."""
    sent = scene.sink.heard()
    found = journal_broken(scene, sent)
    kinds = [kind for kind, _ in journal_of(scene.data_dir).values()]
    interrupted = kinds[-1] == Kind.TASK_STARTED
    runs_before = scene.runs
    async with Node(scene.settings()) as node:
        try:
            await node.run(scene.seed_id)
            if Kind.TASK_STARTED in kinds:
                found.append("a command that had been started could be run again")
        except RefusedError:
            if Kind.TASK_STARTED not in kinds:
                found.append("a command that was never started cannot be run")
        if Kind.TASK_STARTED in kinds and scene.runs != runs_before:
            found.append("the command ran again")
        await scene.work(node)
        record = node.core.record(scene.seed_id)
        if record.progress.status is not (SeedStatus.FORFEITED if interrupted else SeedStatus.ACCEPTED):
            found.append(f"in the end the seed is {record.progress.status}")
        codes = exit_codes(record)
        if codes != [limits.EXIT_CODE_INTERRUPTED if interrupted else 0]:
            found.append(f"exit codes {codes}, interrupted: {interrupted}")
    found += journal_broken(scene, {**sent, **scene.sink.heard()})
    if [kind for kind, _ in journal_of(scene.data_dir).values()] != ORDER:
        found.append("the work was not done to its end")
    return found


@pytest.fixture(name="scene")
def _scene() -> Iterator[Scene]:
    with scratch() as base, Sink() as sink:
        made = Scene(base, sink)
        trio.run(made.prepare)
        yield made


def faults_for(at: int, *, every: bool) -> list[Fault]:
    """The faults to try at a call: all of them, or in turn a death and one of the others."""
    others = [fault for fault in Fault if fault is not Fault.KILL_BEFORE]
    if every:
        return [Fault.KILL_BEFORE, *others]
    return [Fault.KILL_BEFORE if at % 2 else others[at // 2 % len(others)]]


async def every_call(scene: Scene, *, every: bool) -> tuple[Report, set[str]]:
    """A fault at every file call from the start of the run to the end of the node; which calls were met."""
    report = Report()
    scene.restore()
    scene.sink.heard()
    await scene.crash(None)
    assert scene.runs == 1
    assert Kind.TASK_SETTLE in scene.sink.heard().values()
    met: set[str] = set()
    for at in count(1):
        reached = False
        for fault in faults_for(at, every=every):
            scene.restore()
            scene.sink.heard()
            files = await scene.crash((at, fault))
            if not files.injected:
                continue
            reached = True
            name, path = files.calls[files.armed_at - 1]
            if not applies(fault, name):
                continue
            met.add(name)
            report.add(f"{fault.value} at call {at}, {name} {path.name}", await judge(scene))
        if not reached:
            return report, met
    raise AssertionError("unreachable")


async def killed_at_journal_writes(scene: Scene) -> Report:
    """Killed before the first, the second, … write to the journal, whatever other file calls come between."""
    report = Report()
    for number in count(1):
        scene.restore()
        scene.sink.heard()
        writes = count(1)

        def is_met(call: str, path: Path, writes: Iterator[int] = writes, number: int = number) -> bool:
            return call == "pwrite" and path.parent.name == "journal" and next(writes) == number

        files = FaultyFiles()
        files.arm_when(is_met, Fault.KILL_BEFORE)
        await scene.crash(None, files=files)
        if not files.injected:
            return report
        report.add(f"killed before write {number} to the journal", await judge(scene))
    raise AssertionError("unreachable")


async def interrupted(scene: Scene, fault: Fault) -> Snapshot:
    """The data dir of a process that died when it was to write down the end of a command."""
    scene.restore()
    scene.sink.heard()
    files = FaultyFiles()
    files.arm_when(lambda call, path: call == "pwrite" and path.parent.name == "journal" and scene.runs == 1, fault)
    await scene.crash(None, files=files)
    assert files.injected, "nothing was written once the command had run"
    left = take(scene.data_dir)
    assert [kind for kind, _ in journal_of(scene.data_dir).values()][-1] == Kind.TASK_STARTED
    return left


async def pairs(scene: Scene, share: int) -> Report:
    """Killed while the command's end was to be written down, then at a call of the recovery."""
    report = Report()
    for site in [await interrupted(scene, fault) for fault in (Fault.KILL_BEFORE, Fault.HALF_THEN_KILL)]:
        for at in count(1, share):
            put(scene.data_dir, site)
            scene.sink.heard()
            files = await scene.crash((at, Fault.KILL_AFTER), from_start=True)
            if not files.injected:
                break
            name, path = files.calls[-1]
            found = await judge_interrupted(scene)
            report.add(f"interrupted, then killed after call {at}, {name} {path.name}", found)
    return report


async def judge_interrupted(scene: Scene) -> list[str]:
    """Broken promises of a data dir with an interrupted run: recorded as interrupted once, never run again."""
    sent = scene.sink.heard()
    async with Node(scene.settings()) as node:
        await scene.work(node)
        codes = exit_codes(node.core.record(scene.seed_id))
    found = [] if codes == [limits.EXIT_CODE_INTERRUPTED] else [f"exit codes {codes}"]
    found += journal_broken(scene, {**sent, **scene.sink.heard()})
    if [kind for kind, _ in journal_of(scene.data_dir).values()] != ORDER:
        found.append("the work was not done to its end")
    return found


def check(report: Report, what: str, cases_min: int) -> None:
    print(f"{what}: {report.cases} cases, {len(report.broken)} broken promises")
    assert report.broken == []
    assert report.cases >= cases_min


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs commands: POSIX only, NOT tested")


@pytest.mark.deep
def test_a_crash_at_every_file_call_of_a_run_and_its_settlement(scene: Scene) -> None:
    report, met = trio.run(lambda: every_call(scene, every=False))
    check(report, "run, result, settle", 30)
    assert met >= {"pwrite", "fdatasync", "rename"}


@pytest.mark.deep
def test_a_second_crash_while_an_interrupted_run_is_recovered(scene: Scene) -> None:
    check(trio.run(pairs, scene, 9), "interrupted run, second crash, a sample", 5)


async def _send_too_early(self: Committer, batch: Batch[object], thread: object) -> None:
    node: Node = self._release.__self__  # type: ignore[attr-defined]
    for durable, _ in batch.whole:
        for send in durable.effects.sends:
            node.outbox.put(send)
        durable.effects.sends.clear()
    with trio.CancelScope(shield=True):
        await node.outbox.drain()
    await _WRITE(self, batch, thread)  # type: ignore[arg-type]


async def _run_too_early(self: Node, wish: Operation) -> Reply:
    if isinstance(wish, StartRun):
        effects = Effects()
        self.core.handle(wish, self.clock_ms(), effects)
        _LATE.append(effects)
        return effects.reply
    while _LATE:
        self.committer.enqueue(_LATE.pop())
    return await _PERFORM(self, wish)


_WRITE, _PERFORM = Committer._write, Node.perform
_LATE: list[Effects] = []


@pytest.mark.parametrize(
    ("owner", "name", "planted", "caught"),
    [
        (Committer, "_write", _send_too_early, "was sent and is not in the journal"),
        (Node, "perform", _run_too_early, "no start of it is in the journal"),
    ],
)
def test_planted_bugs_are_caught(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, planted: object, caught: str
) -> None:
    assert trio.run(killed_at_journal_writes, scene).broken == []
    _LATE.clear()
    monkeypatch.setattr(owner, name, planted)
    report = trio.run(killed_at_journal_writes, scene)
    print(f"{planted}: {len(report.broken)} of {report.cases} cases caught it")
    assert any(caught in each for each in report.broken), report.broken


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_every_fault_at_every_file_call_of_a_run_and_its_settlement(scene: Scene) -> None:
    report, _ = trio.run(lambda: every_call(scene, every=True))
    check(report, "run, result, settle, every fault", 100)


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_a_second_crash_at_every_file_call_of_the_recovery(scene: Scene) -> None:
    check(trio.run(pairs, scene, 1), "interrupted run, second crash", 60)
