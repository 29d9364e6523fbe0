"""Measures commits per second: the ledger compared with a bare loop of append and fdatasync on the same disk."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from bench.report import Measure, at_least, percentile
from crabnet.core.effects import Effects
from crabnet.node.durable.committer import Committer
from crabnet.storage.files import RealFiles
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole

GROUP: Final = "Commits"
_WRITERS: Final = 64
_RECORD: Final = b'["envelope",{"filler":"' + b"x" * 1_000 + b'"}]'


def measure(*, quick: bool) -> list[Measure]:
    """Measure interleaved blocks of commits of all kinds."""
    rounds, block = (10, 50) if quick else (30, 100)
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-") as directory:
        return trio.run(_measure, Path(directory), rounds, block)


async def _measure(directory: Path, rounds: int, block: int) -> list[Measure]:
    ledger = Ledger.open(directory / "node", files=RealFiles(), now_ms=0, role=LockRole.NODE)
    committer = Committer(ledger, lambda _: None)
    fd = os.open(directory / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    bare: list[list[float]] = []
    alone: list[list[float]] = []
    single: list[list[float]] = []
    many: list[float] = []
    many_latencies: list[float] = []

    def append_bare() -> None:
        os.write(fd, _RECORD)
        os.fdatasync(fd)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(committer.run)
            for _ in range(rounds):
                bare.append(_timed(append_bare, block))
                alone.append(_timed(lambda: ledger.append(_RECORD), block))
                single.append([await _submit(committer) for _ in range(block)])
                begun = time.perf_counter()
                async with trio.open_nursery() as writers:
                    for _ in range(_WRITERS):
                        writers.start_soon(_write, committer, block // 10, many_latencies)
                many.append(_WRITERS * (block // 10) / (time.perf_counter() - begun))
            nursery.cancel_scope.cancel()
    finally:
        os.close(fd)
        ledger.close()
    return _rows(bare, alone, single, many, many_latencies)


def _timed(commit: Callable[[], object], count: int) -> list[float]:
    taken = []
    for _ in range(count):
        begun = time.perf_counter()
        commit()
        taken.append(time.perf_counter() - begun)
    return taken


async def _submit(committer: Committer) -> float:
    begun = time.perf_counter()
    await committer.submit(Effects(records=[_RECORD]))
    return time.perf_counter() - begun


async def _write(committer: Committer, count: int, latencies: list[float]) -> None:
    for _ in range(count):
        latencies.append(await _submit(committer))


def _rows(
    bare: list[list[float]],
    alone: list[list[float]],
    single: list[list[float]],
    many: list[float],
    many_latencies: list[float],
) -> list[Measure]:
    def rate(blocks: list[list[float]]) -> float:
        return statistics.median(len(block) / sum(block) for block in blocks)

    def ratio(blocks: list[list[float]]) -> float:
        return statistics.median(sum(plain) / sum(ours) for plain, ours in zip(bare, blocks, strict=True))

    def p99_ms(blocks: list[list[float]]) -> float:
        return 1000 * percentile((taken for block in blocks for taken in block), 99)

    speed_up = statistics.median(rate * sum(block) / len(block) for rate, block in zip(many, single, strict=True))
    return [
        Measure(GROUP, "bare append + fdatasync", rate(bare), "1/s", note=f"p99 {p99_ms(bare):.2f} ms"),
        Measure(GROUP, "ledger, 1 writer", rate(alone), "1/s", note=f"p99 {p99_ms(alone):.2f} ms"),
        Measure(GROUP, "ledger to bare", ratio(alone), "", at_least(0.5)),
        Measure(GROUP, "p99 of ledger to bare", p99_ms(alone) / p99_ms(bare), ""),
        Measure(GROUP, "node, 1 writer", rate(single), "1/s", note=f"p99 {p99_ms(single):.2f} ms"),
        Measure(GROUP, "node, 1 writer, to bare", ratio(single), "", at_least(0.5)),
        Measure(
            GROUP,
            f"node, {_WRITERS} writers",
            statistics.median(many),
            "1/s",
            note=f"p99 {1000 * percentile(many_latencies, 99):.2f} ms",
        ),
        Measure(GROUP, f"{_WRITERS} writers to 1 writer", speed_up, "", at_least(5)),
    ]
