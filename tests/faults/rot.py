"""Bit rot: every bit flipped, every file cut at every byte, and what a data dir says to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crabnet.errors import DataDirDamagedError
from crabnet.storage.files import RealFiles
from crabnet.storage.opening.survey import verify
from tests.faults.seam import FaultyFiles
from tests.faults.suites import Report
from tests.faults.workload import (
    APPEND,
    CHECKPOINT,
    CHECKPOINT_WITH_APPEND,
    RESERVE,
    Snapshot,
    Trail,
    numbers_of,
    open_ledger,
    payload,
    put,
    recover,
    run_to_the_end,
    take,
)

CLOSED_AFTER_CHECKPOINT = (APPEND, CHECKPOINT, APPEND, CHECKPOINT_WITH_APPEND, APPEND, CHECKPOINT)
CLOSED_AFTER_APPENDS = (APPEND, CHECKPOINT, APPEND, CHECKPOINT_WITH_APPEND, APPEND, CHECKPOINT, APPEND, APPEND)


@dataclass(frozen=True)
class Victim:
    """A data dir to be damaged: its files, and the numbers in it."""

    snapshot: Snapshot
    numbers: list[int]

    @property
    def names(self) -> list[str]:
        return [name for name, content in self.snapshot.items() if content and name != RESERVE]


def make_victim(data_dir: Path, steps: tuple[str, ...]) -> Victim:
    """A data dir closed in order after ``steps``."""
    put(data_dir, {})
    trail = Trail()
    run_to_the_end(FaultyFiles(), data_dir, trail, steps)
    return Victim(take(data_dir), trail.acknowledged)


def flips(content: bytes, share: int) -> Iterator[tuple[str, bytes]]:
    """``content`` with one bit flipped, one of ``share`` bits."""
    for bit in range(0, len(content) * 8, share):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit % 8} of byte {bit // 8}", bytes(changed)


def cuts(content: bytes, share: int) -> Iterator[tuple[str, bytes]]:
    """``content`` cut off, at one of ``share`` bytes, and the whole file gone to nothing."""
    for length in range(0, len(content), share):
        yield f"cut to {length} bytes", content[:length]


def judge_rot(data_dir: Path, victim: Victim, name: str) -> list[str]:
    """Exact recovery, or a refusal that names a file in the data dir; never anything else. And an audit finds it."""
    broken: list[str] = []
    if name != "lock" and not any(str(data_dir / name) == str(damage.path) for damage in verify(RealFiles(), data_dir)):
        located = [str(damage) for damage in verify(RealFiles(), data_dir)]
        broken.append(f"the audit does not locate it: {located}")
    files = FaultyFiles()
    try:
        with open_ledger(files, data_dir) as ledger:
            numbers = numbers_of(ledger)
            if numbers != victim.numbers:
                broken.append(f"a wrong state: {numbers}")
            notices = {notice.code for notice in ledger.recovery.notices if notice.is_alert}
            if not notices and name not in {"lock"} and not name.startswith("history/"):
                broken.append("nothing was said of the damage")
            try:
                whole = [frame.payload for frame in ledger.frames_after(0)]
                if whole != [payload(number) for number in victim.numbers]:
                    broken.append("a wrong history")
            except DataDirDamagedError:
                pass
        if recover(data_dir).numbers != victim.numbers:
            broken.append("the second recovery differs")
    except DataDirDamagedError as error:
        if str(data_dir) not in error.message:
            broken.append(f"the refusal does not name the file: {error.message}")
    finally:
        files.abandon()
    return broken


def rot(data_dir: Path, steps: tuple[str, ...], *, bit_share: int, cut_share: int) -> Report:
    """Damage every file of a data dir, one place at a time."""
    report = Report()
    victim = make_victim(data_dir, steps)
    for name in victim.names:
        content = victim.snapshot[name] or b""
        for places, share in ((flips, bit_share), (cuts, cut_share)):
            for where, changed in places(content, share):
                put(data_dir, {**victim.snapshot, name: changed})
                report.add(f"{name}, {where}", judge_rot(data_dir, victim, name))
    return report
