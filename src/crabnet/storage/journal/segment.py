r"""The journal's format: segments of frames, each frame one commit batch and one line.

A segment ``journal/<first lsn, 20 digits>.log`` has a header line and then frame lines::

    crabnet-journal VVVV LLLLLLLLLLLLLLLLLLLL <hash of the frame before, 64 hex> <crc, 8 hex>\n
    <crc, 8 hex> <payload length, 8 hex> <lsn, 16 hex> <hash of the frame before, 64 hex> <payload>\n

The CRC-32C of a frame covers everything after it, including the line feed. The hash of a frame is the SHA-256 of its
whole line. Payloads are opaque, not empty and without line feed. docs/STORAGE.md has the rules of recovery.
"""

from __future__ import annotations

import errno
import hashlib
import re
import time
from pathlib import Path
from typing import Final, NamedTuple

import google_crc32c

from crabnet.errors import Reason, RefusedError
from crabnet.limits import FRAME_BYTES_MAX, STORAGE_CHUNK_BYTES
from crabnet.storage.files import Files, OpenMode, opened, write_all
from crabnet.storage.layout import segment_name

JOURNAL_VERSION: Final = 1
GENESIS_HASH: Final = "0" * 64
"""The hash before frame 1 of a data dir that was started empty."""
HEADER_BYTES: Final = 16 + 5 + 21 + 65 + 8 + 1
FRAME_PREFIX_BYTES: Final = 9 + 9 + 17 + 65
FRAME_OVERHEAD_BYTES: Final = FRAME_PREFIX_BYTES + 1

HEADER_LINE: Final = re.compile(rb"crabnet-journal (\d{4}) (\d{20}) ([0-9a-f]{64}) ([0-9a-f]{8})\n")
FRAME_PREFIX: Final = re.compile(rb"([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{16}) ([0-9a-f]{64}) ")
_FRAME_START: Final = re.compile(rb"[0-9a-f]{0,8}\?*|[0-9a-f]{8} [0-9a-f]{0,8}\?*|[0-9a-f]{8} [0-9a-f]{8} ")
"""CRC and length, or the beginning of these two, padded with question marks."""


class FramePosition(NamedTuple):
    """The place of a frame: ``offset`` of its line in the segment and ``length`` of its payload, both in bytes."""

    lsn: int
    segment_first_lsn: int
    offset: int
    length: int


class Frame(NamedTuple):
    """One commit batch that was read from a segment. ``hash`` is the hash of its line."""

    position: FramePosition
    payload: bytes
    previous_hash: str
    hash: str

    @property
    def lsn(self) -> int:
        return self.position.lsn

    @property
    def end(self) -> int:
        """Offset after the line."""
        return self.position.offset + FRAME_OVERHEAD_BYTES + self.position.length


def encode_header(first_lsn: int, previous_hash: str) -> bytes:
    """Return the first line of a segment."""
    return seal_header(b"crabnet-journal %04d %020d %s " % (JOURNAL_VERSION, first_lsn, previous_hash.encode()))


def seal_header(start: bytes) -> bytes:
    """Add the CRC to the beginning of a header line."""
    return start + b"%08x\n" % google_crc32c.value(start)


def encode_frame(lsn: int, previous_hash: str, payload: bytes) -> bytes:
    """Return the line of a frame. Raises ``RefusedError`` for a payload that is empty, too large or has a line feed."""
    if not payload or b"\n" in payload:
        raise RefusedError("the payload of a journal frame must not be empty or contain a line feed", Reason.MALFORMED)
    if len(payload) > FRAME_BYTES_MAX:
        raise RefusedError(
            f"a journal frame of {len(payload)} bytes exceeds the limit of {FRAME_BYTES_MAX}", Reason.TOO_LARGE
        )
    rest = b"%08x %016x %s %s\n" % (len(payload), lsn, previous_hash.encode(), payload)
    return b"%08x %s" % (google_crc32c.value(rest), rest)


def hash_line(line: bytes) -> str:
    """Return the hash of a frame, computed over its whole line."""
    return hashlib.sha256(line).hexdigest()


