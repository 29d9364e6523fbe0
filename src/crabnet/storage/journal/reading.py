"""Reading journal segments: scanning a segment, judging how it ends, and fetching frames."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import google_crc32c

from crabnet.errors import DataDirDamagedError
from crabnet.limits import FRAME_BYTES_MAX, STORAGE_CHUNK_BYTES
from crabnet.storage.files import Files, OpenMode, guarded, opened
from crabnet.storage.journal.segment import (
    FRAME_OVERHEAD_BYTES,
    FRAME_PREFIX,
    FRAME_PREFIX_BYTES,
    HEADER_BYTES,
    HEADER_LINE,
    JOURNAL_VERSION,
    Frame,
    FramePosition,
    is_start_of_frame,
    is_start_of_header,
    parse_frame,
    seal_header,
)

_FRAME_ANYWHERE: Final = re.compile(rb"(?=" + FRAME_PREFIX.pattern + rb")")


class HeaderKind(Enum):
    """The condition of the first line of a segment."""

    OK = "ok"
    TORN = "torn"
    """The line is not valid and nothing follows it. Its write may never have been completed."""
    DAMAGED = "damaged"
    OLDER = "older"
    NEWER = "newer"


class TailKind(Enum):
    """The condition of a segment after its last readable frame."""

    CLEAN = "clean"
    TORN = "torn"
    """The segment ends with an unfinished frame, which was never acknowledged."""
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class SegmentScan:
    """The content of a segment. Frames ``first_lsn`` to ``last_lsn`` are sound. ``tail`` judges the rest."""

    path: Path
    first_lsn: int
    header: HeaderKind
    previous_hash: str
    last_lsn: int
    head_hash: str
    end: int
    """Offset after the last sound frame."""
    size: int
    tail: TailKind
    last_frame_offset: int | None
    detail: str
    """A description of the damage, empty when there is none."""
    skipped: tuple[int, int] | None
    """Damaged bytes (offset, end) before the requested frames."""
    unfinished: bool = False
    """True if the torn end is an incomplete beginning of the next frame or header. Its write never returned."""


class _Window:
    """A file that is read forwards. Its buffer holds at least the requested bytes, if the file has them."""

    def __init__(self, files: Files, fd: int) -> None:
        self._files = files
        self._fd = fd
        self.base = 0
        self.data = b""

    def need(self, offset: int, size: int) -> int:
        """Load ``size`` bytes from ``offset`` on. Return the index of ``offset`` in ``data``."""
        have = self.base + len(self.data)
        if offset + size > have:
            kept = self.data[max(0, offset - self.base) :] if offset < have else b""
            self.base = offset
            parts = [kept]
            have = offset + len(kept)
            while have < offset + size:
                chunk = self._files.pread(self._fd, max(STORAGE_CHUNK_BYTES, offset + size - have), have)
                if not chunk:
                    break
                parts.append(chunk)
                have += len(chunk)
            self.data = b"".join(parts)
        return offset - self.base

    def frame_at(self, offset: int, segment_lsn: int) -> Frame | None:
        at = self.need(offset, FRAME_OVERHEAD_BYTES)
        match = FRAME_PREFIX.match(self.data, at)
        if match is None or int(match[2], 16) > FRAME_BYTES_MAX:
            return None
        at = self.need(offset, FRAME_OVERHEAD_BYTES + int(match[2], 16))
        return parse_frame(self.data, at, segment_lsn, self.base)


def classify_header(line: bytes, first_lsn: int, size: int) -> tuple[HeaderKind, str]:
    """Judge the first line of a segment of ``size`` bytes, and return the hash before its first frame.

    Another version than ours is accepted as such, unless the line is a version-1 line with a flipped bit.
    """
    match = HEADER_LINE.fullmatch(line)
    if match is not None:
        version = int(match[1])
        sound = int(match[4], 16) == google_crc32c.value(line[:-9])
        if version != JOURNAL_VERSION:
            ours = seal_header(line[:16] + b"%04d" % JOURNAL_VERSION + line[20:-9])
            if sound or ours[-9:] != line[-9:]:
                return (HeaderKind.NEWER if version > JOURNAL_VERSION else HeaderKind.OLDER), ""
        elif sound and int(match[2]) == first_lsn:
            return HeaderKind.OK, match[3].decode()
        elif sound:
            return HeaderKind.DAMAGED, ""
    return (HeaderKind.TORN if size <= HEADER_BYTES else HeaderKind.DAMAGED), ""


def scan_segment(
    files: Files,
    path: Path,
    first_lsn: int,
    *,
    resume_max_lsn: int = 0,
    visit: Callable[[Frame], None] | None = None,
) -> SegmentScan:
    """Read a segment from its header to its last sound frame, and distinguish a torn tail from damage.

    A tail is torn when it is no longer than one frame and no sound frame follows, because frame n+1 is never written
    before frame n is durable. The scan skips damage when a sound frame of at most ``resume_max_lsn`` follows, because
    a checkpoint contains the frames before it. ``visit`` is called with every sound frame. Raises ``OSError``.
    """
    with opened(files, path, OpenMode.READ) as fd:
        size = files.size(path) or 0
        window = _Window(files, fd)
        at = window.need(0, HEADER_BYTES)
        header, previous_hash = classify_header(window.data[at : at + HEADER_BYTES], first_lsn, size)
        lsn, head, end, last_offset = first_lsn - 1, previous_hash, HEADER_BYTES, None
        skipped: tuple[int, int] | None = None
        unfinished = False
        known = header is HeaderKind.OK
        if not known:
            end = 0
            tail = TailKind.TORN if header is HeaderKind.TORN else TailKind.DAMAGED
            detail = "its first line is not that of a journal segment"
            if header is not HeaderKind.DAMAGED or resume_max_lsn < first_lsn:
                cut_short = is_start_of_header(window.data[at : at + HEADER_BYTES], first_lsn)
                return SegmentScan(path, first_lsn, header, "", lsn, "", 0, size, tail, None, detail, None, cut_short)
        while True:
            frame = window.frame_at(end, first_lsn) if known else None
            if frame is not None and frame.lsn == lsn + 1 and frame.previous_hash == head:
                lsn, head, last_offset, end = frame.lsn, frame.hash, end, frame.end
                if visit is not None:
                    visit(frame)
                continue
            tail, detail = _judge_tail(frame, end, size, lsn)
            if tail is TailKind.CLEAN:
                break
            after = _find_frame(files, fd, end, first_lsn, lsn + 1)
            if after is None:
                start = window.need(end, size - end) if tail is TailKind.TORN else 0
                unfinished = tail is TailKind.TORN and is_start_of_frame(window.data[start:], lsn + 1, head)
                break
            if frame is None:
                tail, detail = TailKind.DAMAGED, f"sound frames follow from offset {after.position.offset} on"
            if after.lsn > resume_max_lsn:
                break
            skipped = (skipped[0] if skipped else end, after.position.offset)
            if after.lsn == first_lsn:
                previous_hash = after.previous_hash
            lsn, head, end, known = after.lsn - 1, after.previous_hash, after.position.offset, True
        return SegmentScan(
            path, first_lsn, header, previous_hash, lsn, head, end, size, tail, last_offset, detail, skipped, unfinished
        )


def _judge_tail(frame: Frame | None, end: int, size: int, lsn: int) -> tuple[TailKind, str]:
    if frame is not None:
        return TailKind.DAMAGED, f"frame {frame.lsn} does not continue frame {lsn}: the hash chain is broken"
    if end == size:
        return TailKind.CLEAN, ""
    if size - end > FRAME_BYTES_MAX + FRAME_OVERHEAD_BYTES:
        return TailKind.DAMAGED, f"{size - end} bytes are not a frame"
    return TailKind.TORN, f"{size - end} bytes are an unfinished frame"


def _find_frame(files: Files, fd: int, offset: int, segment_lsn: int, lsn_min: int) -> Frame | None:
    """Return the first sound frame after ``offset`` whose lsn is at least ``lsn_min``."""
    overlap = FRAME_PREFIX_BYTES - 1
    offset += 1
    while chunk := files.pread(fd, STORAGE_CHUNK_BYTES + overlap, offset):
        for match in _FRAME_ANYWHERE.finditer(chunk):
            if int(match[3], 16) < lsn_min or int(match[2], 16) > FRAME_BYTES_MAX:
                continue
            at = offset + match.start()
            line = files.pread(fd, FRAME_OVERHEAD_BYTES + int(match[2], 16), at)
            frame = parse_frame(line, 0, segment_lsn, at)
            if frame is not None:
                return frame
        offset += STORAGE_CHUNK_BYTES
    return None


def _open_any(files: Files, paths: Sequence[Path]) -> int:
    for path in paths[:-1]:
        try:
            return files.open(path, OpenMode.READ)
        except FileNotFoundError:
            continue
    return files.open(paths[-1], OpenMode.READ)


def frames_of(files: Files, paths: Sequence[Path], first_lsn: int, after_lsn: int, until_lsn: int) -> Iterator[Frame]:
    """Yield the frames of a segment with ``after_lsn < lsn <= until_lsn``, after checking the CRC and number of each.

    ``paths`` are the places where the segment may be, in the order in which it moves. Raises ``DataDirDamagedError``
    at the first frame that is not sound, and ``StorageFailedError`` when reading fails.
    """
    path = paths[0]
    with guarded("read the journal", path):
        fd = _open_any(files, paths)
        try:
            window = _Window(files, fd)
            offset, lsn = HEADER_BYTES, first_lsn - 1
            while lsn < until_lsn:
                frame = window.frame_at(offset, first_lsn)
                if frame is None and lsn < after_lsn:
                    frame = _find_frame(files, fd, offset, first_lsn, lsn + 1)
                if frame is None or (frame.lsn != lsn + 1 and frame.lsn > after_lsn + 1):
                    raise _frame_damaged(path, offset, lsn + 1)
                lsn, offset = frame.lsn, frame.end
                if lsn > after_lsn:
                    yield frame
        finally:
            files.close(fd)


def _frame_damaged(path: Path, offset: int, lsn: int) -> DataDirDamagedError:
    return DataDirDamagedError(
        f"{path}, offset {offset}: frame {lsn} is damaged; run `crabnet fsck` to see what can be saved"
    )


def read_frame_at(files: Files, paths: Sequence[Path], position: FramePosition) -> bytes:
    """Return the payload of one frame. ``paths`` and the errors are those of ``frames_of``."""
    with guarded("read the journal", paths[0]):
        fd = _open_any(files, paths)
        try:
            line = files.pread(fd, FRAME_OVERHEAD_BYTES + position.length, position.offset)
        finally:
            files.close(fd)
    frame = parse_frame(line, 0, position.segment_first_lsn, position.offset)
    if frame is None or frame.position != position:
        raise _frame_damaged(paths[0], position.offset, position.lsn)
    return frame.payload
