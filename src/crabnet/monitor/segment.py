"""The event files on disk: appending, repair of a torn end, rotation. Errors are plain ``OSError``.

Events are appended to ``events.ndjson``. When it is large or old enough, it is renamed to ``events-<first id>.ndjson``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crabnet.limits import (
    EVENT_FILE_AGE_MS_MAX_DEFAULT,
    EVENT_FILE_BYTES_MAX_DEFAULT,
    EVENT_FILES_KEPT_DEFAULT,
    EVENT_LINE_BYTES_MAX,
    EVENT_QUEUE_MAX,
    EVENTS_KEPT_MS_DEFAULT,
    EVENTS_TIDY_MS,
    INTEGER_MAX,
)
from crabnet.monitor.events import Event
from crabnet.monitor.lines import (
    CURRENT_NAME,
    LineScanner,
    aside_moment_ms,
    aside_name,
    rotated_first_id,
    rotated_name,
)
from crabnet.storage.files import Files, OpenMode, opened, read_chunks, read_whole, write_all
from crabnet.storage.origin import place_of

_FIRST_CHUNK_BYTES: Final = 8 * 1024
LAST_NAME: Final = "events.last"
"""Contains the id of the last event. Ids continue from it if the files with that event are gone."""
_LAST_BYTES: Final = 21


@dataclass(frozen=True, slots=True)
class EventLogOptions:
    """When a file is full, how many full files are kept and for how long, and how many events may wait in the queue.

    ``kept_ms`` counts from the last event of a file, 0 means any time. The newest full file stays while the current one
    is empty, because ids continue from it.
    """

    file_bytes_max: int = EVENT_FILE_BYTES_MAX_DEFAULT
    file_age_ms_max: int = EVENT_FILE_AGE_MS_MAX_DEFAULT
    files_kept: int = EVENT_FILES_KEPT_DEFAULT
    kept_ms: int = EVENTS_KEPT_MS_DEFAULT
    queue_max: int = EVENT_QUEUE_MAX


@dataclass(frozen=True, slots=True)
class Repair:
    """A repair. ``action`` says which one.

    ``cut`` and ``kept_aside`` concern bytes at the end of a file that were not events. ``moved``, ``truncated`` and
    ``extended`` concern a file that another program has changed.
    """

    file: str
    offset: int
    bytes: int
    action: str


@dataclass(frozen=True, slots=True)
class _Tail:
    """The readable end of an event file. ``last_ms`` is the time of the last event."""

    last_id: int
    last_ms: int
    valid_end: int
    size: int


class EventFile:
    """The file to which events are written. The caller holds the lock of the event log and uses only one thread."""

    def __init__(self, files: Files, directory: Path, options: EventLogOptions) -> None:
        self._files = files
        self._directory = directory
        self._path = directory / CURRENT_NAME
        self._options = options
        self._fd: int | None = None
        self._size = 0
        self._first: Event | None = None
        self._inode = 0
        self._last_fd: int | None = None
        self._tidied_ms: int | None = None
        self._ends_ms: dict[int, int] = {}
        self.last_id = 0
        """Id of the last event on disk; 0 if there is none."""

    @property
    def attached(self) -> bool:
        """Whether the file is open for appending."""
        return self._fd is not None

    @property
    def size(self) -> int:
        """Bytes in the current file."""
        return self._size

    def attach(self, now_ms: int) -> Repair | None:
        """Open the file, find the last event, and repair what a crash or a disk error left after it."""
        self.detach()
        before = self._last_rotated_id()
        self._open(new=self._files.size(self._path) is None)
        try:
            return self._inspect(before, now_ms)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Close the file. The next ``attach`` checks its last bytes."""
        (fd, self._fd), (last_fd, self._last_fd) = (self._fd, None), (self._last_fd, None)
        if last_fd is not None:
            with suppress(OSError):
                self._files.close(last_fd)
        if fd is not None:
            self._files.close(fd)

    def look(self, now_ms: int) -> Repair | None:
        """Find changes of the open file by other programs since the last write. After a change, reopen the file."""
        place, size, known = place_of(self._path), self._files.size(self._path) or 0, self._size
        if place is not None and place.inode == self._inode and size == known:
            return None
        action = "moved" if place is None or place.inode != self._inode else "extended"
        action = "truncated" if action == "extended" and size < known else action
        return self.attach(now_ms) or Repair(CURRENT_NAME, min(size, known), abs(size - known), action)

    def append(self, data: bytes, events: Sequence[Event]) -> None:
        """Append the lines ``data`` of ``events``, which follow ``last_id``."""
        self._size = write_all(self._files, self._open_fd(), data, self._size)
        self.last_id = events[-1].id
        if self._first is None:
            self._first = events[0]
        with suppress(OSError):  # the events themselves contain it, too
            self._note_id()

    def sync(self) -> None:
        """Make all appended events durable."""
        self._files.fdatasync(self._open_fd())

    def rotate_if_due(self, next_bytes: int, now_ms: int) -> None:
        """Start a new file if ``next_bytes`` do not fit any more or the first event is too old."""
        first = self._first
        if first is None:
            return
        fits = self._size + next_bytes <= self._options.file_bytes_max
        if fits and now_ms - first.ts_ms < self._options.file_age_ms_max:
            return
        self.sync()
        self._rotate(first.id)
        self._prune(now_ms)

    def tidy(self, now_ms: int) -> None:
        """Rotate a file that is too old although no event comes, and delete rotated files that are too old.

        It looks every EVENTS_TIDY_MS.
        """
        if self._tidied_ms is None or abs(now_ms - self._tidied_ms) >= EVENTS_TIDY_MS:
            self._tidied_ms = now_ms
            self.rotate_if_due(0, now_ms)
            self._prune_old(now_ms)

    def _rotate(self, first_id: int) -> None:
        self.detach()
        self._files.rename(self._path, self._directory / rotated_name(first_id))
        self._open(new=True)

    def _open(self, *, new: bool) -> None:
        self._fd = self._files.open(self._path, OpenMode.APPEND)
        place = place_of(self._path)
        self._inode = 0 if place is None else place.inode
        if new:
            self._size, self._first = 0, None
            self._files.fsync_dir(self._directory)

    def _note_id(self) -> None:
        if self._last_fd is None:
            self._last_fd = self._files.open(self._directory / LAST_NAME, OpenMode.LOCK)
        write_all(self._files, self._last_fd, b"%020d\n" % self.last_id, 0)

    def _noted_id(self) -> int:
        with suppress(OSError, ValueError):
            noted = int(read_whole(self._files, self._directory / LAST_NAME, _LAST_BYTES) or b"0")
            return noted if 0 <= noted <= INTEGER_MAX else 0
        return 0

    def _open_fd(self) -> int:
        if self._fd is None:
            raise OSError(f"{self._path.name} is not open")
        return self._fd

    def _inspect(self, before: int, now_ms: int) -> Repair | None:
        fd = self._open_fd()
        tail = self._tail(fd, self._path)
        self._first = self._first_event(fd) if tail.last_id else None
        if tail.size and (self._first is None or self._first.id <= before):
            return self._set_aside(tail, before, now_ms)
        self.last_id = max(self.last_id, before, tail.last_id, self._noted_id())
        self._size = tail.valid_end
        repair = None
        if tail.size != tail.valid_end:
            action = self._cut(fd, tail, now_ms)
            repair = Repair(CURRENT_NAME, tail.valid_end, tail.size - tail.valid_end, action)
        if self._first is not None and self.last_id > tail.last_id:
            # Events were written and may have been read, but are gone. Their ids are not used again. Ids within a file
            # have no gaps, so the next id begins a new file.
            self._rotate(self._first.id)
            repair = repair or Repair(CURRENT_NAME, tail.valid_end, 0, "truncated")
        return repair

    def _set_aside(self, tail: _Tail, before: int, now_ms: int) -> Repair:
        """Rename a file that contains no event, or ids that older files already contain, and start a new one."""
        self.detach()
        self._files.rename(self._path, self._free_aside_path(now_ms))
        self._open(new=True)
        self.last_id = max(self.last_id, before, self._noted_id())
        return Repair(CURRENT_NAME, 0, tail.size, "kept_aside")

    def _cut(self, fd: int, tail: _Tail, now_ms: int) -> str:
        """Cut what follows the last event. A single torn line is dropped; anything more is copied aside first."""
        junk = self._files.pread(fd, EVENT_LINE_BYTES_MAX + 1, tail.valid_end)
        torn_line_only = len(junk) <= EVENT_LINE_BYTES_MAX and b"\n" not in junk and not junk.startswith(b"\0")
        if not torn_line_only:
            with opened(self._files, self._free_aside_path(now_ms), OpenMode.CREATE) as copy:
                offset = 0
                for chunk in read_chunks(self._files, fd, tail.valid_end):
                    offset = write_all(self._files, copy, chunk, offset)
                self._files.fsync(copy)
        self._files.truncate(fd, tail.valid_end)
        self._files.fsync(fd)
        self._files.fsync_dir(self._directory)
        return "cut" if torn_line_only else "kept_aside"

    def _tail(self, fd: int, path: Path) -> _Tail:
        """Find the last event in the last part of the file, or else in the whole file."""
        size = self._files.size(path) or 0
        start = max(0, size - 2 * EVENT_LINE_BYTES_MAX)
        while True:
            scanner = LineScanner()
            last_ms = 0
            for chunk in read_chunks(self._files, fd, start):
                last_ms = max([last_ms, *(event.ts_ms for event in scanner.feed(chunk)[-1:])])
            last_ms = max([last_ms, *(event.ts_ms for event in scanner.finish())])
            if scanner.last_id:
                return _Tail(scanner.last_id, last_ms, start + scanner.valid_end, size)
            if start == 0:
                return _Tail(0, 0, 0, size)
            start = 0

    def _first_event(self, fd: int) -> Event | None:
        scanner = LineScanner()
        offset = 0
        while chunk := self._files.pread(fd, _FIRST_CHUNK_BYTES, offset):
            offset += len(chunk)
            if events := scanner.feed(chunk):
                return events[0]
        return next(iter(scanner.finish()), None)

    def _last_rotated_id(self) -> int:
        """The last id in the newest rotated file; at least its first id, which is in its name."""
        rotated = [first for name in self._files.listdir(self._directory) if (first := rotated_first_id(name))]
        if not rotated:
            return 0
        newest = max(rotated)
        path = self._directory / rotated_name(newest)
        with opened(self._files, path, OpenMode.READ) as fd:
            return max(newest, self._tail(fd, path).last_id)

    def _free_aside_path(self, now_ms: int) -> Path:
        moment_ms = now_ms
        while self._files.size(self._directory / aside_name(moment_ms)) is not None:
            moment_ms += 1
        return self._directory / aside_name(moment_ms)

    def _prune(self, now_ms: int) -> None:
        """Delete the oldest rotated and set-aside files beyond the number to keep, and rotated files that are old."""
        names = self._files.listdir(self._directory)
        kept = max(1, self._options.files_kept)
        rotated = sorted(first for name in names if (first := rotated_first_id(name)))
        aside = sorted(moment for name in names if (moment := aside_moment_ms(name)) is not None)
        for first_id in rotated[:-kept]:
            self._files.unlink(self._directory / rotated_name(first_id))
            self._ends_ms.pop(first_id, None)
        for moment_ms in aside[:-kept]:
            self._files.unlink(self._directory / aside_name(moment_ms))
        self._prune_old(now_ms)

    def _prune_old(self, now_ms: int) -> None:
        """Delete the oldest rotated files, up to the first one that has an event which is to be kept."""
        if not self._options.kept_ms:
            return
        rotated = sorted(first for name in self._files.listdir(self._directory) if (first := rotated_first_id(name)))
        for first_id in rotated if self._first is not None else rotated[:-1]:
            if now_ms - self._end_ms(first_id) < self._options.kept_ms:
                return
            self._files.unlink(self._directory / rotated_name(first_id))
            del self._ends_ms[first_id]

    def _end_ms(self, first_id: int) -> int:
        if first_id not in self._ends_ms:
            path = self._directory / rotated_name(first_id)
            with opened(self._files, path, OpenMode.READ) as fd:
                self._ends_ms[first_id] = self._tail(fd, path).last_ms
        return self._ends_ms[first_id]
