"""``python -m tests.sim``: run seeds of the simulation, report traffic, or replay the journal of an incident in it."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.sim.liars import KINDS
from tests.sim.plan import NETWORKS, draw
from tests.sim.replay import replay
from tests.sim.report import report
from tests.sim.scenario import Outcome, simulate
from tests.sim.trade.buyers import BUYERS
from tests.sim.trade.plan import PURCHASES
from tests.sim.trade.running import MarketTask, run_markets
from tests.sim.trade.workers import WORKERS


class Task(NamedTuple):
    """One run."""

    seed: int
    nodes: int | None
    operations: int
    keep: Path | None = None
    liars: tuple[str, ...] | None = None
    network: str = "udp"

    @property
    def command(self) -> str:
        """What reproduces it exactly."""
        nodes = "" if self.nodes is None else f" --nodes {self.nodes}"
        liars = "" if self.liars is None else f" --liars {','.join(self.liars)}"
        network = "" if self.network == "udp" else f" --network {self.network}"
        return f"python -m tests.sim --seed {self.seed}{nodes} --operations {self.operations}{liars}{network}"


class Verdict(NamedTuple):
    """How a run ended: with an outcome, or with what went wrong."""

    task: Task
    outcome: Outcome | None
    problem: str
    seconds: float


def run(task: Task) -> Verdict:
    """Run one seed; whatever goes wrong is in the verdict."""
    started = time.process_time()
    gc.disable()
    try:
        outcome = simulate(
            task.seed,
            nodes=task.nodes,
            operations=task.operations,
            liars=task.liars,
            network=task.network,
            keep=task.keep,
        )
        problem = ""
    except AssertionError as error:
        outcome, problem = None, str(error)
    except Exception:  # noqa: BLE001 - a node that raises is a finding like any other
        outcome, problem = None, traceback.format_exc()
    gc.enable()
    gc.collect()
    return Verdict(task, outcome, problem, time.process_time() - started)


def run_all(tasks: list[Task], jobs: int) -> Iterable[Verdict]:
    """Run seeds in processes of their own, each process one after another."""
    if jobs == 1:
        yield from map(run, tasks)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run, tasks)


def show(verdict: Verdict, *, verbose: bool) -> None:
    """One line of what came out, more if something is wrong."""
    outcome = verdict.outcome
    if outcome is None:
        task = verdict.task
        plan = draw(task.seed, nodes=task.nodes, operations=task.operations, liars=task.liars, network=task.network)
        print(f"seed {verdict.task.seed} FAILED: {plan}\n{verdict.problem}\nreproduce: {verdict.task.command}")
    elif verbose:
        print(
            f"seed {outcome.plan.seed}: {outcome.plan}: agreed on {outcome.state_hash[:12]} after {outcome.rounds} sync"
            f" rounds; {outcome.operations} operations, {outcome.envelopes} envelopes, {outcome.crashes} crashes,"
            f" {outcome.datagrams} datagrams, {outcome.changes} changes checked in {outcome.virtual_ms / 1000:.0f} s"
            f" of virtual time; {verdict.seconds:.1f} s; trace {outcome.digest}"
        )
    sys.stdout.flush()


def summarise(verdicts: list[Verdict], wall_s: float) -> None:
    """All runs in a few lines."""
    outcomes = [verdict.outcome for verdict in verdicts if verdict.outcome is not None]
    failed = [verdict.task.seed for verdict in verdicts if verdict.outcome is None]
    rounds = sorted(outcome.rounds for outcome in outcomes)
    if rounds:
        print(
            f"{len(outcomes)} seeds agreed: sync rounds median {rounds[len(rounds) // 2]}, most {rounds[-1]};"
            f" {sum(outcome.operations for outcome in outcomes)} operations,"
            f" {sum(outcome.datagrams for outcome in outcomes)} datagrams,"
            f" {sum(outcome.crashes for outcome in outcomes)} crashes,"
            f" {sum(outcome.changes for outcome in outcomes)} changes checked; {wall_s:.0f} s"
        )
    if failed:
        print(f"{len(failed)} seeds FAILED: {', '.join(map(str, failed))}")


def _kinds_of(kinds: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name for name in text.split(",") if name)
        unknown = [name for name in names if name not in kinds]
        if unknown:
            raise argparse.ArgumentTypeError(f"no such kind: {', '.join(unknown)}; there are {', '.join(kinds)}")
        return names

    return parse


def main() -> int:
    """The exit code: 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=0, help="run this many seeds, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="run this one seed, and tell about it")
    parser.add_argument("--nodes", type=int, help="nodes of each run instead of 3 to 9")
    parser.add_argument("--operations", type=int, default=2_000)
    parser.add_argument(
        "--liars", type=_kinds_of(KINDS), help="adversaries, with commas between, instead of those drawn"
    )
    parser.add_argument("--network", choices=NETWORKS, default="udp", help="what the nodes are connected by")
    parser.add_argument("--market", action="store_true", help="markets of nodes that buy and sell by policy instead")
    parser.add_argument("--purchases", type=int, default=PURCHASES, help="purchases of each market")
    parser.add_argument("--workers", type=_kinds_of(WORKERS), help="kinds of workers of a market, but of two nodes")
    parser.add_argument("--buyers", type=_kinds_of(BUYERS), help="kinds of buyers of a market, but of two nodes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="with --seed: save the data dirs of all nodes in this directory")
    parser.add_argument("--report", action="store_true", help="bytes and messages per envelope at 5, 20 and 50 nodes")
    parser.add_argument("--quiet", action="store_true", help="a line for failed seeds only")
    commands = parser.add_subparsers(dest="command")
    incident = commands.add_parser("replay", help="replay the journal of a data dir, or an export, in the simulation")
    incident.add_argument("path", type=Path)
    incident.add_argument("--seed", type=int, dest="replay_seed", default=0)
    arguments = parser.parse_args()
    if arguments.command == "replay":
        return replay(arguments.path, arguments.replay_seed)
    if arguments.report:
        report()
        return 0
    if arguments.seed is not None:
        seeds: Iterable[int] = [arguments.seed]
    else:
        seeds = range(arguments.first, arguments.first + (arguments.seeds or 10))
    keep = arguments.keep if arguments.seed is not None else None
    if arguments.market:
        markets = [MarketTask(seed, arguments.purchases, keep, arguments.workers, arguments.buyers) for seed in seeds]
        return run_markets(markets, min(arguments.jobs, len(markets)), quiet=arguments.quiet)
    tasks = [
        Task(seed, arguments.nodes, arguments.operations, keep, arguments.liars, arguments.network) for seed in seeds
    ]
    started = time.monotonic()
    verdicts = []
    for verdict in run_all(tasks, min(arguments.jobs, len(tasks))):
        show(verdict, verbose=not arguments.quiet)
        verdicts.append(verdict)
    summarise(verdicts, time.monotonic() - started)
    return int(any(verdict.outcome is None for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
