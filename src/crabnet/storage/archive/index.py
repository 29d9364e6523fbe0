"""A disposable index from archived keys to rows in segments, in SQLite.

SQLite does not detect flipped bits, so the file has a seal beside it. An index without a matching seal is not used.

The segment that was added last stays in SQLite's write-ahead log until the next one is added. A crash loses that log.
The journal has recorded the segment before it is sealed, so a sealed index never has to remove a segment.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, Self

from crabnet.errors import Reason, RefusedError, StorageFailedError
from crabnet.limits import ARCHIVE_INDEX_BATCH_ROWS, ARCHIVE_INDEX_CACHE_KIB, ARCHIVE_INDEX_WAIT_S
from crabnet.storage.archive.segment import CREATED_AT_MAX, SegmentInfo
from crabnet.storage.files import Files, OpenMode, guarded
from crabnet.storage.seal import PAGE_BYTES, SUFFIX, Kind, Seal, beside, is_sealed, pages_in_wal

INDEX_KIND: Final = Kind("archive-index", 1)
_TABLES: Final = """
BEGIN;
CREATE TABLE segment (number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, row_count INTEGER NOT NULL);
CREATE TABLE tag (no INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, entries INTEGER NOT NULL DEFAULT 0);
CREATE TABLE owner (no INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE entry (key TEXT NOT NULL PRIMARY KEY, newest INTEGER NOT NULL, tag_no INTEGER NOT NULL,
                    owner_no INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
                    length INTEGER NOT NULL) WITHOUT ROWID;
COMMIT;
"""
_INDEXES: Final = """
BEGIN;
CREATE INDEX entry_all ON entry (newest, key);
CREATE INDEX entry_tag ON entry (tag_no, newest, key);
CREATE INDEX entry_owner ON entry (owner_no, newest, key, tag_no);
COMMIT;
"""
_ADD_TAG: Final = "INSERT OR IGNORE INTO tag (text) VALUES (?)"
_ADD_OWNER: Final = "INSERT OR IGNORE INTO owner (text) VALUES (?)"
_COUNT: Final = "UPDATE tag SET entries = entries + ? WHERE text = ?"
_UNCOUNT: Final = "UPDATE tag SET entries = entries - 1 WHERE no = (SELECT tag_no FROM entry WHERE key = ?)"
_ADD_ENTRY: Final = (
    "INSERT OR REPLACE INTO entry SELECT ?, ?, t.no, o.no, ?, ?, ? FROM tag t, owner o WHERE t.text = ? AND o.text = ?"
)
_PAGE: Final = "SELECT key, segment, offset, length, -newest FROM entry WHERE 1"
_PAGE_OF_TAG: Final = " AND tag_no = (SELECT no FROM tag WHERE text = ?)"
_PAGE_OF_OWNER: Final = " AND owner_no = (SELECT no FROM owner WHERE text = ?)"
_PAGE_AFTER: Final = " AND (newest, key) > (?, ?)"
_PAGE_ORDER: Final = " ORDER BY newest, key"
_PREFIXED: Final = "SELECT key, segment, offset, length, -newest FROM entry WHERE key >= ? AND key < ? ORDER BY key"
_LAST_CHARACTER: Final = "\U0010ffff"


class IndexDamagedError(Exception):
    """The index cannot be used and must be rebuilt."""


class Entry(NamedTuple):
    """The index's data about a row of segment ``segment``: ``offset`` and ``length`` of its line are in bytes."""

    key: str
    created_at: int
    tag: str
    owner: str
    segment: int
    offset: int
    length: int


class Pointer(NamedTuple):
    """The place of the latest row of a key. Only ``page`` sets ``created_at``."""

    key: str
    segment: int
    offset: int
    length: int
    created_at: int = 0


class _Connection:
    """A SQLite connection that one thread at a time uses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, check_same_thread=False, timeout=ARCHIVE_INDEX_WAIT_S, isolation_level=None
        )

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to one block. An error in it raises ``IndexDamagedError``.

        A full disk raises ``StorageFailedError`` instead.
        """
        with self._lock:
            try:
                yield self._connection
            except (sqlite3.Error, OverflowError, TypeError, ValueError) as error:
                with suppress(sqlite3.Error):
                    self._connection.rollback()
                if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                    raise StorageFailedError(
                        f"cannot write the index of the archive: no space left for {self._path}; free some space"
                        " and start again",
                        Reason.DISK_FULL,
                    ) from error
                raise IndexDamagedError(str(error)) from error

    def close(self) -> None:
        with self._lock, suppress(sqlite3.Error):
            self._connection.close()


class ArchiveIndex:
    """The open index. It is safe to use from several threads. Adding a segment does not block readers.

    Methods raise ``IndexDamagedError``, or ``StorageFailedError`` when the disk is full or fails.
    """

    def __init__(self, files: Files, path: Path, seal: Seal) -> None:
        self._files = files
        self._path = path
        self._seal = seal
        self._unsealed: set[int] = set()
        self._closed = False
        # Kept open as long as SQLite uses the file: closing any descriptor of it would release SQLite's locks.
        with guarded("open the index of the archive", path):
            self._fd = files.open(path, OpenMode.LOCK)
        self._connections: list[_Connection] = []
        try:
            self._writer = self._connect()
            with self._writer.use() as connection:
                connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                connection.execute("PRAGMA wal_autocheckpoint = 0")
                # Pages that are not durable do not match the seal.
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute(f"PRAGMA cache_size = -{ARCHIVE_INDEX_CACHE_KIB}")
            self._finder = self._connect()
            self._lister = self._connect()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, files: Files, path: Path) -> Self:
        """Open a sealed index. Raises ``IndexDamagedError`` when there is none, or when it differs from its seal."""
        with guarded("read the index of the archive", path):
            seal = Seal.read(files, path, INDEX_KIND)
            if seal is None or not is_sealed(files, path, INDEX_KIND):
                raise IndexDamagedError("it differs from its seal")
            # These files have the segments that were added after the seal.
            _remove(files, path, "-wal", "-shm")
        return cls(files, path, seal)

    @classmethod
    def build(cls, files: Files, path: Path, segments: Iterable[tuple[SegmentInfo, Iterable[Entry]]]) -> Self:
        """Make a new index of the given segments. It replaces an existing file."""
        with guarded("remove the index of the archive", path):
            _remove(files, path, SUFFIX, "-wal", "-shm", "")
        index = cls(files, path, Seal(INDEX_KIND))
        try:
            with index._writer.use() as connection:
                connection.execute("PRAGMA journal_mode = OFF")
                connection.executescript(_TABLES)
            for info, entries in segments:
                index._insert(info, entries)
            with index._writer.use() as connection:
                connection.executescript(_INDEXES)
                if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                    raise IndexDamagedError("SQLite cannot keep a write-ahead log here")
            with guarded("read the index of the archive", path):
                index._unsealed.update(range(1, (files.size(path) or 0) // PAGE_BYTES + 1))
            index.seal()
        except BaseException:
            index.close()
            raise
        return index

    def segments(self) -> list[SegmentInfo]:
        """The segments whose rows are in the index."""
        with self._lister.use() as connection:
            rows = connection.execute("SELECT number, sha256, row_count FROM segment ORDER BY number").fetchall()
        return [SegmentInfo(*row) for row in rows]

    def add(self, info: SegmentInfo, entries: Iterable[Entry]) -> None:
        """Add a segment. Its rows become the latest ones of their keys."""
        self.seal()
        self._insert(info, entries)

    def find(self, key: str) -> Pointer | None:
        """Return the place of the latest row of a key, ``None`` if there is none."""
        if not is_text(key):
            return None
        with self._finder.use() as connection:
            row = connection.execute("SELECT segment, offset, length FROM entry WHERE key = ?", (key,)).fetchone()
        return None if row is None else Pointer(key, *row)

    def tag_of(self, key: str) -> str | None:
        """Return the tag of the latest row of a key, ``None`` if there is none."""
        if not is_text(key):
            return None
        with self._finder.use() as connection:
            row = connection.execute("SELECT text FROM entry JOIN tag ON no = tag_no WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def page(
        self, tag: str | None, owner: str | None, limit: int, after: tuple[int, str] | None, skip: Container[str]
    ) -> list[Pointer]:
        """Return the places of the latest rows, newest first and then by key, without the keys in ``skip``.

        ``Archive.page`` explains the other arguments. Raises ``RefusedError`` when one of them is not Unicode text.
        """
        if not all(is_text(word) for word in (tag, owner, None if after is None else after[1]) if word is not None):
            raise RefusedError("a tag, owner or key in a query of the archive is not Unicode text", Reason.MALFORMED)
        if after is not None and after[0] < -CREATED_AT_MAX:
            return []
        values: list[str | int] = []
        query = _PAGE
        if tag is not None:
            query += _PAGE_OF_TAG
            values.append(tag)
        if owner is not None:
            query += _PAGE_OF_OWNER
            values.append(owner)
        if after is not None:
            query += _PAGE_AFTER
            values += [-min(after[0], CREATED_AT_MAX + 1), after[1]]
        query += _PAGE_ORDER
        with self._lister.use() as connection:
            cursor = connection.execute(query, values)
            try:
                return list(islice((Pointer(*row) for row in cursor if row[0] not in skip), limit))
            finally:
                cursor.close()

    def starting_with(self, prefix: str, limit: int, skip: Container[str]) -> list[Pointer]:
        """Return the places of the latest rows of keys with this beginning, by key, without those in ``skip``."""
        if not is_text(prefix):
            return []
        with self._lister.use() as connection:
            cursor = connection.execute(_PREFIXED, (prefix, prefix + _LAST_CHARACTER))
            try:
                return list(islice((Pointer(*row) for row in cursor if row[0] not in skip), limit))
            finally:
                cursor.close()

    def count_by_tag(self) -> dict[str, int]:
        """Return the number of keys with each tag."""
        with self._finder.use() as connection:
            return dict(connection.execute("SELECT text, entries FROM tag WHERE entries > 0").fetchall())

    def close(self) -> None:
        """Close the index without sealing it. Entries that were not sealed are lost. Closing twice is harmless."""
        if not self._closed:
            self._closed = True
            for each in self._connections:
                each.close()
            with suppress(OSError):
                self._files.close(self._fd)

    def _connect(self) -> _Connection:
        try:
            connection = _Connection(self._path)
        except sqlite3.Error as error:
            raise IndexDamagedError(str(error)) from error
        self._connections.append(connection)
        return connection

    def _insert(self, info: SegmentInfo, entries: Iterable[Entry]) -> None:
        with self._writer.use() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.execute("INSERT INTO segment VALUES (?, ?, ?)", (info.number, info.sha256, info.rows))
                iterator = iter(entries)
                while batch := list(islice(iterator, ARCHIVE_INDEX_BATCH_ROWS)):
                    _insert_batch(connection, batch)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.rollback()
                raise

    def seal(self) -> None:
        """Move everything into the main file and seal it. After a crash half-way the index must be rebuilt."""
        with self._writer.use() as connection, guarded("seal the index of the archive", self._path):
            self._unsealed |= pages_in_wal(self._files, beside(self._path, "-wal"))
            is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if is_busy:
                return
            self._files.fsync(self._fd)
            self._seal.renew(self._files, self._fd, self._unsealed)
            self._seal.write(self._files, self._path)
            self._unsealed.clear()


def _insert_batch(connection: sqlite3.Connection, batch: list[Entry]) -> None:
    """Insert rows of one segment. Each key has one row in a segment."""
    counts = Counter(each.tag for each in batch)
    connection.executemany(_ADD_TAG, [(tag,) for tag in counts])
    connection.executemany(_ADD_OWNER, [(owner,) for owner in {each.owner for each in batch}])
    connection.executemany(_UNCOUNT, [(each.key,) for each in batch])
    connection.executemany(
        _ADD_ENTRY,
        [(each.key, -each.created_at, each.segment, each.offset, each.length, each.tag, each.owner) for each in batch],
    )
    connection.executemany(_COUNT, [(count, tag) for tag, count in counts.items()])


def is_text(word: str) -> bool:
    """True if a string has no lone surrogates."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remove(files: Files, path: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        file = beside(path, suffix)
        if files.size(file) is not None:
            files.unlink(file)
