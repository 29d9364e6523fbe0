r"""The format of archive segments, and reading and writing whole segments.

A segment ``archive/<number, 20 digits>.seg`` never changes once it is in place::

    crabnet-archive VVVV <number, 20 digits> <rows, 20 digits> <SHA-256 of the segment before, 64 hex> <crc, 8 hex>\n
    <crc, 8 hex> <length of head, 8 hex> <length of data, 8 hex> <head> <data>\n
    crabnet-archive-end <offset of this line, 20 digits> <SHA-256 of all before this line, 64 hex>\n

The head of a row is the JSON array ``[key, created_at, tag, owner]``. Its data is opaque. A CRC-32C covers the rest of
its line: in the first line all bytes before it, in a row all bytes after it, including the line feed.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import google_crc32c
import msgspec

from crabnet.errors import DataDirDamagedError, Reason, RefusedError
from crabnet.limits import (
    ARCHIVE_ROW_BYTES_MAX,
    ARCHIVE_SEGMENT_ROWS_MAX,
    ARCHIVE_WORD_BYTES_MAX,
    STORAGE_CHUNK_BYTES,
)
from crabnet.storage.files import Files, OpenMode, guarded, opened, read_chunks, write_all
from crabnet.storage.journal.survey import Damage

ARCHIVE_VERSION: Final = 1
FIRST_PREVIOUS: Final = "0" * 64
"""The SHA-256 of the segment before, as segment 1 has it."""

CREATED_AT_MAX: Final = 2**63 - 1
"""The highest absolute value of ``created_at``."""
_SEGMENT_NAME: Final = re.compile(r"(\d{20})\.seg")
_HEADER: Final = re.compile(rb"(crabnet-archive )(\d{4})( \d{20} \d{20} [0-9a-f]{64} )([0-9a-f]{8})\n")
_ANY_VERSION: Final = re.compile(rb"crabnet-archive (\d{4}) ")
_HEADER_BYTES: Final = 16 + 5 + 21 + 21 + 65 + 8 + 1
_ROW_PREFIX: Final = re.compile(rb"([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{8}) ")
_ROW_PREFIX_BYTES: Final = 27
_TRAILER_START: Final = b"crabnet-archive-end "
_TRAILER_BYTES: Final = len(_TRAILER_START) + 21 + 64 + 1
_LINE_BYTES_MAX: Final = _ROW_PREFIX_BYTES + 6 * 4 * ARCHIVE_WORD_BYTES_MAX + ARCHIVE_ROW_BYTES_MAX
_HINT: Final = "nothing was changed; put the file back from a backup, or run `crabnet fsck`"

_Head = tuple[str, int, str, str]
_head_decoder: Final = msgspec.json.Decoder(_Head)


class SegmentInfo(msgspec.Struct, frozen=True):
    """The journal's record of a segment. ``sha256`` covers all but the segment's last line, in hex."""

    number: int
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class ArchiveRow:
    """One archived object. ``created_at`` orders rows and may have any unit. ``data`` is JSON on one line."""

    key: str
    created_at: int
    tag: str
    owner: str
    data: bytes


class PlacedRow(NamedTuple):
    """A row and the place of its line in the segment: ``offset`` and ``length`` in bytes."""

    offset: int
    length: int
    row: ArchiveRow


def segment_path(directory: Path, number: int) -> Path:
    """Return the path of a segment in the archive's directory."""
    return directory / f"{number:020d}.seg"


def segment_number(name: str) -> int | None:
    """Return the number in a file name, or ``None`` when it is not the name of a segment."""
    match = _SEGMENT_NAME.fullmatch(name)
    return int(match[1]) if match else None


def damaged(damage: Damage) -> DataDirDamagedError:
    """Return the error for damage in a segment."""
    return DataDirDamagedError(f"{damage.path}: offset {damage.offset}: {damage.detail}; {_HINT}")


