"""Helpers of the monitor tests: fill an event log, read its directory, make file calls fail."""

from __future__ import annotations

import errno
from collections.abc import Callable, Container, Iterable
from pathlib import Path

from crabnet.monitor.events import Event, make_event
from crabnet.monitor.lines import LineScanner, rotated_first_id
from crabnet.monitor.registry import EventKind
from crabnet.monitor.segment import EventLogOptions
from crabnet.monitor.writer import EventLog
from crabnet.storage.files import OpenMode, RealFiles
from crabnet.storage.lock import LockRole

NOW_MS = 1_795_429_130_123
NODE = "12D3KooWExample"
CURRENT = "events.ndjson"
SMALL = EventLogOptions(file_bytes_max=1_000, files_kept=10_000)


def open_log(
    directory: Path,
    *,
    now_ms: int = NOW_MS,
    options: EventLogOptions | None = None,
    files: RealFiles | None = None,
    warn: Callable[[str], None] | None = None,
) -> EventLog:
    """An event log in ``directory``."""
    return EventLog.open(
        RealFiles() if files is None else files,
        directory,
        NODE,
        now_ms=now_ms,
        role=LockRole.NODE,
        program="test",
        options=options,
        warn=warn,
    )


def accepted(seq: int, now_ms: int = NOW_MS) -> Event:
    """An event that can be told from others by ``seq``."""
    return make_event(EventKind.ENVELOPE_ACCEPTED, now_ms, NODE, seq=seq, kind="SeedCreated", seed_id=f"seed-{seq % 3}")


def poisoned(lsn: int, now_ms: int = NOW_MS) -> Event:
    """An alert that can be told from others by ``lsn``."""
    return make_event(EventKind.JOB_FAILED, now_ms, NODE, failures=lsn)


def sequence_of(events: list[Event]) -> list[int]:
    """The numbers that ``accepted`` put into the events; others are left out."""
    return [value for event in events if isinstance(value := event.payload.get("seq"), int)]


class FailingFiles(RealFiles):
    """Lets those calls fail, counted from 1 among the ones that change something, whose numbers are in ``failing``."""

    def __init__(self, failing: Container[int] = (), short: bool = False) -> None:
        self.failing = failing
        self.short = short
        self.calls = 0

    def _fails(self) -> bool:
        self.calls += 1
        return self.calls in self.failing

    def _may_fail(self) -> None:
        if self._fails():
            raise OSError(errno.EIO, "injected failure")

    def open(self, path: Path, mode: OpenMode) -> int:
        if path.suffix == ".ndjson" and mode is not OpenMode.READ:
            self._may_fail()
        return super().open(path, mode)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        if self._fails():
            if self.short:
                return super().pwrite(fd, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().pwrite(fd, data, offset)

    def fdatasync(self, fd: int) -> None:
        self._may_fail()
        super().fdatasync(fd)

    def fsync(self, fd: int) -> None:
        self._may_fail()
        super().fsync(fd)

    def fsync_dir(self, path: Path) -> None:
        self._may_fail()
        super().fsync_dir(path)

    def truncate(self, fd: int, size: int) -> None:
        self._may_fail()
        super().truncate(fd, size)

    def rename(self, source: Path, target: Path) -> None:
        self._may_fail()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._may_fail()
        super().unlink(path)


def fill(log: EventLog, numbers: Iterable[int]) -> None:
    """Put one event for each number."""
    for number in numbers:
        log.put(accepted(number))


def assert_gap_free(events: list[Event]) -> None:
    """Ids count from 1 without gaps."""
    assert [event.id for event in events] == list(range(1, len(events) + 1))


def kinds_of(events: list[Event]) -> list[str]:
    """The kinds of the events."""
    return [event.kind for event in events]


def scan(directory: Path) -> list[Event]:
    """All events by the plainest way: every file from its beginning to its end."""
    firsts = [(first, path) for path in directory.iterdir() if (first := rotated_first_id(path.name))]
    events: list[Event] = []
    for path in [path for _, path in sorted(firsts)] + [directory / CURRENT]:
        scanner = LineScanner()
        content = path.read_bytes() if path.exists() else b""
        for event in scanner.feed(content) + scanner.finish():
            if not events or event.id > events[-1].id:
                events.append(event)
    return events


def damaged_lines(directory: Path) -> int:
    """Lines of the event files that are no events."""
    damaged = 0
    for path in [*directory.glob("events-[1-9]*.ndjson"), directory / CURRENT]:
        scanner = LineScanner()
        scanner.feed(path.read_bytes() if path.exists() else b"")
        damaged += scanner.damaged_lines
    return damaged
