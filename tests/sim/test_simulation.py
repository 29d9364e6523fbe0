"""The simulation holds: a handful of seeds here; two hundred of four hundred, another half each day, and one of fifty
nodes in ``make deep``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.__main__ import Task, run
from tests.support.slices import FULL, todays

ROOT = Path(__file__).parents[2]
SEEDS = 400
CHUNK = 10
DAYS = 4
OPERATIONS = 2_000 if FULL else 1_200


def broken(task: Task) -> str:
    """What is wrong with a seed, and how to see it again; "" if nothing is."""
    verdict = run(task)
    return f"{verdict.problem}\nreproduce: {task.command}" if verdict.outcome is None else ""


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.deep), 2, 12])
def test_nodes_converge_whatever_happens(seed: int) -> None:
    assert broken(Task(seed, None, 250)) == ""


@pytest.mark.deep
@pytest.mark.parametrize("first", todays(range(0, SEEDS, CHUNK), DAYS))
def test_nodes_converge_whatever_happens_deep(first: int) -> None:
    problems = [problem for seed in range(first, first + CHUNK) if (problem := broken(Task(seed, None, OPERATIONS)))]
    assert problems == []


@pytest.mark.deep
def test_fifty_nodes_converge() -> None:
    assert broken(Task(50, 50, 2_000)) == ""


@pytest.mark.deep
def test_a_seed_says_it_all() -> None:
    """Two processes that hash strings differently see the same run, datagram by datagram."""
    traces = []
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.sim", "--seed", "12", "--operations", "60"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        traces.append(done.stdout.splitlines()[0].rpartition("trace ")[2])
    assert traces[0]
    assert traces[0] == traces[1]
