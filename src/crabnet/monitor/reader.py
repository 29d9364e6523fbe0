"""Reads events from current and rotated files, without locks and beside a running writer. Skips damaged lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from crabnet.limits import EVENT_LINE_BYTES_MAX
from crabnet.monitor.events import Event
from crabnet.monitor.lines import CURRENT_NAME, LineScanner, rotated_first_id, rotated_name
from crabnet.storage.files import Files, OpenMode, RealFiles, read_chunks

_FILES: Final = RealFiles()


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are wanted. ``None`` wants all.

    ``reasons`` and ``seed_id`` compare payload fields. ``since_s`` is a time in seconds.
    """

    kinds: Collection[str] | None = None
    severities: Collection[str] | None = None
    reasons: Collection[str] | None = None
    seed_id: str | None = None
    since_s: int = 0

    def matches(self, event: Event) -> bool:
        """Whether ``event`` is wanted."""
        return (
            (self.kinds is None or event.kind in self.kinds)
            and (self.severities is None or event.severity in self.severities)
            and (self.reasons is None or event.payload.get("reason") in self.reasons)
            and (self.seed_id is None or event.payload.get("seed_id") == self.seed_id)
            and event.ts >= self.since_s
        )


@dataclass(slots=True)
class ReadStats:
    """Statistics of one reading."""

    last_id: int = 0
    """Highest id that was read, wanted or not. The next page starts after it."""
    damaged_lines: int = 0
    """Lines that are not events, in the files that were read."""
    torn_bytes: int = 0
    """Bytes at the end of the current file that are not an event, or not a complete one yet."""


@dataclass(frozen=True, slots=True)
class EventPage:
    """The result of ``read_events``: wanted events by increasing id. ``more`` is true if a limit has cut them."""

    events: list[Event]
    more: bool
    stats: ReadStats = field(default_factory=ReadStats)


def read_events(
    directory: Path,
    since_id: int = 0,
    *,
    kinds: Collection[str] | None = None,
    severities: Collection[str] | None = None,
    reasons: Collection[str] | None = None,
    seed_id: str | None = None,
    limit: int | None = None,
    newest: bool = False,
) -> EventPage:
    """Read the wanted events with an id above ``since_id``: the first ``limit`` of them, or with ``newest`` the last.

    A directory without event files gives an empty page. Raises ``OSError`` if an existing file cannot be read.
    """
    wanted = EventFilter(kinds, severities, reasons, seed_id)
    return read_page(directory, wanted, since_id, limit=limit, newest=newest)


def read_page(
    directory: Path, wanted: EventFilter, since_id: int = 0, *, limit: int | None = None, newest: bool = False
) -> EventPage:
    """Like ``read_events``, with a filter."""
    stats = ReadStats(last_id=since_id)
    matching = (event for event in scan_events(directory, since_id, stats=stats) if wanted.matches(event))
    if limit is None:
        return EventPage(list(matching), False, stats)
    if newest:
        last: deque[Event] = deque(maxlen=limit)
        seen = 0
        for event in matching:
            last.append(event)
            seen += 1
        return EventPage(list(last), seen > limit, stats)
    events: list[Event] = []
    for event in matching:
        if len(events) == limit:
            stats.last_id = events[-1].id if events else since_id
            return EventPage(events, True, stats)
        events.append(event)
    return EventPage(events, False, stats)


def scan_events(
    directory: Path, since_id: int = 0, *, stats: ReadStats | None = None, files: Files = _FILES
) -> Iterator[Event]:
    """All existing events with an id above ``since_id``, by increasing id. Raises ``OSError``."""
    stats = ReadStats() if stats is None else stats
    stats.last_id = since_id
    with _Tail(files, directory) as tail:
        yield from _older_events(files, directory, tail, stats)
        yield from tail.read(stats)


