"""Runs seeds of markets, and tells what came out (``python -m tests.sim --market``)."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.sim.trade.plan import PURCHASES, draw
from tests.sim.trade.scenario import NAMES, MarketOutcome, simulate_market


class MarketTask(NamedTuple):
    """One run."""

    seed: int
    purchases: int = PURCHASES
    keep: Path | None = None
    workers: tuple[str, ...] | None = None
    buyers: tuple[str, ...] | None = None

    @property
    def command(self) -> str:
        """What repeats it exactly."""
        purchases = "" if self.purchases == PURCHASES else f" --purchases {self.purchases}"
        workers = "" if self.workers is None else f" --workers {','.join(self.workers)}"
        buyers = "" if self.buyers is None else f" --buyers {','.join(self.buyers)}"
        return f"python -m tests.sim --market --seed {self.seed}{purchases}{workers}{buyers}"


class MarketVerdict(NamedTuple):
    """How a run ended: with an outcome, or with what went wrong."""

    task: MarketTask
    outcome: MarketOutcome | None
    problem: str
    seconds: float


def run_market(task: MarketTask) -> MarketVerdict:
    """Run one seed. Whatever goes wrong is in the verdict."""
    started = time.process_time()
    gc.disable()
    outcome, problem = None, ""
    try:
        outcome = simulate_market(
            task.seed, purchases=task.purchases, workers=task.workers, buyers=task.buyers, keep=task.keep
        )
    except AssertionError as error:
        problem = str(error) or traceback.format_exc()
    except Exception:  # noqa: BLE001 - a node that raises is a finding like any other
        problem = traceback.format_exc()
    gc.enable()
    gc.collect()
    return MarketVerdict(task, outcome, problem, time.process_time() - started)


def run_markets(tasks: list[MarketTask], jobs: int, *, quiet: bool) -> int:
    """Run seeds in processes of their own. Returns the exit code: 1 if one failed."""
    started = time.monotonic()
    verdicts = []
    for verdict in _all(tasks, jobs):
        verdicts.append(verdict)
        _show(verdict, verbose=not quiet)
    failed = [verdict.task.seed for verdict in verdicts if verdict.outcome is None]
    total: Counter[str] = Counter()
    for verdict in verdicts:
        total.update({} if verdict.outcome is None else verdict.outcome.counts)
    print(f"{len(verdicts) - len(failed)} markets are sound; {time.monotonic() - started:.0f} s")
    for what, count in sorted(total.items()):
        print(f"  {count:>7} {what}")
    if failed:
        print(f"{len(failed)} markets FAILED: {', '.join(map(str, failed))}")
    return int(bool(failed))


def _all(tasks: list[MarketTask], jobs: int) -> Iterable[MarketVerdict]:
    if jobs == 1:
        yield from map(run_market, tasks)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run_market, tasks)


def _show(verdict: MarketVerdict, *, verbose: bool) -> None:
    task, outcome = verdict.task, verdict.outcome
    if outcome is None:
        plan = draw(task.seed, NAMES, purchases=task.purchases, workers=task.workers, buyers=task.buyers)
        print(f"market {task.seed} FAILED: {plan}\n{verdict.problem}\nrepeat it: {task.command}")
    elif verbose:
        counts = outcome.counts
        print(
            f"market {task.seed}: {outcome.plan}: {counts.get('claims', 0)} claims, {counts.get('executions', 0)} runs,"
            f" {counts.get('Accepted truth', 0)} true results accepted, {counts.get('Rejected lie', 0)} lies rejected,"
            f" {counts.get('forfeits', 0)} forfeits, {outcome.crashes} crashes in {outcome.virtual_ms / 1000:.0f} s of"
            f" virtual time; {verdict.seconds:.1f} s; trace {outcome.digest}"
        )
    sys.stdout.flush()
