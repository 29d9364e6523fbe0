"""The seal of the archive's index: a CRC-32C of every page of the SQLite file, since SQLite keeps none.

``archive.sqlite.sum`` is the line ``crabnet-archive-index VVVV <pages, 20 digits> <crc of the rest, 8 hex>`` and then
four bytes for every page. To seal again costs as much as has changed, not as much as there is.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

import google_crc32c

from crabnet.limits import ARCHIVE_SEAL_BYTES_MAX, STORAGE_CHUNK_BYTES
from crabnet.storage.files import Files, OpenMode, opened, read_whole, replace_file

SEAL_VERSION: Final = 1
"""Also the version of the schema: another one is built again."""
PAGE_BYTES: Final = 4_096

_FIRST_LINE: Final = re.compile(rb"crabnet-archive-index (\d{4}) (\d{20}) ([0-9a-f]{8})\n")
_FIRST_LINE_BYTES: Final = 22 + 5 + 21 + 9
_WAL_HEADER_BYTES: Final = 32
_WAL_FRAME_HEADER_BYTES: Final = 24
_WAL_FRAME_BYTES: Final = _WAL_FRAME_HEADER_BYTES + PAGE_BYTES


class Seal:
    """The sums of all pages. Methods raise ``OSError``."""

    def __init__(self, sums: array[int]) -> None:
        self._sums = sums

    @classmethod
    def empty(cls) -> Self:
        return cls(array("I"))

    @classmethod
    def read(cls, files: Files, path: Path) -> Self | None:
        """The seal at ``path``; ``None`` when there is no sound one of this version."""
        content = read_whole(files, path, ARCHIVE_SEAL_BYTES_MAX)
        if content is None:
            return None
        table = content[_FIRST_LINE_BYTES:]
        line = _FIRST_LINE.fullmatch(content[:_FIRST_LINE_BYTES])
        if line is None or int(line[1]) != SEAL_VERSION or len(table) != 4 * int(line[2]):
            return None
        if google_crc32c.value(table) != int(line[3], 16):
            return None
        return cls(_little_endian(array("I", table)))

    def write(self, files: Files, path: Path) -> None:
        """Put the seal at ``path``, durably."""
        table = _little_endian(self._sums[:]).tobytes()
        words = (SEAL_VERSION, len(self._sums), google_crc32c.value(table))
        replace_file(files, path, b"crabnet-archive-index %04d %020d %08x\n" % words + table)

    def matches(self, files: Files, fd: int) -> bool:
        """Whether a file is page by page as it was sealed."""
        number = 0
        while chunk := files.pread(fd, STORAGE_CHUNK_BYTES, number * PAGE_BYTES):
            for at in range(0, len(chunk), PAGE_BYTES):
                page = chunk[at : at + PAGE_BYTES]
                if number >= len(self._sums) or google_crc32c.value(page) != self._sums[number]:
                    return False
                number += 1
        return number == len(self._sums)

    def renew(self, files: Files, fd: int, pages: Iterable[int]) -> None:
        """Take the sums of some pages of a file, counted from 1, again; of the ones that it has."""
        for number in sorted(pages):
            page = files.pread(fd, PAGE_BYTES, (number - 1) * PAGE_BYTES)
            if page:
                self._sums.extend([0] * (number - len(self._sums)))
                self._sums[number - 1] = google_crc32c.value(page)


def pages_in_wal(files: Files, path: Path) -> set[int]:
    """The numbers of the pages in a write-ahead log of SQLite; there may be some more than it would apply.

    The log's format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
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


def _little_endian(sums: array[int]) -> array[int]:
    if sys.byteorder == "big":
        sums.byteswap()
    return sums