def validate_rows(rows: Sequence[ArchiveRow]) -> None:
    """Raise ``RefusedError`` for rows that cannot form a segment: none, too many, out of bounds, or a key twice."""
    if not rows:
        raise RefusedError("an archive segment must have at least one row", Reason.EMPTY)
    if len(rows) > ARCHIVE_SEGMENT_ROWS_MAX:
        raise RefusedError(f"{len(rows)} rows are too many for one archive segment", Reason.TOO_LARGE)
    keys: set[str] = set()
    for row in rows:
        if row.key in keys:
            raise RefusedError(f"two rows of an archive segment have the key {row.key!r}", Reason.MALFORMED)
        keys.add(row.key)
        if not row.data or b"\n" in row.data or abs(row.created_at) > CREATED_AT_MAX:
            raise RefusedError(f"the row {row.key!r} is not one line of data with a 64-bit time", Reason.MALFORMED)
        try:
            longest = max(len(word.encode()) for word in (row.key, row.tag, row.owner))
        except UnicodeEncodeError as error:
            text = f"the row {row.key!r} has a key, tag or owner that is not Unicode text"
            raise RefusedError(text, Reason.MALFORMED) from error
        if longest > ARCHIVE_WORD_BYTES_MAX or len(row.data) > ARCHIVE_ROW_BYTES_MAX:
            raise RefusedError(f"the row {row.key[:100]!r} is too large for the archive", Reason.TOO_LARGE)


def _encode_header(info: SegmentInfo, previous: str) -> bytes:
    words = (ARCHIVE_VERSION, info.number, info.rows, previous.encode())
    start = b"crabnet-archive %04d %020d %020d %s " % words
    return start + b"%08x\n" % google_crc32c.value(start)


def _encode_row(row: ArchiveRow) -> bytes:
    head = msgspec.json.encode((row.key, row.created_at, row.tag, row.owner))
    rest = b"%08x %08x %s %s\n" % (len(head), len(row.data), head, row.data)
    return b"%08x %s" % (google_crc32c.value(rest), rest)


def _encode_trailer(offset: int, sha256: str) -> bytes:
    return b"%s%020d %s\n" % (_TRAILER_START, offset, sha256.encode())


def parse_row(line: bytes) -> ArchiveRow | None:
    """Return the row of a whole line, or ``None`` when it is not sound."""
    match = _ROW_PREFIX.match(line)
    if match is None or google_crc32c.value(line[9:]) != int(match[1], 16):
        return None
    head_end = _ROW_PREFIX_BYTES + int(match[2], 16)
    if head_end + 1 + int(match[3], 16) + 1 != len(line):
        return None
    try:
        key, created_at, tag, owner = _head_decoder.decode(line[_ROW_PREFIX_BYTES:head_end])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return ArchiveRow(key, created_at, tag, owner, line[head_end + 1 : -1])


def is_newer(files: Files, path: Path) -> bool:
    """True if a file is a segment of a newer format, not one of our format with damaged bytes. Raises ``OSError``."""
    with opened(files, path, OpenMode.READ) as fd:
        start = files.pread(fd, _HEADER_BYTES, 0)
    version = _ANY_VERSION.match(start)
    if version is None or int(version[1]) <= ARCHIVE_VERSION:
        return False
    ours = _HEADER.match(start)
    if ours is None:
        return True
    crc: int = google_crc32c.value(b"%s%04d%s" % (ours[1], ARCHIVE_VERSION, ours[3]))
    return crc != int(ours[4], 16)


def check_segment(files: Files, path: Path, info: SegmentInfo, previous: str) -> None:
    """Check the first line, last line and size of a segment against the journal's record of it.

    Raises ``DataDirDamagedError`` (``DATA_DIR_NEWER`` for a newer format), and ``StorageFailedError`` when reading
    fails.
    """
    with guarded("read the archive", path):
        size = files.size(path)
        if size is None:
            raise DataDirDamagedError(f"{path} is missing, but the journal has recorded it; {_HINT}")
        if is_newer(files, path):
            refuse_newer(path)
        expected = _encode_header(info, previous)
        end = max(len(expected), size - _TRAILER_BYTES)
        with opened(files, path, OpenMode.READ) as fd:
            header = files.pread(fd, len(expected), 0)
            trailer = files.pread(fd, _TRAILER_BYTES + 1, end)
    if header != expected:
        raise damaged(Damage(path, 0, "its first line is not that of the segment that the journal has recorded"))
    if trailer != _encode_trailer(end, info.sha256):
        raise damaged(Damage(path, end, "its last line is not that of the segment that the journal has recorded"))


def refuse_newer(path: Path) -> None:
    """Raise ``DataDirDamagedError`` (``DATA_DIR_NEWER``) for a segment of a newer format."""
    raise DataDirDamagedError(
        f"{path} was written by a newer Crabnet; nothing was changed; upgrade Crabnet", Reason.DATA_DIR_NEWER
    )


