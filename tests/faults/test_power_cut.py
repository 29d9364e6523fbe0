"""Every state that a power cut could leave recovers to what was acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.powercut import power_cuts, record
from tests.faults.suites import Report
from tests.faults.workload import scratch


@pytest.fixture(name="data_dir")
def _data_dir() -> Iterator[Path]:
    with scratch() as directory:
        yield directory / "data"


def test_power_cuts_during_one_life(data_dir: Path) -> None:
    report = power_cuts(data_dir, record(data_dir, 1))
    print(f"power cuts: {report.cases} different states, {len(report.broken)} broken promises")
    assert report.broken == []
    assert report.cases >= 200


def test_power_cuts_after_a_restart(data_dir: Path) -> None:
    report = power_cuts(data_dir, record(data_dir, 3), share=3)
    print(f"power cuts over three lives: {report.cases} states, {len(report.broken)} broken promises")
    assert report.broken == []
    assert report.cases >= 200


def failed_syncs(data_dir: Path, share: int) -> Report:
    """Power cuts in the life after a failed fsync: what reading still shows may never reach the disk."""
    total = Report()
    for number in range(1, record(data_dir, 1).syncs + 1):
        files = record(data_dir, 2, frozenset({number}))
        failed_at = next(index for index, event in enumerate(files.events) if event.failed_inode is not None)
        report = power_cuts(data_dir, files, from_event=failed_at, share=share)
        total.cases += report.cases
        total.broken += [f"fsync {number} failed, {each}" for each in report.broken]
    return total


@pytest.mark.deep
def test_power_cuts_after_a_failed_fsync(data_dir: Path) -> None:
    report = failed_syncs(data_dir, share=8)
    print(f"power cuts after a failed fsync: {report.cases} states, {len(report.broken)} broken promises")
    assert report.broken == []
    assert report.cases >= 200


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_all_power_cuts_after_a_failed_fsync(data_dir: Path) -> None:
    report = failed_syncs(data_dir, share=1)
    print(f"power cuts after a failed fsync: {report.cases} states, {len(report.broken)} broken promises")
    assert report.broken == []
    assert report.cases >= 2_000
