"""Writing a checkpoint, and reading it back before it is put in place."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from crabnet.errors import Reason, RefusedError
from crabnet.limits import (
    CHECKPOINT_HEADER_BYTES_MAX,
    CHECKPOINT_ROW_BYTES_MAX,
    CHECKPOINT_SYNC_BYTES,
    STORAGE_CHUNK_BYTES,
)
from crabnet.storage.checkpoint.format import ROWS_BEGIN, CheckpointHeader
from crabnet.storage.checkpoint.reading import examine_open
from crabnet.storage.files import Files, OpenMode, write_all


def check_row(row: bytes) -> None:
    """Raise ``RefusedError`` for bytes that cannot be a row: not one line that starts with ``[``, or too long."""
    if not row.startswith(b"[") or b"\n" in row:
        raise RefusedError("a checkpoint row must be a JSON array on one line", Reason.MALFORMED)
    if len(row) > CHECKPOINT_ROW_BYTES_MAX:
        text = f"a checkpoint row of {len(row)} bytes exceeds the limit of {CHECKPOINT_ROW_BYTES_MAX}: {row[:80]!r}…"
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
        start = msgspec.json.encode(header)[:-1] + ROWS_BEGIN
        if len(start) > CHECKPOINT_HEADER_BYTES_MAX:
            raise RefusedError(f"a checkpoint header of {len(start)} bytes exceeds the limit", Reason.TOO_LARGE)
        self._fd: int | None = files.open(path, OpenMode.REPLACE)
        self._put(start)

    def write_rows(self, rows: Iterable[bytes]) -> None:
        """Add rows. Also raises ``RefusedError`` as ``check_row`` does."""
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
        """Write the end, make the file durable, read it back and compare. Raises ``OSError`` if it differs."""
        self._put(b'%s],"row_count":%d,\n' % (b"\n" if self._row_count else b"", self._row_count))
        self._flush()
        checksum = self._digest.hexdigest().encode()
        self._put(b'"checksum":"sha256:%s"}\n' % checksum)
        self._flush()
        fd = self._descriptor()
        self._files.fsync(fd)
        self._files.drop_cache(fd)
        found = examine_open(self._files, self._path, fd, self._offset)
        if (found.digest, found.header, found.row_count) != (checksum.decode(), self._header, self._row_count):
            raise OSError(errno.EIO, "the checkpoint has other content when it is read back than was written")
        self.close()

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._files.close(fd)
