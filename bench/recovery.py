"""Measures a restart: time and memory for a data dir with many seeds, and the replay of a journal."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import trio
from msgspec import Struct

from bench.report import Measure
from bench.workload import Population
from crabnet.core.commands import Received
from crabnet.core.effects import Effects
from crabnet.core.replica.records import Via, frame_of
from crabnet.node.clock import wall_ms
from crabnet.node.durable.checkpoints import Checkpointer
from crabnet.node.durable.committer import Committer
from crabnet.node.durable.store import open_store
from crabnet.settings import Settings
from crabnet.storage.files import RealFiles
from crabnet.storage.lock import LockRole

GROUP: Final = "Restart"
_FRAME_RECORDS: Final = 64


class Opened(Struct, frozen=True):
    """The time and memory that opening a data dir took."""

    seconds: float
    bytes: int


def measure(*, quick: bool) -> list[Measure]:
    """Measure every step in a separate process, so that the memory is that of the step alone."""
    seeds, envelopes = (100_000, 20_000) if quick else (300_000, 100_000)
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-") as directory:
        held, replayed = Path(directory) / "held", Path(directory) / "replayed"
        _apart(_fill, str(held), seeds)
        _apart(_journal, str(replayed), envelopes)
        opened = _apart(_open, str(held), 0)
        replay = _apart(_open, str(replayed), 0)
    scale = 100_000 / seeds
    note = f"of {seeds:,} seeds, 7 facts each on average"
    return [
        Measure(GROUP, "recovery per 100,000 seeds", opened.seconds * scale, "s", note=note),
        Measure(GROUP, "memory per 100,000 live seeds", opened.bytes * scale / 2**20, "MiB", note=note),
        Measure(GROUP, "replay of the journal", envelopes / replay.seconds, "1/s", note=f"{envelopes:,} envelopes"),
    ]


def _apart(step: object, data_dir: str, count: int) -> Opened:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs, step, data_dir, count))
    process.start()
    theirs.close()
    try:
        opened = ours.recv()
    except EOFError as error:
        raise RuntimeError(f"{step} failed") from error
    process.join()
    if not isinstance(opened, Opened):
        raise TypeError("the process returned something else than a measurement")
    return opened


def _run(connection: Connection, step: object, data_dir: str, count: int) -> None:
    if not callable(step):
        raise TypeError("not a step")
    connection.send(step(Path(data_dir), count))


def _settings(data_dir: Path) -> Settings:
    return Settings(data_dir=data_dir)


def _fill(data_dir: Path, seeds: int) -> Opened:
    """Make a data dir whose checkpoint holds ``seeds`` seeds."""
    store = open_store(_settings(data_dir), RealFiles(), role=LockRole.NODE, now_ms=wall_ms())
    population = Population(wall_ms() // 1000)
    store.core.replica.state.load(population.hold(seeds), None)
    store.core.replica.feeds.load(population.feeds(), None)

    async def checkpoint() -> None:
        committer = Committer(store.ledger, lambda _: None)
        Checkpointer(store.core, store.ledger, committer, lambda *_: None, wall_ms).make_now()

    trio.run(checkpoint)
    store.close()
    return Opened(0, 0)


def _journal(data_dir: Path, envelopes: int) -> Opened:
    """Make a data dir whose journal holds ``envelopes`` envelopes and that has no checkpoint."""
    store = open_store(_settings(data_dir), RealFiles(), role=LockRole.NODE, now_ms=wall_ms())
    now_ms = wall_ms()
    population = Population(now_ms // 1000)
    for _ in range(0, envelopes, _FRAME_RECORDS):
        effects = Effects()
        for message in population.messages(_FRAME_RECORDS):
            store.core.handle(Received(message.source, message.raw, Via.IMPORT), now_ms, effects)
        store.ledger.append(frame_of(effects.records))
    store.close()
    return Opened(0, 0)


def _open(data_dir: Path, _: int) -> Opened:
    before = _resident_bytes()
    begun = time.perf_counter()
    store = open_store(_settings(data_dir), RealFiles(), role=LockRole.NODE, now_ms=wall_ms())
    opened = Opened(time.perf_counter() - begun, _resident_bytes() - before)
    store.close()
    return opened


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status does not hold the resident memory (VmRSS)")
