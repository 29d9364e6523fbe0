"""Markets hold, whoever lies: a few seeds here, an eighth of two hundred each day in ``make deep``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.sim.trade.running import MarketTask, MarketVerdict, run_market
from tests.support.slices import todays

ROOT = Path(__file__).parents[2]
SEEDS = 200
CHUNK = 5
DAYS = 8
SEEN = (
    "Accepted truth",
    "Rejected lie",
    "forfeits",
    "claims after a failure",
    "honest work settled in spite of an absence",
    "shunned publishers",
    "probes with a bid",
    "bid_declined",
    "purchase_given_up",
    "purchase_retried",
)
"""What must have happened in the seeds of a day, or they would prove nothing."""


def played(seeds: range) -> list[MarketVerdict]:
    return [run_market(MarketTask(seed)) for seed in seeds]


def broken(verdicts: list[MarketVerdict]) -> list[str]:
    """What is wrong with seeds, and how to see it again."""
    return [f"{each.problem}\nrepeat it: {each.task.command}" for each in verdicts if each.outcome is None]


def test_a_market_is_sound_whoever_lies() -> None:
    assert broken(played(range(5, 6))) == []


@pytest.mark.deep
@pytest.mark.parametrize("first", todays(range(0, SEEDS, CHUNK), DAYS))
def test_markets_are_sound_whoever_lies(first: int) -> None:
    verdicts = played(range(first, first + CHUNK))
    assert broken(verdicts) == []


@pytest.mark.deep
def test_a_seed_says_it_all() -> None:
    """Two processes that hash strings differently see the same market, datagram by datagram."""
    traces = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.sim", "--market", "--seed", "4", "--purchases", "6"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        traces.add(done.stdout.splitlines()[0].rpartition("trace ")[2])
    assert len(traces) == 1


@pytest.mark.deep
def test_what_markets_are_for_happens_in_them() -> None:
    """Trade, failures, absences and mistrust are there to be judged."""
    counts: Counter[str] = Counter()
    for verdict in played(range(15, 22)):
        counts.update({} if verdict.outcome is None else verdict.outcome.counts)
    assert [what for what in SEEN if not counts[what]] == []