def scan_segment(files: Files, path: Path, info: SegmentInfo, previous: str) -> Iterator[PlacedRow | Damage]:
    """Read a whole segment and yield its rows in order and all damage.

    Every CRC, the count, the SHA-256, the link to the segment before and the first and last line are checked. A part of
    the medium that cannot be read (``EIO``) counts as damage. Raises ``OSError``.
    """
    if files.size(path) is None:
        yield Damage(path, 0, "it is missing, but the journal has recorded it")
        return
    digest = hashlib.sha256()
    rows = damages = offset = 0
    is_ended = False
    try:
        with opened(files, path, OpenMode.READ) as fd:
            for line in _lines(files, fd):
                if is_ended:
                    yield Damage(path, offset, "there are bytes after its last line")
                    return
                is_ended = line.startswith(_TRAILER_START) and offset > 0
                if not is_ended:
                    digest.update(line)
                found = _judge_line(line, offset, path, info, previous)
                rows += isinstance(found, PlacedRow)
                damages += isinstance(found, Damage)
                if found is not None:
                    yield found
                offset += len(line)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        yield Damage(path, offset, f"it cannot be read from here on: {error.strerror}")
        return
    if not is_ended:
        yield Damage(path, offset, "it has no last line")
    elif not damages and rows != info.rows:
        yield Damage(path, 0, f"it has {rows} rows instead of {info.rows}")
    elif not damages and digest.hexdigest() != info.sha256:
        yield Damage(path, 0, "its SHA-256 does not match")


def _judge_line(line: bytes, offset: int, path: Path, info: SegmentInfo, previous: str) -> PlacedRow | Damage | None:
    """Return the row or the damage of a line, ``None`` for a sound first or last line."""
    if offset == 0:
        sound = line == _encode_header(info, previous)
        return None if sound else Damage(path, 0, "its first line is not sound, or that of another segment")
    if line.startswith(_TRAILER_START):
        sound = line == _encode_trailer(offset, info.sha256)
        return None if sound else Damage(path, offset, "its last line is not sound, or that of another segment")
    row = parse_row(line)
    return Damage(path, offset, "a row is not sound") if row is None else PlacedRow(offset, len(line), row)


def _lines(files: Files, fd: int) -> Iterator[bytes]:
    """Yield the lines of a file, with their line feeds. Lines that are longer than any of ours come in pieces."""
    rest: list[bytes] = []
    rest_bytes = 0
    for chunk in read_chunks(files, fd):
        first, *lines = chunk.split(b"\n")
        rest.append(first)
        rest_bytes += len(first)
        for line in lines:
            yield b"".join(rest) + b"\n"
            rest, rest_bytes = [line], len(line)
        if rest_bytes > _LINE_BYTES_MAX:
            yield b"".join(rest)
            rest, rest_bytes = [], 0
    if rest_bytes:
        yield b"".join(rest)


def write_segment(
    files: Files, directory: Path, number: int, previous: str, rows: Sequence[ArchiveRow]
) -> tuple[SegmentInfo, list[tuple[int, int]]]:
    """Write valid rows as a segment, which is durable, read back and in place on return.

    Also returns offset and length of every row, in bytes. Raises ``OSError``.
    """
    path = segment_path(directory, number)
    temporary = path.with_name(path.name + ".tmp")
    digest = hashlib.sha256()
    places: list[tuple[int, int]] = []
    with opened(files, temporary, OpenMode.REPLACE) as fd:
        buffer = [_encode_header(SegmentInfo(number, "", len(rows)), previous)]
        offset, buffered = 0, len(buffer[0])
        for row in rows:
            line = _encode_row(row)
            places.append((offset + buffered, len(line)))
            buffer.append(line)
            buffered += len(line)
            if buffered >= STORAGE_CHUNK_BYTES:
                offset, buffered = _flush(files, fd, buffer, offset, digest), 0
        offset = _flush(files, fd, buffer, offset, digest)
        info = SegmentInfo(number, digest.hexdigest(), len(rows))
        buffer.append(_encode_trailer(offset, info.sha256))
        _flush(files, fd, buffer, offset, digest)
        files.fsync(fd)
        files.drop_cache(fd)
        if not reads_back(files, fd, digest.digest()):
            raise OSError(errno.EIO, "the segment has other content when it is read back than was written")
    files.rename(temporary, path)
    files.fsync_dir(directory)
    return info, places


def reads_back(files: Files, fd: int, digest: bytes) -> bool:
    """True if the whole file has this SHA-256. Raises ``OSError``."""
    found = hashlib.sha256()
    for chunk in read_chunks(files, fd):
        found.update(chunk)
    return found.digest() == digest


def _flush(files: Files, fd: int, buffer: list[bytes], offset: int, digest: hashlib._Hash) -> int:
    data = b"".join(buffer)
    buffer.clear()
    digest.update(data)
    return write_all(files, fd, data, offset)
