"""Reading a journal in any condition: every sound frame, and every place that is not sound. It needs no lock.

Recovery stops at the first damage. This walk continues after it, to use or to show all that is still readable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crabnet.limits import FRAME_BYTES_MAX, STORAGE_CHUNK_BYTES
from crabnet.storage.files import Files, OpenMode, guarded
from crabnet.storage.journal.reading import HeaderKind, classify_header
from crabnet.storage.journal.segment import FRAME_OVERHEAD_BYTES, FRAME_PREFIX, HEADER_BYTES, Frame, parse_frame
from crabnet.storage.layout import Layout, list_segments

_FRAME_ANYWHERE: Final = re.compile(rb"(?=" + FRAME_PREFIX.pattern + rb")")
_HEADER_DETAIL: Final = {
    HeaderKind.NEWER: "the segment is of a newer version; upgrade Crabnet",
    HeaderKind.OLDER: "the segment says that it is of an older version, but none was ever written",
}


Believe = Callable[[bytes], bool]
"""Returns true if a payload was really written as one. It is called after damage, where a peer's text may look like a
frame.
"""


@dataclass(frozen=True, slots=True)
class Hole:
    """A range of a segment without a sound frame: bytes ``offset`` to ``end``, after frame ``after_lsn``."""

    path: Path
    offset: int
    end: int
    after_lsn: int
    detail: str
    at_end: bool = False
    """True if no sound frame follows in this segment. An unfinished last frame also looks like this."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The beginning of a segment. ``previous_hash`` comes from its first line, and is empty if that is not sound."""

    path: Path
    first_lsn: int
    previous_hash: str


class _Reader:
    """A file that is read forwards, with one buffer."""

    def __init__(self, files: Files, fd: int) -> None:
        self._files = files
        self._fd = fd
        self._base = 0
        self._data = b""

    def at(self, offset: int, size: int) -> tuple[bytes, int]:
        """Return a buffer and the index of ``offset`` in it. ``size`` bytes follow there if the file has them."""
        have = self._base + len(self._data)
        if offset < self._base or offset + size > have:
            kept = self._data[offset - self._base :] if self._base <= offset < have else b""
            parts, reached = [kept], offset + len(kept)
            while reached < offset + size:
                chunk = self._files.pread(self._fd, max(STORAGE_CHUNK_BYTES, offset + size - reached), reached)
                if not chunk:
                    break
                parts.append(chunk)
                reached += len(chunk)
            self._base, self._data = offset, b"".join(parts)
        return self._data, offset - self._base

    def bytes(self, offset: int, end: int) -> bytes:
        """Return the bytes from ``offset`` up to ``end``."""
        data, at = self.at(offset, end - offset)
        return data[at : at + end - offset]

    def frame(self, offset: int, segment_lsn: int) -> Frame | None:
        """Return the frame whose line starts at ``offset``, ``None`` if it is not sound."""
        data, at = self.at(offset, FRAME_OVERHEAD_BYTES)
        match = FRAME_PREFIX.match(data, at)
        if match is None or int(match[2], 16) > FRAME_BYTES_MAX:
            return None
        data, at = self.at(offset, FRAME_OVERHEAD_BYTES + int(match[2], 16))
        return parse_frame(data, at, segment_lsn, offset - at)


def open_segment(files: Files, paths: Sequence[Path]) -> tuple[int, Path]:
    """Open a segment at the first of its possible places where it exists. A running node may be moving it."""
    for path in (*paths, paths[0]):
        try:
            return files.open(path, OpenMode.READ), path
        except FileNotFoundError:
            continue
    return files.open(paths[-1], OpenMode.READ), paths[-1]


def walk_segment(
    files: Files, paths: Sequence[Path], first_lsn: int, believe: Believe
) -> Iterator[Segment | Frame | Hole]:
    """Yield the segment's beginning, then its frames and holes in order. Raises StorageFailedError."""
    with guarded("read the journal", paths[0]):
        fd, path = open_segment(files, paths)
        try:
            reader = _Reader(files, fd)
            line = reader.bytes(0, HEADER_BYTES)
            kind, previous_hash = classify_header(line, first_lsn, len(line) + (len(line) == HEADER_BYTES))
            yield Segment(path, first_lsn, previous_hash)
            lsn, offset = first_lsn - 1, HEADER_BYTES
            if kind is not HeaderKind.OK:
                detail = _HEADER_DETAIL.get(kind, "its first line is not that of a journal segment")
                yield Hole(path, 0, min(len(line), HEADER_BYTES), lsn, detail, at_end=len(line) < HEADER_BYTES)
                if kind is HeaderKind.NEWER or len(line) < HEADER_BYTES:
                    return
            while reader.bytes(offset, offset + 1):
                frame = reader.frame(offset, first_lsn)
                if frame is None:
                    frame, end = _resume(reader, offset, first_lsn, lsn, believe)
                    yield Hole(path, offset, end, lsn, "the bytes are not a sound frame", at_end=frame is None)
                    offset = end
                if frame is not None:
                    yield frame
                    lsn, offset = frame.lsn, frame.end
        finally:
            files.close(fd)


def _resume(reader: _Reader, offset: int, segment_lsn: int, lsn: int, believe: Believe) -> tuple[Frame | None, int]:
    """Return the next sound frame after damage at ``offset``, and its offset. Without one: None and the file's end."""
    at = offset + 1
    while True:
        data, start = reader.at(at, STORAGE_CHUNK_BYTES)
        if len(data) - start <= 0:
            return None, at
        block_base = at - start
        for match in _FRAME_ANYWHERE.finditer(data, start):
            found = block_base + match.start()
            lsn_max = lsn + 2 + (found - offset) // FRAME_OVERHEAD_BYTES
            if not lsn < int(match[3], 16) <= lsn_max:
                continue
            frame = reader.frame(found, segment_lsn)
            if frame is not None and believe(frame.payload):
                return frame, found
        end = block_base + len(data)
        data, start = reader.at(end, 1)
        if len(data) - start <= 0:
            return None, end
        at = max(at + 1, end - FRAME_OVERHEAD_BYTES)


def read_hole(files: Files, hole: Hole) -> bytes:
    """Return the bytes of a hole, at most the first ``2 * FRAME_BYTES_MAX``. Raises StorageFailedError."""
    layout = Layout(hole.path.parent.parent)
    with guarded("read the journal", hole.path):
        fd, _ = open_segment(files, layout.places(hole.path.name))
        try:
            return _Reader(files, fd).bytes(hole.offset, min(hole.end, hole.offset + 2 * FRAME_BYTES_MAX))
        finally:
            files.close(fd)


def walk_journal(
    files: Files, layout: Layout, believe: Believe, *, after_lsn: int = 0
) -> Iterator[Segment | Frame | Hole]:
    """Walk over every segment in order, including history/, except those that have no frames after ``after_lsn``.

    Raises StorageFailedError.
    """
    with guarded("read the journal", layout.journal):
        segments = list_segments(files, layout)
    for index, (first_lsn, path) in enumerate(segments):
        if index + 1 == len(segments) or segments[index + 1][0] > after_lsn + 1:
            yield from walk_segment(files, layout.places(path.name), first_lsn, believe)
