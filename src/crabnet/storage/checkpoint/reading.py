"""Reading checkpoints: classifying a file after verifying its checksum, and reading its rows."""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from crabnet.errors import DataDirDamagedError
from crabnet.limits import BASELINE_STATE_BYTES_MAX, CHECKPOINT_HEADER_BYTES_MAX, STORAGE_CHUNK_BYTES
from crabnet.storage.checkpoint.format import (
    CHECKPOINT_VERSION,
    ROWS_BEGIN,
    CheckpointFinding,
    CheckpointHeader,
    Condition,
)
from crabnet.storage.files import Files, OpenMode, guarded, opened, read_chunks, read_whole

_VERSION: Final = re.compile(rb'\s*\{\s*"format"\s*:\s*"crabnet-state"\s*,\s*"version"\s*:\s*(\d{1,9})\s*[,}]')
_COUNT: Final = re.compile(rb'\],"row_count":(\d{1,18}),\n')
_CHECKSUM: Final = re.compile(rb'"checksum":"sha256:([0-9a-f]{64})"\}\n')
_CHECKSUM_BYTES: Final = 19 + 64 + 3


class _Baseline(msgspec.Struct):
    identity: dict[str, msgspec.Raw]
    seeds: dict[str, msgspec.Raw]
    bids: dict[str, msgspec.Raw]


def examine_checkpoint(files: Files, path: Path) -> CheckpointFinding:
    """Classify the file at ``path``. None of its content is used before its checksum was verified.

    A part of the medium that cannot be read (``EIO``) counts as damage. Raises ``StorageFailedError``.
    """
    with guarded("read the checkpoint", path):
        try:
            size = files.size(path)
            if size is None:
                return CheckpointFinding(path, Condition.ABSENT)
            with opened(files, path, OpenMode.READ) as fd:
                return examine_open(files, path, fd, size)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return _damaged(path, 0, f"it cannot be read: {error.strerror}")


def _damaged(path: Path, offset: int, detail: str) -> CheckpointFinding:
    return CheckpointFinding(path, Condition.DAMAGED, offset=offset, detail=detail)


def examine_open(files: Files, path: Path, fd: int, size: int) -> CheckpointFinding:
    """Classify an open file of ``size`` bytes as ``examine_checkpoint`` does. Raises ``OSError``."""
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
    cut = start.find(ROWS_BEGIN)
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
    """True if a file of a seemingly newer version is a file of our version with one flipped bit in the version."""
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
    """Yield the rows of a checkpoint that was found ok, each as its JSON bytes.

    Raises ``DataDirDamagedError`` when their number is not the stated one, and ``StorageFailedError`` when reading
    fails.
    """
    path = finding.path
    count = 0
    with guarded("read the checkpoint", path), opened(files, path, OpenMode.READ) as fd:
        start = files.pread(fd, CHECKPOINT_HEADER_BYTES_MAX, 0).find(ROWS_BEGIN) + len(ROWS_BEGIN)
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
    """Return the bytes of a baseline ``state.json``. Raises the same errors as ``read_rows``."""
    with guarded("read the baseline state", finding.path):
        content = read_whole(files, finding.path, BASELINE_STATE_BYTES_MAX)
    if content is None or hashlib.sha256(content).hexdigest() != finding.digest:
        raise DataDirDamagedError(f"{finding.path} changed while it was read")
    return content
