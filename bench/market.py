"""Measures markets of real nodes over UDP: whole lifecycles per second, and the time of ``crabnet run``.

A lifecycle is publish, bid, claim, start, run, result, settle and acknowledge. It ends when the publisher holds the
acknowledgement. The publisher is a node in this process, which buys with the Python API.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio
from msgspec import Struct

import crabnet
from bench.dht_nodes import Spent, making
from bench.report import Measure, Target, at_least, at_most, percentile, spread
from crabnet.control.client import stream
from crabnet.domain.model import FactKind
from crabnet.node.config import runner_of
from crabnet.runner.outcome import RunRequest
from crabnet.runner.runner import Runner
from tests.support.nodes import NodeProcess, Nodes, environment

GROUP: Final = "Market"
_PER_S: Final = 100
_RUN_MS: Final = 250
_AT_ONCE: Final = 32
_RUNS_AT_ONCE: Final = 4
_ACKNOWLEDGED_S: Final = 30
_TASK: Final = crabnet.Publish(title="true", command="true", timeout_ms=5_000, exec_deadline_ms=65_000)
_TERMS: Final = crabnet.Terms(award=crabnet.AwardRule.FIRST)
_OFF: Final = (
    "udp_broadcasts_per_sec",
    "author_envelopes_per_sec",
    "author_bytes_per_sec",
    "newcomer_envelopes_per_sec",
    "newcomer_bytes_per_sec",
)
"""The limits on what a node sends in a second, and takes from an author."""


def measure(*, quick: bool) -> list[Measure]:
    """Measure lifecycles with two and with six nodes, then ``crabnet run``. Raises RuntimeError if a task fails."""
    rounds, lifecycles, lines = (2, 200, 20) if quick else (3, 500, 100)
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-") as name:
        directory = Path(name)
        return [
            *_lifecycles(directory / "two", 1, rounds, lifecycles),
            *_lifecycles(directory / "six", 5, rounds, lifecycles),
            *_lines(directory / "lines", lines),
        ]


# --- lifecycles ----------------------------------------------------------------------------------------------


class _Round(Struct, frozen=True):
    """What some lifecycles took. Processor times are in milliseconds for each of them."""

    per_s: float
    buyer_ms: float
    workers_ms: float


def _lifecycles(directory: Path, workers: int, rounds: int, count: int) -> list[Measure]:
    """Lifecycles with each sandbox, without one, and with the limits of the defaults, and bare runs, in turns."""
    variants: dict[str, Callable[[Path], _Round]] = {
        "sandboxed": lambda made: trio.run(_market, made, workers, "auto", count, False),
        "landlock": lambda made: trio.run(_market, made, workers, "landlock", count, False),
        "unconfined": lambda made: trio.run(_market, made, workers, "none", count, False),
        "default limits": lambda made: trio.run(_market, made, workers, "auto", count // 2, True),
        "runs": lambda made: _Round(trio.run(_bare_runs, made, count), 0, 0),
    }
    taken: dict[str, list[_Round]] = {name: [] for name in variants}
    for number in range(rounds):
        for name, variant in variants.items():
            taken[name].append(variant(directory / f"{name.replace(' ', '-')}-{number}"))
    found = {name: [each.per_s for each in made] for name, made in taken.items()}
    per_s = {name: statistics.median(rates) for name, rates in found.items()}
    left_s = 1 / per_s["sandboxed"] - 1 / per_s["runs"]
    label = f"{workers + 1} nodes"
    cpu_ms = [statistics.median(each.buyer_ms for each in taken["sandboxed"])]
    cpu_ms.append(statistics.median(each.workers_ms for each in taken["sandboxed"]))

    def row(what: str, name: str, target: Target | None = None) -> Measure:
        return Measure(GROUP, f"{label}, {what}", per_s[name], "1/s", target, spread(found[name]))

    return [
        row("lifecycles in the sandbox", "sandboxed", at_least(_PER_S)),
        row("lifecycles, runs behind Landlock only", "landlock"),
        row("lifecycles, runs unconfined", "unconfined"),
        row("lifecycles in the sandbox, default limits", "default limits"),
        row(f"bare runs in the sandbox, {_RUNS_AT_ONCE} at once", "runs"),
        Measure(GROUP, f"{label}, lifecycles without the time of their runs", 1 / left_s if left_s > 0 else 0, "1/s"),
        Measure(GROUP, f"{label}, processor time of the publisher", cpu_ms[0], "ms", note="for each lifecycle"),
        Measure(GROUP, f"{label}, processor time of all workers", cpu_ms[1], "ms", note="without the runs"),
    ]


async def _market(directory: Path, workers: int, sandbox: str, count: int, limited: bool) -> _Round:
    data_dir = directory / "publisher"
    settings = crabnet.Settings(data_dir=data_dir, listen_addr="127.0.0.1:0", announce_addrs=(), web_addr="off")
    flags = ["--runner-sandbox", sandbox]
    if not limited:
        settings = replace(
            settings,
            udp_broadcasts_per_sec=0,
            author_envelopes_per_sec=0,
            author_bytes_per_sec=0,
            newcomer_envelopes_per_sec=0,
            newcomer_bytes_per_sec=0,
        )
        flags += [word for name in _OFF for word in (f"--{name.replace('_', '-')}", "0")]
    with making(directory) as nodes:
        async with crabnet.Node(settings) as node:
            sellers = await trio.to_thread.run_sync(_start, nodes, str(node.listen_address), workers, flags)
            for _ in range(3 * workers):
                await _buy_all(node, workers)
            spent, used_s, begun_s = [Spent(seller) for seller in sellers], time.process_time(), time.perf_counter()
            await _buy_all(node, count)
            seconds = time.perf_counter() - begun_s
            buyer_ms = 1000 * (time.process_time() - used_s) / count
            workers_ms = 1000 * sum(sum(each.so_far().values()) for each in spent) / count
    return _Round(count / seconds, buyer_ms, workers_ms)


def _start(nodes: Nodes, buyer: str, count: int, flags: list[str]) -> list[NodeProcess]:
    sellers = [nodes.make(f"worker{number}", [], "--join", buyer, "--allow", "true", *flags) for number in range(count)]
    for seller in sellers:
        seller.command = "work"
        seller.launch()
    for seller in sellers:
        seller.ready()
    return sellers


async def _buy_all(node: crabnet.Node, count: int) -> None:
    """Buy so many runs, some at a time, and wait until all are acknowledged."""
    seeds: list[str] = []
    waiting = iter(range(count))

    async def buy_some() -> None:
        for _ in waiting:
            result = await node.buy(_TASK, terms=_TERMS)
            if result.exit_code != 0:
                raise RuntimeError(f"true has failed: {result.stderr}")
            seeds.append(result.seed_id)

    async with trio.open_nursery() as nursery:
        for _ in range(_AT_ONCE):
            nursery.start_soon(buy_some)
    with trio.fail_after(_ACKNOWLEDGED_S):
        while seeds:
            changed = node.next_change()
            if _acknowledged(node, seeds[-1]):
                seeds.pop()
            else:
                await changed.wait()


def _acknowledged(node: crabnet.Node, seed_id: str) -> bool:
    return any(fact.kind is FactKind.ACKNOWLEDGED for fact in node.core.record(seed_id).others)


async def _bare_runs(directory: Path, count: int) -> float:
    """Runs per second in the sandbox of this machine, as many at once as a worker has by default."""
    directory.mkdir(parents=True)
    runner = runner_of(crabnet.Settings(data_dir=directory, runner_allowed_commands=("true",)))
    await runner.prepare()
    waiting = iter(range(count))

    async def run_some() -> None:
        for number in waiting:
            outcome = await runner.run(RunRequest(f"bench{number}", "true", 5_000), trio.Event())
            if outcome.exit_code != 0:
                raise RuntimeError(f"true has failed: {outcome.stderr}")

    try:
        return await _runs_per_s(runner, run_some, count)
    finally:
        runner.close()


async def _runs_per_s(runner: Runner, run_some: Callable[[], Awaitable[None]], count: int) -> float:
    await runner.run(RunRequest("first", "true", 5_000), trio.Event())
    begun_s = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(_RUNS_AT_ONCE):
            nursery.start_soon(run_some)
    return count / (time.perf_counter() - begun_s)


# --- one line ------------------------------------------------------------------------------------------------


def _lines(directory: Path, rounds: int) -> list[Measure]:
    """``crabnet run`` with a running node, beside local executions and beside a start of Python, in turns."""
    program = str(Path(sys.executable).with_name("crabnet"))
    with making(directory) as nodes:
        buyer = nodes.make("publisher").start()
        _start(nodes, buyer.listen, 1, [])
        line = [program, "run", "--award", "first", "--data-dir", str(buyer.data_dir), "--", "true"]
        commands = {
            "sh -c true": ["sh", "-c", "true"],
            "start of Python": [sys.executable, "-c", "pass"],
            "crabnet --version": [program, "--version"],
            "crabnet run --award first -- true": line,
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, command in commands.items():
                begun_s = time.perf_counter()
                subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment())
                if number:  # the first round warms up
                    taken[name].append(1000 * (time.perf_counter() - begun_s))
        inside = [_settled_ms(buyer) for _ in range(rounds)]
    target = {"crabnet run --award first -- true": at_most(_RUN_MS)}
    rows = [
        Measure(GROUP, f"{name}, p50", statistics.median(times), "ms", target.get(name), _p99(times))
        for name, times in {**taken, "the same purchase over the control socket": inside}.items()
    ]
    over = statistics.median(taken["crabnet run --award first -- true"]) / statistics.median(taken["start of Python"])
    return [*rows, Measure(GROUP, "crabnet run to the start of Python", over, "")]


def _p99(times_ms: list[float]) -> str:
    return f"p99 {percentile(times_ms, 99):.3g} ms; {spread(times_ms)}"


def _settled_ms(buyer: NodeProcess) -> float:
    """How long a purchase takes from publication to settlement, for a program that runs already."""
    begun_s = time.perf_counter()
    seed_id = buyer.publish("true", timeout_ms=5_000, exec_deadline_ms=65_000, terms={"award": "first"})
    for shown in stream(buyer.data_dir, "purchase.watch", {"seed_id": seed_id}, 60_000):
        if isinstance(shown, dict) and shown.get("stage") == "settled":
            break
    return 1000 * (time.perf_counter() - begun_s)
