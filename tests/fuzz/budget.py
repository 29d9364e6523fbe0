"""How long a fuzz test goes on, and what one input may cost.

The seconds are those of ``CRABNET_FUZZ_SECONDS`` (60, with ``FULL=1`` 600) for tests marked deep; others do one round.
Rounds are numbered, from another number each day: the number is Hypothesis' seed, so that a failing round can be done
again alone with ``CRABNET_FUZZ_ROUND``.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, seed, settings

from tests.support.slices import FULL, day

EXAMPLES_PER_ROUND = 300
CPU_S_MAX = 5.0
"""Processor time for one input. The slowest takes milliseconds; this catches what grows beyond all bounds."""
MEMORY_BYTES_MAX = 8 * 1024 * 1024
MEMORY_FACTOR_MAX = 100
"""Bytes of memory at the peak for each byte of the input, beside ``MEMORY_BYTES_MAX``."""

long_and_short = pytest.mark.parametrize(
    "seconds",
    [0, pytest.param(int(os.environ.get("CRABNET_FUZZ_SECONDS", "600" if FULL else "60")), marks=pytest.mark.deep)],
)
_ROUNDS_A_DAY = 10_000


class Spent:
    """What inputs cost, and what became of them."""

    def __init__(self) -> None:
        self.inputs = 0
        self.bytes = 0
        self.cpu_s_max = 0.0
        self.memory_bytes_max = 0
        self.outcomes: Counter[str] = Counter()

    @contextmanager
    def on(self, size_bytes: int) -> Iterator[None]:
        """Measure what is done with an input of this size; more than it may cost is a failure."""
        tracemalloc.start()
        began = time.thread_time()
        try:
            yield
            cpu_s = time.thread_time() - began
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.inputs += 1
        self.bytes += size_bytes
        self.cpu_s_max = max(self.cpu_s_max, cpu_s)
        self.memory_bytes_max = max(self.memory_bytes_max, peak)
        if cpu_s > CPU_S_MAX:
            pytest.fail(f"{size_bytes} bytes took {cpu_s:.1f} s of processor time")
        if peak > MEMORY_BYTES_MAX + MEMORY_FACTOR_MAX * size_bytes:
            pytest.fail(f"{size_bytes} bytes took {peak} bytes of memory")

    def __str__(self) -> str:
        ends = ", ".join(f"{name} {number}" for name, number in self.outcomes.most_common())
        return (
            f"{self.inputs} inputs, {self.bytes} bytes; the slowest {self.cpu_s_max * 1000:.1f} ms, the largest"
            f" {self.memory_bytes_max / 1024:.0f} KiB; {ends}"
        )


def fuzz(seconds: float, test: Callable[[], None], spent: Spent, examples: int = EXAMPLES_PER_ROUND) -> None:
    """Do rounds of a property (made with ``given``) until the time is up, at least one. Prints what it took."""
    rounds = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    test = rounds(test)
    alone = os.environ.get("CRABNET_FUZZ_ROUND")
    end = time.monotonic() + seconds
    first = day() * _ROUNDS_A_DAY if seconds else 0
    for number in count(first) if alone is None else [int(alone)]:
        try:
            seed(number)(test)()
        except BaseException as error:
            error.add_note(f"fuzz: again with CRABNET_FUZZ_ROUND={number}")
            raise
        if time.monotonic() >= end:
            break
    print(f"fuzz: {spent}")
