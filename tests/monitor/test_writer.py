"""The event log: ids without gaps over restarts, rotations, crashes and failing disks; one writer; never blocking."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.errors import DataDirBusyError
from crabnet.monitor.events import Event
from crabnet.monitor.reader import read_events
from crabnet.monitor.registry import EventKind
from crabnet.monitor.segment import EventLogOptions
from crabnet.storage.files import RealFiles
from tests.monitor.support import (
    CURRENT,
    NOW_MS,
    SMALL,
    accepted,
    assert_gap_free,
    damaged_lines,
    fill,
    kinds_of,
    open_log,
    poisoned,
    sequence_of,
)


def test_events_are_written_in_order_with_ids_from_one(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    fill(log, range(1_500))
    report = log.flush(NOW_MS)
    log.close(NOW_MS)
    page = read_events(tmp_path)
    assert (report.written, report.last_id, report.error) == (1_500, 1_500, None)
    assert_gap_free(page.events)
    assert sequence_of(page.events) == list(range(1_500))


def test_nothing_is_written_before_flush_and_close_writes(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    fill(log, range(3))
    assert read_events(tmp_path).events == []
    assert log.queued == 3
    log.close(NOW_MS)
    assert sequence_of(read_events(tmp_path).events) == [0, 1, 2]


@given(st.lists(st.tuples(st.sampled_from(["put", "flush", "reopen", "crash"]), st.integers(0, 400)), max_size=25))
def test_ids_are_given_once_over_restarts_rotations_and_crashes(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        log = open_log(directory, options=SMALL)
        number, shown = 0, list[list[Event]]()
        for step, amount in steps:
            shown.append(read_events(directory).events)
            if step == "put":
                fill(log, range(number, number + amount % 20))
                number += amount % 20
            elif step == "flush":
                assert log.flush(NOW_MS).error is None
            else:
                log.close(NOW_MS)
                current = directory / CURRENT
                if step == "crash":
                    size = current.stat().st_size
                    os.truncate(current, max(min(size, 1), size - amount))
                log = open_log(directory, options=SMALL)
        log.close(NOW_MS)
        page = read_events(directory)
        shown.append(page.events)
        assert damaged_lines(directory) == 0
        ids: dict[int, Event] = {}
        for event in [event for events in shown for event in events]:
            assert ids.setdefault(event.id, event) == event  # no id is given twice, not even after events were lost
        if all(step != "crash" for step, _ in steps):
            assert_gap_free(page.events)
        numbers = sequence_of(page.events)
        assert numbers == sorted(set(numbers))
        if all(step != "crash" for step, _ in steps):
            assert numbers == list(range(number))


def test_truncation_at_every_byte_keeps_all_whole_lines(tmp_path: Path) -> None:
    source = tmp_path / "source"
    log = open_log(source)
    fill(log, range(4))
    log.close(NOW_MS)
    data = (source / CURRENT).read_bytes()
    for size in range(len(data) + 1):
        directory = tmp_path / str(size)
        directory.mkdir()
        (directory / CURRENT).write_bytes(data[:size])
        whole = data[:size].count(b"\n")
        torn = size > 0 and not data[:size].endswith(b"\n")
        log = open_log(directory)
        log.put(accepted(99))
        log.close(NOW_MS)
        events = read_events(directory).events
        assert_gap_free(events)
        assert sequence_of(events) == [*range(whole), 99]
        assert (kinds_of(events).count(EventKind.EVENTS_REPAIRED) == 1) is torn
        if torn and whole:
            assert events[whole].payload == {
                "file": CURRENT,
                "offset": data[:size].rindex(b"\n") + 1,
                "bytes": size - data[:size].rindex(b"\n") - 1,
                "action": "cut",
            }


@pytest.mark.parametrize(
    "junk", [b"\0" * 5_000, b"junk\nmore junk", b"x\n", b'{"id":3}\n', b"y" * 600_000, b"z\n" * 300_000]
)
def test_what_is_more_than_a_torn_line_is_kept_aside(tmp_path: Path, junk: bytes) -> None:
    log = open_log(tmp_path)
    fill(log, range(2))
    log.close(NOW_MS)
    with (tmp_path / CURRENT).open("ab") as file:
        file.write(junk)
    log = open_log(tmp_path)
    fill(log, [2])
    log.close(NOW_MS)
    page = read_events(tmp_path)
    assert_gap_free(page.events)
    assert sequence_of(page.events) == [0, 1, 2]
    assert page.events[2].payload["action"] == "kept_aside"
    assert damaged_lines(tmp_path) == 0
    (aside,) = tmp_path.glob("events-aside-*.ndjson")
    assert aside.read_bytes() == junk
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b'{"ts":1795429128,"node_id":"node-1","kind":"node_start","source":"node","payload":{"network":"Udp"}}\n' * 3,
        b"\0" * 4096,
        b"not an event\n",
    ],
    ids=["baseline", "zeros", "text"],
)
def test_a_file_of_another_format_is_kept_aside_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CURRENT).write_bytes(content)
    log = open_log(tmp_path)
    fill(log, [0])
    log.close(NOW_MS)
    events = read_events(tmp_path).events
    assert kinds_of(events) == [EventKind.EVENTS_REPAIRED, EventKind.ENVELOPE_ACCEPTED]
    assert_gap_free(events)
    (aside,) = tmp_path.glob("events-aside-*.ndjson")
    assert aside.read_bytes() == content


def test_a_current_file_older_than_the_rotated_ones_is_kept_aside(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    fill(log, range(5))
    log.close(NOW_MS)
    (tmp_path / "events-1.ndjson").write_bytes((tmp_path / CURRENT).read_bytes())
    log = open_log(tmp_path)
    fill(log, [5])
    log.close(NOW_MS)
    assert_gap_free(read_events(tmp_path).events)
    assert sequence_of(read_events(tmp_path).events) == [0, 1, 2, 3, 4, 5]
    assert len(list(tmp_path.glob("events-aside-*.ndjson"))) == 1


def test_rotation_by_size_keeps_the_newest_files(tmp_path: Path) -> None:
    options = EventLogOptions(file_bytes_max=2_000, files_kept=3)
    log = open_log(tmp_path, options=options)
    for number in range(200):
        fill(log, [number])
        log.flush(NOW_MS)
    log.close(NOW_MS)
    files = sorted(path.name for path in tmp_path.glob("events*.ndjson"))
    assert len(files) == 4
    for path in tmp_path.glob("events*.ndjson"):
        assert path.stat().st_size <= 2_000
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ids = [event.id for event in read_events(tmp_path).events]
    assert ids == list(range(ids[0], 201))
    log = open_log(tmp_path, options=options)
    assert log.gauges(NOW_MS).last_id == 200
    log.close(NOW_MS)


def test_rotation_by_age(tmp_path: Path) -> None:
    options = EventLogOptions(file_age_ms_max=60_000)
    log = open_log(tmp_path, options=options)
    log.put(accepted(0, NOW_MS))
    log.flush(NOW_MS)
    log.put(accepted(1, NOW_MS + 59_999))
    log.flush(NOW_MS + 59_999)
    assert not (tmp_path / "events-1.ndjson").exists()
    log.close(NOW_MS)
    log = open_log(tmp_path, options=options, now_ms=NOW_MS + 60_000)
    log.put(accepted(2, NOW_MS + 60_000))
    log.flush(NOW_MS + 60_000)
    log.close(NOW_MS + 60_000)
    assert sequence_of(read_events(tmp_path).events) == [0, 1, 2]
    assert (tmp_path / "events-1.ndjson").read_bytes().count(b"\n") == 2


def test_crash_between_rename_and_new_file(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    fill(log, range(3))
    log.close(NOW_MS)
    (tmp_path / CURRENT).rename(tmp_path / "events-1.ndjson")
    log = open_log(tmp_path)
    fill(log, [3])
    log.close(NOW_MS)
    assert_gap_free(read_events(tmp_path).events)
    assert sequence_of(read_events(tmp_path).events) == [0, 1, 2, 3]


def test_full_queue_drops_the_oldest_and_tells_how_many(tmp_path: Path) -> None:
    log = open_log(tmp_path, options=EventLogOptions(queue_max=4))
    log.put(poisoned(1))
    fill(log, range(10))
    log.close(NOW_MS)
    events = read_events(tmp_path).events
    assert_gap_free(events)
    assert kinds_of(events)[:2] == [EventKind.EVENTS_DROPPED, EventKind.JOB_FAILED]
    assert events[0].payload == {"count": 7, "lost": 0}
    assert sequence_of(events) == [7, 8, 9]
    assert (log.gauges(NOW_MS).dropped, log.gauges(NOW_MS).dropped_alerts) == (7, 0)


def test_alert_asks_for_a_flush_at_once(tmp_path: Path) -> None:
    log = open_log(tmp_path, options=EventLogOptions(queue_max=100))
    woken: list[int] = []
    log.wake = lambda: woken.append(log.queued)
    fill(log, range(24))
    assert (woken, log.flush_due) == ([], False)
    log.put(poisoned(0))
    assert (woken, log.flush_due) == ([25], True)
    log.flush(NOW_MS)
    assert log.flush_due is False
    fill(log, range(25))
    assert (woken, log.flush_due) == ([25, 25], True)
    log.close(NOW_MS)


def test_only_alerts_are_made_durable_at_once(tmp_path: Path) -> None:
    class Counting(RealFiles):
        syncs = 0

        def fdatasync(self, fd: int) -> None:
            self.syncs += 1
            super().fdatasync(fd)

    files = Counting()
    log = open_log(tmp_path, files=files)
    fill(log, range(5))
    log.flush(NOW_MS)
    assert files.syncs == 0
    log.emit(EventKind.FORK_DETECTED, NOW_MS, author="a", seq=1)
    fill(log, range(5))
    log.flush(NOW_MS)
    assert files.syncs == 1
    log.close(NOW_MS)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"")
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / CURRENT).symlink_to(target)
    log = open_log(directory, warn=lambda _: None)
    fill(log, [0])
    assert log.flush(NOW_MS).error is not None
    log.close(NOW_MS)
    assert target.read_bytes() == b""


def test_second_writer_fails_at_once_and_names_the_holder(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    with pytest.raises(DataDirBusyError, match=f"pid {os.getpid()}"):
        open_log(tmp_path)
    log.close(NOW_MS)
    open_log(tmp_path).close(NOW_MS)
    assert (tmp_path / "events.lock").exists()


_WRITER = """
import sys
from pathlib import Path
from crabnet.monitor.registry import EventKind
from crabnet.monitor.segment import EventLogOptions
from crabnet.monitor.writer import EventLog
from crabnet.storage.files import RealFiles

options = EventLogOptions(file_bytes_max=20_000, files_kept=10_000)
log = EventLog.open(RealFiles(), Path(sys.argv[1]), "node", now_ms=1, options=options)
seq = 0
while True:
    for _ in range(7):
        seq += 1
        log.emit(EventKind.ENVELOPE_ACCEPTED, 1, seq=seq)
    log.flush(1)
    print(log.gauges(1).last_id, flush=True)
"""


def test_killed_writer_leaves_no_stale_lock_and_no_gap(tmp_path: Path) -> None:
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for _ in range(60):
                last_flushed = int(child.stdout.readline())
            with pytest.raises(DataDirBusyError, match=f"pid {child.pid}"):
                open_log(tmp_path)
            child.send_signal(signal.SIGKILL)
        events = read_events(tmp_path).events
        assert_gap_free(events)
        assert len(events) >= last_flushed
    log = open_log(tmp_path, options=EventLogOptions(files_kept=10_000))
    assert log.gauges(NOW_MS).last_id >= last_flushed
    log.close(NOW_MS)
    assert_gap_free(read_events(tmp_path).events)