def follow(
    directory: Path, since_id: int = 0, wanted: EventFilter | None = None, *, files: Files = _FILES
) -> Iterator[Event | None]:
    """Yields events with an id above ``since_id`` without end, and ``None`` whenever there is no new event.

    The caller decides how long it waits after a ``None``. Works across rotation and repair, and if the log does not
    exist yet. Closing the generator closes the file. Raises ``OSError`` if a file cannot be read.
    """
    wanted = EventFilter() if wanted is None else wanted
    stats = ReadStats(last_id=since_id)
    while True:
        before = stats.last_id
        with _Tail(files, directory) as tail:
            for event in _older_events(files, directory, tail, stats):
                if wanted.matches(event):
                    yield event
            replaced, first_look = False, True
            while not replaced:
                # check this before the last read: so all that was written before a rotation is read
                replaced = tail.replaced()
                for event in tail.read(stats):
                    if wanted.matches(event):
                        yield event
                # if the file was replaced, open the new one before yielding None; but avoid a tight loop
                if stats.last_id == before and (first_look or not replaced):
                    yield None
                before, first_look = stats.last_id, False


class _Tail:
    """The current file. It is opened before the rotated files are listed, so that a rotation hides no event."""

    def __init__(self, files: Files, directory: Path) -> None:
        self._files = files
        self._directory = directory
        self._path = directory / CURRENT_NAME
        self._offset = 0
        self._end = 0
        self._first_id: int | None = None
        try:
            self._fd: int | None = files.open(self._path, OpenMode.READ)
        except FileNotFoundError:
            self._fd = None

    def __enter__(self) -> _Tail:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            self._files.close(self._fd)
            self._fd = None

    def peek(self) -> int | None:
        """The first id in the file, if there is a readable event near its beginning."""
        if self._first_id is None and self._fd is not None:
            scanner = LineScanner()
            events = scanner.feed(self._files.pread(self._fd, EVENT_LINE_BYTES_MAX, 0)) + scanner.finish()
            self._first_id = events[0].id if events else None
        return self._first_id

    def replaced(self) -> bool:
        """Whether another file has replaced the open one, or the open file was cut."""
        if self._fd is None:
            return True
        first_id = self.peek()
        if first_id is not None and rotated_name(first_id) in self._files.listdir(self._directory):
            return True
        size = self._files.size(self._path)
        if size is None or size < self._end:
            return True
        # the open file only grows: if it is shorter than the file with this name, that is another file
        return size > 0 and not self._files.pread(self._fd, 1, size - 1)

    def read(self, stats: ReadStats) -> Iterator[Event]:
        """New events since the last call. It continues after the last valid line, so an incomplete line is harmless."""
        if self._fd is None:
            return
        scanner = LineScanner()
        start = self._offset
        self._end = start
        for chunk in read_chunks(self._files, self._fd, start):
            self._end += len(chunk)
            yield from _new_events(scanner.feed(chunk), stats)
        yield from _new_events(scanner.finish(), stats)
        self._offset = start + scanner.valid_end
        stats.torn_bytes = self._end - self._offset
        stats.damaged_lines += scanner.damaged_lines


def _older_events(files: Files, directory: Path, tail: _Tail, stats: ReadStats) -> Iterator[Event]:
    """Events of the rotated files. Files that end at or before ``stats.last_id`` are skipped."""
    rotated = sorted(first for name in files.listdir(directory) if (first := rotated_first_id(name)))
    for number, first_id in enumerate(rotated):
        next_id = rotated[number + 1] if number + 1 < len(rotated) else tail.peek()
        if next_id is not None and next_id > first_id and next_id <= stats.last_id + 1:
            continue
        try:
            fd = files.open(directory / rotated_name(first_id), OpenMode.READ)
        except FileNotFoundError:
            continue
        try:
            scanner = LineScanner()
            for chunk in read_chunks(files, fd):
                yield from _new_events(scanner.feed(chunk), stats)
            yield from _new_events(scanner.finish(), stats)
            stats.damaged_lines += scanner.damaged_lines
        finally:
            files.close(fd)


def _new_events(events: list[Event], stats: ReadStats) -> Iterator[Event]:
    for event in events:
        if event.id > stats.last_id:
            stats.last_id = event.id
            yield event
