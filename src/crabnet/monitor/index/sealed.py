"""The index as other processes than its writer read it: the main file as it was sealed last. This changes nothing.

SQLite opens the file as immutable, so it takes no lock, ignores any write-ahead log, and makes no file. The writer
removes the seal before it changes the main file. A seal that is still there after a query proves that the query saw
one state of the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

from crabnet.monitor.index.tables import INDEX_KIND, INDEX_NAME, StaleError, Tables
from crabnet.monitor.snapshot import Snapshot
from crabnet.storage.files import Files
from crabnet.storage.origin import place_of
from crabnet.storage.seal import SUFFIX, beside, is_sealed


class SealedIndex:
    """An index that somebody else writes, or nobody. It is for one thread."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._seal = beside(path, SUFFIX)
        self._place = place_of(self._seal)
        self._tables = Tables(connection)
        self._checked: list[int] | None = None

    @classmethod
    def open(cls, files: Files, directory: Path) -> Self | None:
        """The sealed index in a directory; None if there is none that is sound and may be read."""
        path = directory / INDEX_NAME
        try:
            place = place_of(beside(path, SUFFIX))
            if place is None or not is_sealed(files, path, INDEX_KIND):
                return None
            uri = f"file:{quote(str(path.absolute()))}?immutable=1"
            opened = cls(path, sqlite3.connect(uri, uri=True, check_same_thread=False))
            if opened.is_current and opened._place == place:
                return opened
            opened.close()
        except (OSError, sqlite3.Error):
            pass
        return None

    @property
    def is_current(self) -> bool:
        """Whether nothing has been sealed since the index was opened. May raise ``OSError``."""
        return self._place is not None and place_of(self._seal) == self._place

    @contextmanager
    def reading(self, snapshot: Snapshot) -> Iterator[Tables]:
        """The tables, for one query. Raises ``StaleError`` if they cannot be used or were changed meanwhile."""
        try:
            if self._checked != snapshot.firsts:
                self._tables.check(snapshot)
                self._checked = list(snapshot.firsts)
            yield self._tables
            if not self.is_current:
                raise StaleError("it was sealed again meanwhile")
        except (sqlite3.Error, OverflowError, TypeError, ValueError) as error:
            raise StaleError(str(error)) from error

    def close(self) -> None:
        """Close the file."""
        with suppress(sqlite3.Error):
            self._tables.connection.close()
