"""The event log when the disk fails: no event is lost, nothing stops, and it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from crabnet.errors import StorageFailedError
from crabnet.monitor.reader import read_events
from crabnet.monitor.registry import EventKind
from crabnet.monitor.segment import EventLogOptions
from tests.monitor.support import (
    CURRENT,
    NOW_MS,
    SMALL,
    FailingFiles,
    assert_gap_free,
    damaged_lines,
    fill,
    open_log,
    poisoned,
    sequence_of,
)


def _scenario(directory: Path, files: FailingFiles) -> list[str]:
    """Open, fill, rotate, repair, alert, close; goes on after every failure. Returns what was said about failures."""
    said: list[str] = []
    for session in range(2):
        try:
            log = open_log(directory, options=SMALL, files=files, warn=said.append)
        except StorageFailedError:
            log = open_log(directory, options=SMALL, files=files, warn=said.append)
        for part in range(3):
            start = session * 100 + part * 10
            fill(log, range(start, start + 7))
            log.flush(NOW_MS)
        log.put(poisoned(session))
        for _ in range(8):
            if log.flush(NOW_MS).error is None and not log.queued:
                break
        assert not log.gauges(NOW_MS).failing
        log.close(NOW_MS)
        with (directory / CURRENT).open("ab") as file:
            file.write(b'{"torn":')
    return said


def _check_scenario(directory: Path, said: list[str]) -> None:
    page = read_events(directory)
    assert_gap_free(page.events)
    assert damaged_lines(directory) == 0
    expected = [session * 100 + part * 10 + n for session in range(2) for part in range(3) for n in range(7)]
    assert sequence_of(page.events) == expected
    assert [event.payload["failures"] for event in page.events if event.kind == EventKind.JOB_FAILED] == [0, 1]
    for event in page.events:
        if event.kind == EventKind.EVENTS_WRITE_FAILED:
            assert event.payload["detail"]
    assert len([line for line in said if "cannot be written" in line]) >= len(
        [event for event in page.events if event.kind == EventKind.EVENTS_WRITE_FAILED]
    )


@pytest.mark.parametrize("failures", [1, 2, 5])
@pytest.mark.parametrize("short", [False, True], ids=["error", "short-write"])
def test_any_failing_file_call_costs_no_event(tmp_path: Path, failures: int, short: bool) -> None:
    clean = FailingFiles()
    undisturbed = tmp_path / "clean"
    assert _scenario(undisturbed, clean) == []
    _check_scenario(undisturbed, [])
    told = 0
    for fail_at in range(1, clean.calls + 1):
        directory = tmp_path / str(fail_at)
        files = FailingFiles(range(fail_at, fail_at + failures), short)
        try:
            said = _scenario(directory, files)
        except StorageFailedError:
            # the lock could not be taken twice running: nothing was written without it
            assert failures > 1
            continue
        _check_scenario(directory, said)
        told += bool(said)
    print(f"{clean.calls} failing calls tried, {told} told to the operator")
    assert told > clean.calls // 2


@pytest.mark.parametrize("distance", range(1, 6))
def test_two_short_writes_in_a_large_batch_cost_no_event(tmp_path: Path, distance: int) -> None:
    files = FailingFiles(short=True)
    log = open_log(tmp_path, files=files, warn=lambda _: None)
    fill(log, range(2_000))
    files.failing = {files.calls + 1, files.calls + 1 + distance}
    while log.queued:
        log.flush(NOW_MS)
    log.close(NOW_MS)
    events = read_events(tmp_path).events
    assert_gap_free(events)
    assert sequence_of(events) == list(range(2_000))


def test_a_disk_that_stays_full_stops_nothing_and_bounds_memory(tmp_path: Path) -> None:
    said: list[str] = []
    files = FailingFiles()
    log = open_log(tmp_path, files=files, options=EventLogOptions(queue_max=10), warn=said.append)
    files.failing = range(files.calls + 1, 10**9)
    for number in range(100):
        fill(log, [number])
        assert log.flush(NOW_MS).error is not None
    status = log.gauges(NOW_MS)
    assert status.failing
    assert status.write_failures == 100
    assert status.last_error
    assert status.queued <= 20
    assert len(said) == 1
    assert CURRENT in said[0]
    files.failing = ()
    while log.flush(NOW_MS).written:
        pass
    log.close(NOW_MS)
    assert len(said) == 2
    events = read_events(tmp_path).events
    assert_gap_free(events)
    dropped = [event.payload["count"] for event in events if event.kind == EventKind.EVENTS_DROPPED]
    failed = [event.payload["failures"] for event in events if event.kind == EventKind.EVENTS_WRITE_FAILED]
    assert failed == [100]
    assert len(sequence_of(events)) + sum(count for count in dropped if isinstance(count, int)) == 100
    assert sequence_of(events)[-1] == 99


def test_unwritable_file_is_no_error_of_open(tmp_path: Path) -> None:
    (tmp_path / CURRENT).mkdir()
    said: list[str] = []
    log = open_log(tmp_path, warn=said.append)
    fill(log, [0])
    assert log.flush(NOW_MS).error is not None
    (tmp_path / CURRENT).rmdir()
    assert log.flush(NOW_MS).error is None
    log.close(NOW_MS)
    assert sequence_of(read_events(tmp_path).events) == [0]
    assert len(said) == 2


def test_failure_is_told_on_stderr_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / CURRENT).mkdir()
    open_log(tmp_path).close(NOW_MS)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "events cannot be written" in captured.err
