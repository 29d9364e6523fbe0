"""Measures the effect of a checkpoint on its node: how long it blocks the loop, and how much it slows the ingest."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

import trio

from bench.ingest import Rig, addressed
from bench.report import Measure, at_least, at_most, percentile

GROUP: Final = "Checkpoint while the node goes on"
_TICK_S: Final = 0.001
_CHUNK: Final = 640


class Ticker(trio.abc.Instrument):
    """Measures how long the loop is blocked, in wall time (late ticks) and in processor time (the longest step)."""

    def __init__(self) -> None:
        self.late_s: list[float] = []
        self.longest_step_s = 0.0
        self._began_s: float | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's signature
        """Note the start of a task's step."""
        self._began_s = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's signature
        """Note the end of a task's step."""
        if self._began_s is not None:
            self.longest_step_s = max(self.longest_step_s, time.thread_time() - self._began_s)

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            due = time.perf_counter() + _TICK_S
            await trio.sleep(_TICK_S)
            self.late_s.append(time.perf_counter() - due)


def measure(*, quick: bool) -> list[Measure]:
    """Measure one checkpoint of many seeds in an idle node, and one in a busy node."""
    seeds = 100_000 if quick else 300_000
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-") as directory:
        return trio.run(_measure, Path(directory), seeds)


async def _watched(seconds: float, rig: Rig, *, checkpoint: bool) -> Ticker:
    """Watch the loop of an idle node during a checkpoint, or for some seconds."""
    ticker = Ticker()
    trio.lowlevel.add_instrument(ticker)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        if checkpoint:
            await rig.checkpointer.make()
        else:
            await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(ticker)
    return ticker


async def _rates(rig: Rig, done: trio.Event, least: int) -> list[float]:
    """Envelopes per second of each chunk, for at least ``least`` chunks and until ``done`` is set."""
    rates: list[float] = []
    while len(rates) < least or not done.is_set():
        datagrams = addressed(rig.population.messages(_CHUNK))
        rates.append(_CHUNK / await rig.ingest(datagrams))
        await trio.lowlevel.checkpoint()
    return rates


async def _measure(directory: Path, seeds: int) -> list[Measure]:
    rig = Rig(directory, seeds)
    always = trio.Event()
    always.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.network.receive)
        nursery.start_soon(rig.committer.run)
        await rig.turn(_CHUNK)
        begun = time.perf_counter()
        during = await _watched(0, rig, checkpoint=True)
        took_s = time.perf_counter() - begun
        quiet = await _watched(min(took_s, 10), rig, checkpoint=False)
        before = await _rates(rig, always, 30)
        finished = trio.Event()

        async def checkpoint() -> None:
            await rig.checkpointer.make()
            finished.set()

        nursery.start_soon(checkpoint)
        busy = await _rates(rig, finished, 30)
        after = await _rates(rig, always, 30)
        nursery.cancel_scope.cancel()
    rig.close()
    unhindered = statistics.median([*before, *after])
    ratio = statistics.median(busy) / unhindered
    note = f"{seeds:,} seeds"
    return [
        Measure(GROUP, "checkpoint, idle node", took_s, "s", note=note),
        Measure(GROUP, "longest step of the loop", 1000 * during.longest_step_s, "ms", at_most(20), "processor time"),
        Measure(
            GROUP,
            "longest hold of the loop",
            1000 * max(during.late_s),
            "ms",
            at_most(20),
            f"p99 {1000 * percentile(during.late_s, 99):.2f} ms",
        ),
        Measure(
            GROUP,
            "the same without a checkpoint",
            1000 * max(quiet.late_s),
            "ms",
            note=f"p99 {1000 * percentile(quiet.late_s, 99):.2f} ms: what else runs on the machine",
        ),
        Measure(GROUP, "ingest during a checkpoint", statistics.median(busy), "1/s"),
        Measure(GROUP, "ratio to ingest without one", ratio, "", at_least(0.85)),
    ]
