"""The seal of an index: a CRC-32C of every page of the SQLite file, because SQLite keeps no checksums.

The seal is a file with the same name and the suffix ``.sum``. It has the line ``crabnet-NAME VVVV <pages, 20 digits>
<crc of the rest, 8 hex>`` and then four bytes for every page. The cost of sealing again grows with the changed pages,
not with the size of the file. Between two seals the main file does not change: writes stay in SQLite's write-ahead log.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, Self

import google_crc32c

from crabnet.limits import SEAL_BYTES_MAX, STORAGE_CHUNK_BYTES
from crabnet.storage.files import Files, OpenMode, opened, read_whole, replace_file

PAGE_BYTES: Final = 4_096

_FIRST_LINE: Final = re.compile(rb"crabnet-([a-z-]{1,32}) (\d{4}) (\d{20}) ([0-9a-f]{8})\n")
SUFFIX: Final = ".sum"
_PAGES_AT_ONCE: Final = STORAGE_CHUNK_BYTES // PAGE_BYTES
_WAL_HEADER_BYTES: Final = 32
_WAL_FRAME_HEADER_BYTES: Final = 24
_WAL_FRAME_BYTES: Final = _WAL_FRAME_HEADER_BYTES + PAGE_BYTES


class Kind(NamedTuple):
    """The name and version of the schema of a sealed file. A file of another version is rebuilt."""

    name: str
    version: int


class Seal:
    """The checksums of all pages. Methods raise ``OSError``."""

    def __init__(self, kind: Kind, sums: array[int] | None = None) -> None:
        self._kind = kind
        self._sums: array[int] = array("I") if sums is None else sums

    @classmethod
    def read(cls, files: Files, path: Path, kind: Kind) -> Self | None:
        """Return the seal of the file at ``path``, ``None`` when there is no sound one of this kind."""
        content = read_whole(files, beside(path, SUFFIX), SEAL_BYTES_MAX)
        line = None if content is None else _FIRST_LINE.match(content)
        if content is None or line is None or (line[1].decode(), int(line[2])) != kind:
            return None
        table = content[line.end() :]
        if len(table) != 4 * int(line[3]) or google_crc32c.value(table) != int(line[4], 16):
            return None
        return cls(kind, _little_endian(array("I", table)))

    def write(self, files: Files, path: Path) -> None:
        """Write the seal durably beside the file at ``path``."""
        table = _little_endian(self._sums[:]).tobytes()
        words = (self._kind.name.encode(), self._kind.version, len(self._sums), google_crc32c.value(table))
        replace_file(files, beside(path, SUFFIX), b"crabnet-%s %04d %020d %08x\n" % words + table)

    def matches(self, files: Files, fd: int) -> bool:
        """True if every page of a file is as it was sealed."""
        number: int | None = 0
        while number is not None:
            if not self.matches_at(files, fd, number):
                return False
            number = self.after(number)
        return True

    def matches_at(self, files: Files, fd: int, number: int) -> bool:
        """True if one part of a file is as it was sealed. The part begins at page ``number``, counted from 0.

        The last part, for which ``after`` returns ``None``, must also end with the file.
        """
        chunk = files.pread(fd, STORAGE_CHUNK_BYTES, number * PAGE_BYTES)
        sums = self._sums[number : number + _PAGES_AT_ONCE]
        if len(chunk) != len(sums) * PAGE_BYTES:
            return False
        pages = (chunk[at : at + PAGE_BYTES] for at in range(0, len(chunk), PAGE_BYTES))
        if any(google_crc32c.value(page) != wanted for page, wanted in zip(pages, sums, strict=True)):
            return False
        return self.after(number) is not None or not files.pread(fd, 1, len(self._sums) * PAGE_BYTES)

    def after(self, number: int) -> int | None:
        """Return the first page of the part after the one at ``number``, None if that is the last part."""
        return number + _PAGES_AT_ONCE if number + _PAGES_AT_ONCE < len(self._sums) else None

    def renew(self, files: Files, fd: int, pages: Iterable[int]) -> None:
        """Compute the checksums of some pages again, counted from 1. Pages that the file does not have are skipped."""
        for number in sorted(pages):
            page = files.pread(fd, PAGE_BYTES, (number - 1) * PAGE_BYTES)
            if page:
                self._sums.extend([0] * (number - len(self._sums)))
                self._sums[number - 1] = google_crc32c.value(page)


def pages_in_wal(files: Files, path: Path) -> set[int]:
    """Return the numbers of the pages in a write-ahead log of SQLite. It may be more pages than SQLite would apply.

    The log's format is https://www.sqlite.org/fileformat2.html#the_write_ahead_log. Raises ``OSError``.
    """
    size = files.size(path)
    numbers: set[int] = set()
    if size is None:
        return numbers
    frames_per_chunk = STORAGE_CHUNK_BYTES // _WAL_FRAME_BYTES
    with opened(files, path, OpenMode.READ) as fd:
        for start in range(_WAL_HEADER_BYTES, size, frames_per_chunk * _WAL_FRAME_BYTES):
            chunk = files.pread(fd, frames_per_chunk * _WAL_FRAME_BYTES, start)
            numbers |= {int.from_bytes(chunk[at : at + 4], "big") for at in range(0, len(chunk), _WAL_FRAME_BYTES)}
    numbers.discard(0)
    return numbers


def is_sealed(files: Files, path: Path, kind: Kind) -> bool:
    """True if a file exists and is as it was sealed. Raises ``OSError``."""
    seal = Seal.read(files, path, kind)
    if seal is None or files.size(path) is None:
        return False
    with opened(files, path, OpenMode.READ) as fd:
        return seal.matches(files, fd)


def beside(path: Path, suffix: str) -> Path:
    """Return ``path`` with a suffix added to the name."""
    return path.with_name(path.name + suffix)


def _little_endian(sums: array[int]) -> array[int]:
    if sys.byteorder == "big":
        sums.byteswap()
    return sums
