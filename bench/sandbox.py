"""Measures the cost of the sandbox: runs of ``true`` in each mode of this machine, compared with plain
``bash -c true``.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

from bench.report import Measure, at_most
from crabnet.runner.execute import run_command
from crabnet.runner.landlock import abi_version
from crabnet.runner.outcome import RunRequest
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.sandbox import bwrap, cgroups
from crabnet.runner.sandbox.model import NO_FENCE, CgroupPlaces, Fence, Mode, Profile
from crabnet.runner.self_test import BWRAP_PATHS
from crabnet.runner.supervisor_client import Supervisors

GROUP: Final = "Sandboxed runs"
_OVERHEAD_MS_MAX: Final = 20
_TAG: Final = "bench"
_TIMEOUT_MS: Final = 60_000
_PLAIN: Final = "bash -c true"
_CONFINED: Final = {Mode.BWRAP: "true in bwrap", Mode.LANDLOCK: "true behind Landlock"}


def measure(*, quick: bool) -> list[Measure]:
    """Medians of runs in turns. Raises RuntimeError if a run fails."""
    rounds = 20 if quick else 100
    places = cgroups.find_places(_TAG)
    held = cgroups.hold(places) if places is not None else None
    try:
        taken = trio.run(_take_turns, rounds, _fences(places))
    finally:
        if held is not None:
            cgroups.sweep(held.places)
            held.release()
    rows = [
        Measure(GROUP, name, 1000 * statistics.median(times), "ms", note=_quartiles(times))
        for name, times in taken.items()
    ]
    for name in _CONFINED.values():
        if name in taken:
            more = [run_s - plain_s for run_s, plain_s in zip(taken[name], taken[_PLAIN], strict=True)]
            median_ms = 1000 * statistics.median(more)
            rows.append(
                Measure(GROUP, f"{name}, more than plain", median_ms, "ms", at_most(_OVERHEAD_MS_MAX), _quartiles(more))
            )
    return rows


def _quartiles(times_s: list[float]) -> str:
    lower, _, upper = (1000 * value for value in statistics.quantiles(times_s, n=4))
    return f"quartiles {lower:.1f} – {upper:.1f}"


def _fences(places: CgroupPlaces | None) -> dict[str, Fence]:
    found = {"true, unconfined": NO_FENCE}
    program = next((Path(path) for path in BWRAP_PATHS if Path(path).exists()), None)
    if program is not None:
        found[_CONFINED[Mode.BWRAP]] = Fence(Mode.BWRAP, places, program)
    if abi_version():
        found[_CONFINED[Mode.LANDLOCK]] = Fence(Mode.LANDLOCK, places, landlock_abi=abi_version())
    return found


async def _take_turns(rounds: int, fences: dict[str, Fence]) -> dict[str, list[float]]:
    policy = RunnerPolicy()
    supervisors = Supervisors()
    runs: dict[str, Callable[[], Awaitable[object]]] = {_PLAIN: partial(_execute, ["bash", "-c", "true"])}
    runs["of it: start and end of a supervisor"] = partial(_supervise, supervisors)
    for name, fence in fences.items():
        if fence.bwrap is not None:
            inside = bwrap.arguments(bwrap.Inside(Profile.STRICT, policy.limits))
            runs["of it: bwrap alone"] = partial(_execute, [str(fence.bwrap), *inside, "true"])
        runs[name] = partial(_confined, policy, fence, supervisors)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            begun_s = time.perf_counter()
            await run()
            if number:  # the first round warms up
                taken[name].append(time.perf_counter() - begun_s)
    supervisors.close()
    return taken


async def _execute(command: list[str]) -> None:
    await trio.run_process(command, stdin=subprocess.DEVNULL)


async def _supervise(supervisors: Supervisors) -> None:
    link = await supervisors.start()
    await link.end()


async def _confined(policy: RunnerPolicy, fence: Fence, supervisors: Supervisors) -> None:
    request = RunRequest("bench", "true", _TIMEOUT_MS, owner_tag=_TAG)
    outcome = await run_command(request, policy, fence, supervisors=supervisors)
    if outcome.exit_code != 0:
        raise RuntimeError(f"true in {fence.mode.value} failed: {outcome.stderr}")
