"""The event files at one moment, and reading ranges of ids from them in both directions, without any index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crabnet.limits import EVENT_LINE_BYTES_MAX, EVENTS_CHUNK_BYTES, INTEGER_MAX, STORAGE_CHUNK_BYTES
from crabnet.monitor.events import Event
from crabnet.monitor.lines import CURRENT_NAME, LineScanner, rotated_first_id, rotated_name
from crabnet.storage.files import Files, OpenMode

_FIRST_BYTES: Final = 4 * 1024
_TRIES: Final = 16


@dataclass(frozen=True, slots=True)
class Portion:
    """A piece of the files in the order of reading. All ids up to ``reached`` have been seen with it.

    ``bytes`` is how much was read.
    """

    events: list[Event]
    reached: int
    bytes: int


class Snapshot:
    """The event files as they are now. Later rotations do not disturb it. Events written later may show or not.

    ``firsts`` has the first id of each file in ascending order. Use it in a ``with`` block; methods raise ``OSError``.
    """

    def __init__(self, files: Files, directory: Path) -> None:
        self._files = files
        self._directory = directory
        self._current: int | None = None
        self._current_first = 0
        self._current_size = 0
        self._other: tuple[int, int] | None = None
        self.firsts: list[int] = []
        try:
            self._look()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        (current, self._current), (other, self._other) = (self._current, None), (self._other, None)
        if current is not None:
            self._files.close(current)
        if other is not None:
            self._files.close(other[1])

    @property
    def first_id(self) -> int:
        """The oldest id; 0 if there is no event."""
        return self.firsts[0] if self.firsts else 0

    def path(self, first: int) -> Path:
        """The path of a file."""
        name = CURRENT_NAME if self.is_current(first) else rotated_name(first)
        return self._directory / name

    def is_current(self, first: int) -> bool:
        """Whether events are still appended to this file."""
        return first == self._current_first

    def size(self, first: int) -> int:
        """Bytes of a file; 0 if it is gone."""
        return self._current_size if self.is_current(first) else self._files.size(self.path(first)) or 0

    def read(self, first: int, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes of a file from ``offset`` on; none if the file is gone."""
        fd = self._fd(first)
        parts: list[bytes] = []
        while fd is not None and size > 0:
            chunk = self._files.pread(fd, min(size, STORAGE_CHUNK_BYTES), offset)
            if not chunk:
                break
            parts.append(chunk)
            offset += len(chunk)
            size -= len(chunk)
        return b"".join(parts)

    def last_id(self) -> int:
        """The newest id; 0 if there is no event."""
        for portion in self.backward(0, INTEGER_MAX):
            if portion.events:
                return portion.events[0].id
        return 0

    def forward(self, after: int, before: int) -> Iterator[Portion]:
        """The events with ids between two ids (exclusive), oldest first."""
        reached = after
        for number, first in enumerate(self.firsts):
            following = self.firsts[number + 1] if number + 1 < len(self.firsts) else INTEGER_MAX
            if following <= reached + 1:
                continue
            if first >= before:
                return
            start = self.seek(first, reached)[0] if reached >= first else 0
            for portion in self._forward_in(first, start, reached, before):
                reached = portion.reached
                yield portion

    def backward(self, after: int, before: int) -> Iterator[Portion]:
        """The events with ids between two ids (exclusive), newest first."""
        reached = before
        for number, first in reversed(list(enumerate(self.firsts))):
            following = self.firsts[number + 1] if number + 1 < len(self.firsts) else INTEGER_MAX
            if following <= after + 1:
                return
            if first >= reached:
                continue
            end = self.seek(first, reached - 1)[1] if reached <= following - 1 else self.size(first)
            for portion in self._backward_in(first, end, after, reached):
                reached = portion.reached
                yield portion

    def seek(self, first: int, event_id: int) -> tuple[int, int]:
        """Two offsets of lines in a file: events before the one have ids up to ``event_id``, from the other on higher.

        The distance is about EVENTS_CHUNK_BYTES. The search begins near the end, where most readers are.
        """
        size = self.size(first)
        low, high, upper = 0, size, size
        middle = max(0, size - EVENTS_CHUNK_BYTES)
        while high - low > EVENTS_CHUNK_BYTES:
            found = self._first_event(first, middle, high)
            if found is None:
                high = middle
            elif found[1] <= event_id:
                low = found[0]
            else:
                upper, high = found[0], middle
            middle = (low + high) // 2
        return low, upper

    def _look(self) -> None:
        for number in range(_TRIES):
            # the current file is opened before the others are listed, so that a rotation hides no event
            path = self._directory / CURRENT_NAME
            try:
                self._current = self._files.open(path, OpenMode.READ)
            except FileNotFoundError:
                self._current = None
            self._current_first = 0
            if self._current is not None:
                self._current_size = self._files.size(path) or 0
                self._current_first = self._first_of_current()
            names = self._files.listdir(self._directory)
            self.firsts = sorted(first for name in names if (first := rotated_first_id(name)))
            if self._current_first and self._current_first not in self.firsts:
                if not self.firsts or self._current_first > self.firsts[-1]:
                    self.firsts.append(self._current_first)
                return
            if self._current_first == 0 and (self._current is not None or CURRENT_NAME not in names):
                return
            if number < _TRIES - 1:  # it was rotated or made meanwhile; if it stays like that, it is somebody's copy
                self.close()

    def _first_of_current(self) -> int:
        size = self._current_size
        found = self._first_event_of(self._current, 0, size)
        return 0 if found is None else found[1]

    def _fd(self, first: int) -> int | None:
        if self.is_current(first):
            return self._current
        if self._other is None or self._other[0] != first:
            if self._other is not None:
                self._files.close(self._other[1])
                self._other = None
            try:
                self._other = (first, self._files.open(self.path(first), OpenMode.READ))
            except FileNotFoundError:
                return None
        return self._other[1]

    def _first_event(self, first: int, start: int, end: int) -> tuple[int, int] | None:
        return self._first_event_of(self._fd(first), start, end)

    def _first_event_of(self, fd: int | None, start: int, end: int) -> tuple[int, int] | None:
        """Offset and id of the first event whose line begins in a range of a file; a line that is cut there is none."""
        size, cut = _FIRST_BYTES, start > 0
        scanner, offset, begin = LineScanner(), start, start
        while fd is not None and offset < end:
            chunk = self._files.pread(fd, min(size, end - offset), offset)
            if not chunk:
                break
            offset += len(chunk)
            if cut:
                newline = chunk.find(b"\n")
                if newline < 0:
                    continue
                begin, cut = offset - len(chunk) + newline + 1, False
                chunk = chunk[newline + 1 :]
            if events := scanner.feed(chunk):
                return begin + scanner.spans[0][0], events[0].id
            size = min(2 * size, STORAGE_CHUNK_BYTES)
        events = scanner.finish()
        return (begin + scanner.spans[0][0], events[0].id) if events else None

    def _forward_in(self, first: int, offset: int, after: int, before: int) -> Iterator[Portion]:
        scanner = LineScanner()
        reached = after
        while reached < before - 1:
            chunk = self.read(first, offset, EVENTS_CHUNK_BYTES)
            offset += len(chunk)
            found = scanner.feed(chunk) if chunk else scanner.finish()
            events = [event for event in found if reached < event.id < before]
            if found:
                reached = max(reached, min(found[-1].id, before - 1))
            yield Portion(events, reached, len(chunk))
            if not chunk:
                return

    def _backward_in(self, first: int, end: int, after: int, before: int) -> Iterator[Portion]:
        reached, size = before, EVENTS_CHUNK_BYTES
        while end > 0 and reached > after + 1:
            start = max(0, end - size)
            chunk = self.read(first, start, end - start)
            cut = 0
            if start > 0:
                cut = chunk.find(b"\n") + 1
                if cut in {0, len(chunk)} and size <= 2 * EVENT_LINE_BYTES_MAX:
                    size *= 2
                    continue
            scanner = LineScanner()
            found = scanner.feed(chunk[cut:]) + scanner.finish()
            events = [event for event in reversed(found) if after < event.id < reached]
            if found:
                reached = min(reached, max(found[0].id, after + 1))
            yield Portion(events, reached, len(chunk))
            if found and found[0].id <= after:
                return
            end, size = start + cut if cut < len(chunk) else start, EVENTS_CHUNK_BYTES
