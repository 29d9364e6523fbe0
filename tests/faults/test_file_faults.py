"""Every file call fails, is cut short or is the last one: nothing acknowledged is lost, nothing is invented."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.seam import Fault, FaultyFiles
from tests.faults.suites import Report, calls_of, paired_faults, plans, single_faults
from tests.faults.workload import STEPS, Trail, put, run_to_the_end, scratch


@pytest.fixture(name="data_dir")
def _data_dir() -> Iterator[Path]:
    with scratch() as directory:
        yield directory / "data"


def check(report: Report, what: str, cases_min: int) -> None:
    print(f"{what}: {report.cases} cases, {len(report.broken)} broken promises")
    assert report.broken == []
    assert report.cases >= cases_min


def test_a_run_without_faults_keeps_every_promise(data_dir: Path) -> None:
    put(data_dir, {})
    trail = Trail()
    run_to_the_end(FaultyFiles(), data_dir, trail)
    assert trail.acknowledged == list(range(1, 8))
    assert trail.violations == []


def test_the_enumeration_meets_every_kind_of_call_and_fault(data_dir: Path) -> None:
    calls = calls_of({}, data_dir, STEPS)
    assert {name for name, _ in calls} >= {
        *("open", "close", "pread", "pwrite", "fsync", "fdatasync"),
        *("rename", "mkdir", "fsync_dir", "try_lock", "allocate"),
    }
    assert {fault for _, _, fault in plans(calls)} == set(Fault)


def test_single_faults(data_dir: Path) -> None:
    check(single_faults(data_dir), "single faults", 400)


@pytest.mark.deep
def test_pairs_of_faults(data_dir: Path) -> None:
    check(paired_faults(data_dir, share=40), "pairs of faults, a sample", 500)


@pytest.mark.deep
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(4))
def test_all_pairs_of_faults(data_dir: Path, part: int) -> None:
    report = paired_faults(data_dir, share=4, part=part)
    check(report, f"pairs of faults, part {part + 1} of 4", 5_000)
