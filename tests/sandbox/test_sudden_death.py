"""Whatever part of a run dies at whatever moment of its start: no process, control group or file survives."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.sandbox.death import VICTIMS
from tests.sandbox.host import FALLBACK, HERE, PLACES, STRICT, Place, environment, identity, python_of, scratch

DELAYS_MS = list(range(21))
FEW_MS = [0, 3, 8, 20]


QUICK = ("node", "supervisor", "launcher")


@pytest.mark.parametrize(
    ("place", "victims", "delays_ms"),
    [
        pytest.param(place, victims, delays_ms, id=f"{place}-{victims}-{len(delays_ms)}", marks=marks)
        for place in PLACES
        if place.profile == "strict"
        for victims in VICTIMS
        for delays_ms, marks in ((FEW_MS, ()), (DELAYS_MS, pytest.mark.deep))
        if delays_ms is DELAYS_MS or (place in (STRICT, FALLBACK) and victims in QUICK)
    ],
)
def test_nothing_survives(place: Place, victims: str, delays_ms: list[int]) -> None:
    if place.mode != "bwrap" and victims == "init":
        pytest.skip("process 1 of a sandbox: Landlock has none")
    with scratch(place) as directory:
        order = {"mode": place.mode, "directory": str(directory), "victims": victims, "delays_ms": delays_ms}
        done = subprocess.run(
            [python_of(place.user) or sys.executable, str(HERE / "death.py"), json.dumps(order)],
            capture_output=True,
            text=True,
            cwd="/",
            env=environment(),
            check=False,
            **identity(place.user),
        )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    survivors = [attempt for attempt in found["attempts"] if attempt["survivors"]]
    assert survivors == []
    assert sum(attempt["killed"] for attempt in found["attempts"]) > 0
    assert found["left"] == []
    if "node" not in victims:
        # What a signal to the command itself looks like, too.
        as_the_command = victims == "init" or (victims == "launcher" and place.mode == "landlock")
        by_command = {"signaled"} if as_the_command else set()
        assert {attempt["cause"] for attempt in found["attempts"]} <= {"lost", "spawn_failed", *by_command}
