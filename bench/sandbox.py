"""What a sandbox costs: a run of ``true`` in each mode of this machine, beside ``bash -c true`` without anything."""

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
from crabnet.runner.link import Supervisors
from crabnet.runner.outcome import RunRequest
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.sandbox import cgroups
from crabnet.runner.sandbox.model import NO_FENCE, CgroupPlaces, Fence, Mode
from crabnet.runner.sandbox.survey import BWRAP_PATHS

GROUP: Final = "Sandboxed runs"
_OVERHEAD_MS_MAX: Final = 20
_TAG: Final = "bench"
_TIMEOUT_MS: Final = 60_000


def measure(*, quick: bool) -> list[Measure]:
    """Medians of runs that take turns. Raises RuntimeError when a run fails."""
    rounds = 20 if quick else 100
    places = cgroups.find_places(_TAG)
    try:
        taken = trio.run(_take_turns, rounds, _fences(places))
    finally:
        if places is not None:
            cgroups.sweep(places)
            cgroups.remove_places(places)
    medians = {name: 1000 * statistics.median(times) for name, times in taken.items()}
    plain = medians["bash -c true"]
    rows = [Measure(GROUP, name, median, "ms") for name, median in medians.items()]
    for name in medians.keys() - {"bash -c true", "true, unconfined"}:
        rows.append(Measure(GROUP, f"{name}, more than plain", medians[name] - plain, "ms", at_most(_OVERHEAD_MS_MAX)))
        rows.append(Measure(GROUP, f"{name}, more than unconfined", medians[name] - medians["true, unconfined"], "ms"))
    return rows


def _fences(places: CgroupPlaces | None) -> dict[str, Fence]:
    found = {"true, unconfined": NO_FENCE}
    bwrap = next((Path(path) for path in BWRAP_PATHS if Path(path).exists()), None)
    if bwrap is not None:
        found["true in bwrap"] = Fence(Mode.BWRAP, places, bwrap)
    if abi_version():
        found["true behind Landlock"] = Fence(Mode.LANDLOCK, places, landlock_abi=abi_version())
    return found


async def _take_turns(rounds: int, fences: dict[str, Fence]) -> dict[str, list[float]]:
    policy = RunnerPolicy()
    runs: dict[str, Callable[[], Awaitable[None]]] = {"bash -c true": _plain}
    supervisors = Supervisors()
    for name, fence in fences.items():
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


async def _plain() -> None:
    await trio.run_process(["bash", "-c", "true"], stdin=subprocess.DEVNULL)


async def _confined(policy: RunnerPolicy, fence: Fence, supervisors: Supervisors) -> None:
    request = RunRequest("bench", "true", _TIMEOUT_MS, owner_tag=_TAG)
    outcome = await run_command(request, policy, fence, supervisors=supervisors)
    if outcome.exit_code != 0:
        raise RuntimeError(f"true in {fence.mode.value} failed: {outcome.stderr}")
