"""The checkpoint ``state.json``: a JSON file written and read as a stream, one row per line.

::

    {"format":"crabnet-state","version":1,"lsn":7,"journal_head":"…","state_hash":"…",…,"rows":[
    ["kind",{…}],
    ["kind",{…}]
    ],"row_count":2,
    "checksum":"sha256:<64 hex: over every byte before this line>"}

Rows are opaque JSON without line feed. The Rust baseline's ``state.json`` counts as version 0.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from crabnet.errors import DataDirDamagedError, Reason, RefusedError
from crabnet.limits import (
    BASELINE_STATE_BYTES_MAX,
    CHECKPOINT_HEADER_BYTES_MAX,
    CHECKPOINT_ROW_BYTES_MAX,
    CHECKPOINT_SYNC_BYTES,
    STORAGE_CHUNK_BYTES,
)
from crabnet.storage.files import Files, OpenMode, guarded, opened, read_chunks, read_whole, write_all

CHECKPOINT_VERSION: Final = 1
CHECKPOINT_FORMAT: Final = "crabnet-state"

JsonScalar = str | int | bool | None

_VERSION: Final = re.compile(rb'\s*\{\s*"format"\s*:\s*"crabnet-state"\s*,\s*"version"\s*:\s*(\d{1,9})\s*[,}]')
_ROWS: Final = b',"rows":[\n'
_COUNT: Final = re.compile(rb'\],"row_count":(\d{1,18}),\n')
_CHECKSUM: Final = re.compile(rb'"checksum":"sha256:([0-9a-f]{64})"\}\n')
_CHECKSUM_BYTES: Final = 19 + 64 + 3


class Condition(StrEnum):
    """The state of a stored part, the dimensions of the recovery table."""

    OK = "ok"
    DAMAGED = "damaged"
    ABSENT = "absent"
    OLDER = "older"
    NEWER = "newer"


class CheckpointHeader(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """What a checkpoint says of itself. ``lsn`` and ``journal_head`` are filled in by the ledger.

    ``extra`` is free for the caller; ``created_at_ms`` is milliseconds since 1970.
    """

    format: str = CHECKPOINT_FORMAT
    version: int = CHECKPOINT_VERSION
    lsn: int = 0
    journal_head: str = ""
    state_hash: str
    created_at_ms: int
    node_id: str
    extra: dict[str, JsonScalar] = {}


class _Baseline(msgspec.Struct):
    identity: dict[str, msgspec.Raw]
    seeds: dict[str, msgspec.Raw]
    bids: dict[str, msgspec.Raw]


@dataclass(frozen=True, slots=True)
class CheckpointFinding:
    """What was found at the place of a checkpoint, the checksum verified.

    ``digest`` is the SHA-256 that the file carries, or for an older one that of the whole file.
    """

    path: Path
    condition: Condition
    header: CheckpointHeader | None = None
    row_count: int = 0
    digest: str = ""
    offset: int = 0
    detail: str = ""

    @property
    def lsn(self) -> int:
        """The last lsn that the checkpoint covers; 0 for a baseline file."""
        return 0 if self.header is None else self.header.lsn


def examine_checkpoint(files: Files, path: Path) -> CheckpointFinding:
    """Classify the file at ``path``; nothing of it is believed before its checksum holds.

    A part of the medium that cannot be read (``EIO``) counts as damage. Raises ``StorageFailedError``.
    """
    with guarded("read the checkpoint", path):
        try:
            size = files.size(path)
            if size is None:
                return CheckpointFinding(path, Condition.ABSENT)
            with opened(files, path, OpenMode.READ) as fd:
                return _examine(files, path, fd, size)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return _damaged(path, 0, f"it cannot be read: {error.strerror}")


def _damaged(path: Path, offset: int, detail: str) -> CheckpointFinding:
    return CheckpointFinding(path, Condition.DAMAGED, offset=offset, detail=detail)


def _examine(files: Files, path: Path, fd: int, size: int) -> CheckpointFinding:
    start = files.pread(fd, CHECKPOINT_HEADER_BYTES_MAX, 0)
    version = _VERSION.match(start)
    if version is None:
        return _examine_baseline(files, path, fd)
    if int(version[1]) > CHECKPOINT_VERSION and not _is_flipped(files, fd, size, version):
        return CheckpointFinding(path, Condition.NEWER, detail=f"its version is {int(version[1])}")
    if version[1] != b"%d" % CHECKPOINT_VERSION:
        return _damaged(path, version.start(1), "its version was never written")
    trailer = _CHECKSUM.fullmatch(files.pread(fd, _CHECKSUM_BYTES, max(0, size - _CHECKSUM_BYTES)))
    if trailer is None:
        return _damaged(path, max(0, size - _CHECKSUM_BYTES), "its last line is not a checksum")
    if _digest(files, fd, size - _CHECKSUM_BYTES) != trailer[1].decode():
        return _damaged(path, 0, "its checksum does not match")
    cut = start.find(_ROWS)
    tail = files.pread(fd, 64, max(0, size - _CHECKSUM_BYTES - 64))
    count = _COUNT.search(tail)
    if cut < 0 or count is None or not tail.endswith(count[0]):
        return _damaged(path, 0, "its rows have no beginning or end")
    try:
        header = msgspec.json.decode(start[:cut] + b"}", type=CheckpointHeader)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _damaged(path, 0, f"its header is not valid: {error}")
    return CheckpointFinding(path, Condition.OK, header, int(count[1]), trailer[1].decode())


def _is_flipped(files: Files, fd: int, size: int, version: re.Match[bytes]) -> bool:
    """Whether a file of a seemingly newer version is one of ours with one flipped bit in the version."""
    ours = b"%d" % CHECKPOINT_VERSION
    if len(version[1]) != len(ours) or (int.from_bytes(version[1]) ^ int.from_bytes(ours)).bit_count() != 1:
        return False
    trailer = _CHECKSUM.fullmatch(files.pread(fd, _CHECKSUM_BYTES, max(0, size - _CHECKSUM_BYTES)))
    if trailer is None:
        return False
    return _digest(files, fd, size - _CHECKSUM_BYTES, (version.span(1), ours)) == trailer[1].decode()


def _digest(files: Files, fd: int, size: int, patch: tuple[tuple[int, int], bytes] | None = None) -> str:
    digest = hashlib.sha256()
    at = 0
    if patch is not None:
        (start, end), replacement = patch
        digest.update(files.pread(fd, start, 0) + replacement)
        at = end
    while at < size:
        chunk = files.pread(fd, min(STORAGE_CHUNK_BYTES, size - at), at)
        if not chunk:
            break
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest()


def _examine_baseline(files: Files, path: Path, fd: int) -> CheckpointFinding:
    parts: list[bytes] = []
    total = 0
    for chunk in read_chunks(files, fd):
        parts.append(chunk)
        total += len(chunk)
        if total > BASELINE_STATE_BYTES_MAX:
            return _damaged(path, 0, "it is neither a checkpoint nor a baseline state of a readable size")
    content = b"".join(parts)
    try:
        msgspec.json.decode(content, type=_Baseline)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _damaged(path, 0, f"it is neither a checkpoint nor a baseline state: {error}")
    return CheckpointFinding(path, Condition.OLDER, digest=hashlib.sha256(content).hexdigest())


def read_rows(files: Files, finding: CheckpointFinding) -> Iterator[bytes]:
    """The rows of a checkpoint that was found ok, each as its JSON bytes.

    Raises ``DataDirDamagedError`` when they are not as many as it says, ``StorageFailedError`` when reading fails.
    """
    path = finding.path
    count = 0
    with guarded("read the checkpoint", path), opened(files, path, OpenMode.READ) as fd:
        start = files.pread(fd, CHECKPOINT_HEADER_BYTES_MAX, 0).find(_ROWS) + len(_ROWS)
        rest = b""
        for chunk in read_chunks(files, fd, start):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            for line in lines:
                if line.startswith(b"]"):
                    if count != finding.row_count:
                        raise DataDirDamagedError(f"{path}: {count} rows, but it says {finding.row_count}")
                    return
                count += 1
                yield line.removesuffix(b",")
    raise DataDirDamagedError(f"{path}: its rows have no end")


def read_baseline(files: Files, finding: CheckpointFinding) -> bytes:
    """The bytes of a baseline ``state.json``. Raises as ``read_rows`` does."""
    with guarded("read the baseline state", finding.path):
        content = read_whole(files, finding.path, BASELINE_STATE_BYTES_MAX)
    if content is None or hashlib.sha256(content).hexdigest() != finding.digest:
        raise DataDirDamagedError(f"{finding.path} changed while it was read")
    return content


def check_row(row: bytes) -> None:
    """Raise ``RefusedError`` for what cannot be a row: no line that starts with ``[``, or too long."""
    if not row.startswith(b"[") or b"\n" in row:
        raise RefusedError("a checkpoint row must be a JSON array on one line", Reason.MALFORMED)
    if len(row) > CHECKPOINT_ROW_BYTES_MAX:
        text = f"a checkpoint row of {len(row)} bytes is over the bound of {CHECKPOINT_ROW_BYTES_MAX}: {row[:80]!r}…"
        raise RefusedError(text, Reason.TOO_LARGE)


class CheckpointFile:
    """A checkpoint being written to a temporary file. Every method may raise ``OSError``."""

    def __init__(self, files: Files, path: Path, header: CheckpointHeader) -> None:
        self._files = files
        self._path = path
        self._header = header
        self._digest = hashlib.sha256()
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._offset = 0
        self._synced = 0
        self._row_count = 0
        start = msgspec.json.encode(header)[:-1] + _ROWS
        if len(start) > CHECKPOINT_HEADER_BYTES_MAX:
            raise RefusedError(f"a checkpoint header of {len(start)} bytes is over the bound", Reason.TOO_LARGE)
        self._fd: int | None = files.open(path, OpenMode.REPLACE)
        self._put(start)

    def write_rows(self, rows: Iterable[bytes]) -> None:
        """Add rows. Raises ``RefusedError`` as ``check_row`` does."""
        for row in rows:
            check_row(row)
            self._put(b",\n" + row if self._row_count else row)
            self._row_count += 1
            if self._buffered_bytes >= STORAGE_CHUNK_BYTES:
                self._flush()

    def _put(self, data: bytes) -> None:
        self._buffer.append(data)
        self._buffered_bytes += len(data)

    def _flush(self) -> None:
        data = b"".join(self._buffer)
        self._buffer.clear()
        self._buffered_bytes = 0
        self._digest.update(data)
        fd = self._descriptor()
        self._offset = write_all(self._files, fd, data, self._offset)
        if self._offset - self._synced >= CHECKPOINT_SYNC_BYTES:
            self._files.fdatasync(fd)
            self._synced = self._offset

    def _descriptor(self) -> int:
        if self._fd is None:
            raise OSError(errno.EBADF, "the checkpoint is closed")
        return self._fd

    def finish(self) -> None:
        """Write the end, make the file durable, read it back and compare. Raises ``OSError`` when it differs."""
        self._put(b'%s],"row_count":%d,\n' % (b"\n" if self._row_count else b"", self._row_count))
        self._flush()
        checksum = self._digest.hexdigest().encode()
        self._put(b'"checksum":"sha256:%s"}\n' % checksum)
        self._flush()
        fd = self._descriptor()
        self._files.fsync(fd)
        self._files.drop_cache(fd)
        found = _examine(self._files, self._path, fd, self._offset)
        if (found.digest, found.header, found.row_count) != (checksum.decode(), self._header, self._row_count):
            raise OSError(errno.EIO, "the checkpoint reads back with other content than was written")
        self.close()

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._files.close(fd)
