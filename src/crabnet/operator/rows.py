"""Locates the damage in a damaged checkpoint: the first row that differs from what the journal gives."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from crabnet.core.replica.replica import Replica
from crabnet.core.replica.snapshot import Snapshot
from crabnet.limits import CHECKPOINT_HEADER_BYTES_MAX
from crabnet.storage.files import Files, OpenMode, guarded, opened, read_chunks

_LSN: Final = re.compile(rb'"lsn":(\d{1,18}),')
_KEY: Final = re.compile(rb'\["(seed|feed|open)","([^"\\]{1,128})"')
_UNKNOWN: Final = re.compile(rb'\["(seen|totals|more)",')


def header_lsn(files: Files, path: Path) -> int | None:
    """The lsn that a checkpoint claims to cover, whatever its condition. Raises StorageFailedError."""
    with guarded("read the checkpoint", path), opened(files, path, OpenMode.READ) as fd:
        match = _LSN.search(files.pread(fd, CHECKPOINT_HEADER_BYTES_MAX, 0))
    return None if match is None else int(match[1])


def differing_row(files: Files, path: Path, replica: Replica) -> tuple[int, str] | None:
    """(offset, description) of the first row of a checkpoint that ``replica`` would not have written.

    The rows of the window of seen messages are not compared, because an audit does not keep it. Raises
    StorageFailedError.
    """
    expected: defaultdict[bytes, deque[bytes]] = defaultdict(deque)
    for row in Snapshot(replica).rows():
        match = _KEY.match(row)
        if match is not None:
            expected[match[0]].append(row)
    for offset, line in _rows(files, path):
        row = line.removesuffix(b",")
        match = _KEY.match(row)
        if match is None:
            if _UNKNOWN.match(row) and _is_json(row):
                continue
            return offset, "a node would not have written this row"
        name = f"{match[1].decode()} {match[2].decode(errors='backslashreplace')}"
        parts = expected.get(match[0])
        if not parts:
            return offset, f"{name} is not in the journal"
        if row != parts.popleft():
            return offset, f"the row of {name} differs from the journal"
    return None


def _is_json(row: bytes) -> bool:
    try:
        msgspec.json.decode(row)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _rows(files: Files, path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of every row, between the first line and the line that ends the rows."""
    offset, rest, inside = 0, b"", False
    with guarded("read the checkpoint", path), opened(files, path, OpenMode.READ) as fd:
        for chunk in read_chunks(files, fd):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if inside and line.startswith(b"],"):
                    return
                if inside:
                    yield offset, line
                inside = True
                offset += len(line) + 1