def parse_frame(data: bytes, at: int, segment_lsn: int, base: int = 0) -> Frame | None:
    """Return the frame whose line starts at ``data[at]``, or ``None`` when there is no sound one.

    ``base`` is the offset of ``data`` in the segment.
    """
    match = FRAME_PREFIX.match(data, at)
    if match is None:
        return None
    length = int(match[2], 16)
    end = at + FRAME_OVERHEAD_BYTES + length
    if not 0 < length <= FRAME_BYTES_MAX or end > len(data) or data[end - 1] != 0x0A:
        return None
    line = data[at:end]
    if google_crc32c.value(line[9:]) != int(match[1], 16):
        return None
    position = FramePosition(int(match[3], 16), segment_lsn, base + at, length)
    return Frame(position, line[FRAME_PREFIX_BYTES:-1], match[4].decode(), hash_line(line))


def is_start_of_frame(data: bytes, lsn: int, previous_hash: str) -> bool:
    """True if bytes are an incomplete beginning of frame ``lsn``, perhaps with zeros in place of the rest.

    Only a write that did not return leaves such bytes. A whole frame ends with its only line feed, so neither a flipped
    length nor a flipped line feed makes a whole frame look like this. A power cut leaves zeros for blocks that were not
    yet written. No frame contains zeros.
    """
    fixed = b"%016x %s " % (lsn, previous_hash.encode())
    data = data.rstrip(b"\0")
    start, rest = data[:18], data[18:]
    if b"\n" in data or _FRAME_START.fullmatch(start.ljust(18, b"?")) is None or not data:
        return False
    if rest[: len(fixed)] != fixed[: len(rest)]:
        return False
    return len(start) < 18 or len(data) < FRAME_OVERHEAD_BYTES + int(start[9:17], 16)


def is_start_of_header(data: bytes, first_lsn: int) -> bool:
    """True if bytes are an incomplete beginning of a segment's header line, perhaps with zeros in place of the rest.

    This includes no bytes at all. Zeros are what a power cut leaves for blocks that were not yet written.
    """
    data = data.rstrip(b"\0")
    fixed = b"crabnet-journal %04d %020d " % (JOURNAL_VERSION, first_lsn)
    return len(data) < HEADER_BYTES and b"\n" not in data and data[: len(fixed)] == fixed[: len(data)]


class SegmentWriter:
    """The segment to which frames are appended. Not safe for concurrent use. Every method may raise ``OSError``."""

    def __init__(self, files: Files, path: Path, fd: int, first_lsn: int, end: int) -> None:
        self._files = files
        self._fd = fd
        self.path = path
        self.first_lsn = first_lsn
        self.end = end
        self.sync_s = 0.0
        """How long the last fdatasync took, in seconds."""

    @classmethod
    def create(cls, files: Files, directory: Path, first_lsn: int, previous_hash: str) -> SegmentWriter:
        """Start a segment. Its header and its directory entry are durable on return."""
        path = directory / segment_name(first_lsn)
        fd = files.open(path, OpenMode.CREATE)
        writer = cls(files, path, fd, first_lsn, 0)
        try:
            writer.end = write_all(files, fd, encode_header(first_lsn, previous_hash), 0)
            files.fsync(fd)
            files.fsync_dir(directory)
        except BaseException:
            files.close(fd)
            raise
        return writer

    @classmethod
    def reopen(cls, files: Files, path: Path, first_lsn: int, end: int, *, renew: bool) -> SegmentWriter:
        """Continue a segment of which the first ``end`` bytes are sound.

        ``renew`` first replaces the segment with a copy of these bytes, without the bytes that follow them. After a
        failed fsync the kernel may treat bytes as clean that never reached the medium. Only writing them again makes
        them durable. They are written to a new file, because overwriting in place risks bytes that are already durable.
        """
        if renew:
            temporary = path.with_name(path.name + ".tmp")
            with opened(files, path, OpenMode.READ) as source, opened(files, temporary, OpenMode.REPLACE) as target:
                offset = 0
                while offset < end:
                    chunk = files.pread(source, min(STORAGE_CHUNK_BYTES, end - offset), offset)
                    if not chunk:
                        raise OSError(errno.EIO, "the file became shorter while it was read")
                    offset = write_all(files, target, chunk, offset)
                files.fsync(target)
            files.rename(temporary, path)
            files.fsync_dir(path.parent)
        return cls(files, path, files.open(path, OpenMode.WRITE), first_lsn, end)

    def append(self, line: bytes) -> int:
        """Write one line, make it durable and return its offset."""
        offset = self.end
        self.end = write_all(self._files, self._fd, line, offset)
        began_s = time.perf_counter()
        self._files.fdatasync(self._fd)
        self.sync_s = time.perf_counter() - began_s
        return offset

    def close(self) -> None:
        self._files.close(self._fd)
