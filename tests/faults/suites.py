"""Faults at every file call, alone and in pairs. Each suite counts its cases and says which broke a promise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.seam import READS, Fault, FaultyFiles, applies
from tests.faults.workload import APPEND, CHECKPOINT, STEPS, Snapshot, Trail, judge, put, run_to_the_end, take


class CaughtError(Exception):
    """A suite that hunts for one broken promise has found it."""


@dataclass
class Report:
    """How many cases ran, and the broken promises; ``hunting`` ends at the first one, with ``CaughtError``."""

    cases: int = 0
    broken: list[str] = field(default_factory=list)
    hunting: bool = False

    def add(self, case: str, broken: list[str]) -> None:
        self.cases += 1
        self.broken += [f"{case}: {each}" for each in broken]
        if self.hunting and broken:
            raise CaughtError(self.broken[0])


def calls_of(snapshot: Snapshot, data_dir: Path, steps: tuple[str, ...]) -> list[tuple[str, Path]]:
    """The file calls of a run without faults."""
    put(data_dir, snapshot)
    files = FaultyFiles()
    run_to_the_end(files, data_dir, Trail(), steps)
    return files.calls


def plans(calls: list[tuple[str, Path]]) -> Iterator[tuple[int, str, Fault]]:
    """Every fault at every call that it makes sense for."""
    for number, (name, _) in enumerate(calls, start=1):
        yield from ((number, name, fault) for fault in Fault if applies(fault, name))


def single_faults(data_dir: Path, *, hunting: bool = False) -> Report:
    """One fault at every call of a whole life, from the first opening to the close."""
    report = Report(hunting=hunting)
    for number, name, fault in plans(calls_of({}, data_dir, STEPS)):
        put(data_dir, {})
        trail = Trail()
        files = FaultyFiles({number: fault})
        run_to_the_end(files, data_dir, trail)
        report.add(f"{fault.value} at call {number} ({name})", judge(data_dir, trail, damage_allowed=name in READS))
    return report


def crash_sites(data_dir: Path) -> list[tuple[str, Snapshot, Trail]]:
    """The different data dirs that single faults leave behind."""
    found: dict[tuple[object, ...], tuple[str, Snapshot, Trail]] = {}
    for number, name, fault in plans(calls_of({}, data_dir, STEPS)):
        put(data_dir, {})
        trail = Trail()
        run_to_the_end(FaultyFiles({number: fault}), data_dir, trail)
        snapshot = take(data_dir)
        key = (tuple(snapshot.items()), len(trail.acknowledged), len(trail.attempted))
        found.setdefault(key, (f"{fault.value} at call {number} ({name})", snapshot, trail))
    return list(found.values())


def paired_faults(data_dir: Path, *, share: int = 1, part: int = 0, hunting: bool = False) -> Report:
    """A fault, and a second one at every call of the next opening, an append and a checkpoint.

    With ``share`` n, part ``part`` of n of all pairs.
    """
    report = Report(hunting=hunting)
    next_steps = (APPEND, CHECKPOINT)
    for index, (first, snapshot, before) in enumerate(crash_sites(data_dir)):
        calls = calls_of(snapshot, data_dir, next_steps)
        for turn, (number, name, fault) in enumerate(plans(calls)):
            if (turn + index) % share != part:
                continue
            put(data_dir, snapshot)
            trail = Trail(list(before.attempted), list(before.acknowledged))
            run_to_the_end(FaultyFiles({number: fault}), data_dir, trail, next_steps)
            case = f"{first}, then {fault.value} at call {number} ({name})"
            report.add(case, judge(data_dir, trail, damage_allowed=True))
    return report
