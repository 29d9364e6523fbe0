"""A disposable index from archived keys to rows in segments, in SQLite.

SQLite does not notice flipped bits, so the file carries a seal beside it, ``archive.sqlite.sum``, with its SHA-256:
an index whose seal is absent or does not match is not used. Its main file changes only while a segment is added,
and is sealed again right after.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import threading
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice, product
from pathlib import Path
from typing import Final, NamedTuple, Self

from crabnet.errors import Reason, StorageFailedError
from crabnet.limits import ARCHIVE_INDEX_BATCH_ROWS, ARCHIVE_INDEX_CACHE_KIB, ARCHIVE_INDEX_WAIT_S
from crabnet.storage.archive_segment import SegmentInfo
from crabnet.storage.files import Files, OpenMode, guarded, read_chunks, read_whole, replace_file

_SCHEMA_VERSION: Final = 1
_TABLES: Final = """
BEGIN;
CREATE TABLE segment (number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, row_count INTEGER NOT NULL);
CREATE TABLE word (no INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE entry (key TEXT NOT NULL PRIMARY KEY, newest INTEGER NOT NULL, tag_no INTEGER NOT NULL,
                    owner_no INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
                    length INTEGER NOT NULL) WITHOUT ROWID;
COMMIT;
"""
_INDEXES: Final = """
BEGIN;
CREATE INDEX entry_all ON entry (newest, key);
CREATE INDEX entry_tag ON entry (tag_no, newest, key);
CREATE INDEX entry_owner ON entry (owner_no, newest, key);
CREATE INDEX entry_owner_tag ON entry (owner_no, tag_no, newest, key);
COMMIT;
"""
_ADD_WORD: Final = "INSERT OR IGNORE INTO word (text) VALUES (?), (?)"
_ADD_ENTRY: Final = (
    "INSERT OR REPLACE INTO entry SELECT ?, ?, t.no, o.no, ?, ?, ? FROM word t, word o WHERE t.text = ? AND o.text = ?"
)
_PAGES: Final = {
    (has_tag, has_owner, has_after): "SELECT key, segment, offset, length FROM entry WHERE 1"
    + " AND tag_no = (SELECT no FROM word WHERE text = ?)" * has_tag
    + " AND owner_no = (SELECT no FROM word WHERE text = ?)" * has_owner
    + " AND (newest, key) > (?, ?)" * has_after
    + " ORDER BY newest, key"
    for has_tag, has_owner, has_after in product((False, True), repeat=3)
}
_SEAL: Final = re.compile(rb"crabnet-archive-index (\d{4}) ([0-9a-f]{64})\n")
_SEAL_BYTES_MAX: Final = 256


class IndexDamagedError(Exception):
    """The index cannot be used and must be built again."""


class Entry(NamedTuple):
    """A row of segment ``segment`` as the index knows it: ``offset`` and ``length`` of its line in bytes."""

    key: str
    created_at: int
    tag: str
    owner: str
    segment: int
    offset: int
    length: int


class Pointer(NamedTuple):
    """Where the latest row of a key lies."""

    key: str
    segment: int
    offset: int
    length: int


class _Connection:
    """A SQLite connection used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, check_same_thread=False, timeout=ARCHIVE_INDEX_WAIT_S, isolation_level=None
        )

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """Raise ``StorageFailedError`` when the disk is full, ``IndexDamagedError`` for everything else."""
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
    """The open index. Safe to use from several threads; adding a segment does not hold up readers.

    Methods raise ``IndexDamagedError``, or ``StorageFailedError`` when the disk is full or fails.
    """

    def __init__(self, files: Files, path: Path) -> None:
        self._files = files
        self._path = path
        self._closed = False
        # Held open for as long as SQLite uses the file: closing any descriptor of it would drop SQLite's locks.
        with guarded("open the index of the archive", path):
            self._fd = files.open(path, OpenMode.LOCK)
        self._connections: list[_Connection] = []
        try:
            self._writer = self._connect()
            with self._writer.use() as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA wal_autocheckpoint = 0")
                # What is not durable does not match the seal.
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute(f"PRAGMA cache_size = -{ARCHIVE_INDEX_CACHE_KIB}")
            self._finder = self._connect()
            self._lister = self._connect()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, files: Files, path: Path) -> Self:
        """Open a sealed index. Raises ``IndexDamagedError`` when there is none, or it is not as it was sealed."""
        with guarded("read the index of the archive", path):
            seal = _SEAL.fullmatch(read_whole(files, _seal_path(path), _SEAL_BYTES_MAX) or b"")
            if seal is None or int(seal[1]) != _SCHEMA_VERSION or files.size(path) is None:
                raise IndexDamagedError("there is no seal of this version")
            fd = files.open(path, OpenMode.READ)
            try:
                if _digest(files, fd) != seal[2].decode():
                    raise IndexDamagedError("it is not as it was sealed")
            finally:
                files.close(fd)
            # They hold what was added after the seal.
            _remove(files, path, "-wal", "-shm")
        return cls(files, path)

    @classmethod
    def build(cls, files: Files, path: Path, segments: Iterable[tuple[SegmentInfo, Iterable[Entry]]]) -> Self:
        """Make a new index of the given segments, in the place of whatever is there."""
        with guarded("remove the index of the archive", path):
            _remove(files, path, ".sum", "-wal", "-shm", "")
        index = cls(files, path)
        try:
            with index._writer.use() as connection:
                connection.executescript(_TABLES)
            for info, entries in segments:
                index._insert(info, entries)
            with index._writer.use() as connection:
                connection.executescript(_INDEXES)
            index._seal()
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
        """Add a segment: its rows are from now on the latest ones of their keys."""
        self._insert(info, entries)
        self._seal()

    def find(self, key: str) -> Pointer | None:
        """Where the latest row of a key is."""
        try:
            key.encode()
        except UnicodeEncodeError:
            return None
        with self._finder.use() as connection:
            row = connection.execute("SELECT segment, offset, length FROM entry WHERE key = ?", (key,)).fetchone()
        return None if row is None else Pointer(key, *row)

    def tag_of(self, key: str) -> str | None:
        """The tag of the latest row of a key."""
        with self._finder.use() as connection:
            row = connection.execute("SELECT text FROM entry JOIN word ON no = tag_no WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def page(
        self, tag: str | None, owner: str | None, limit: int, after: tuple[int, str] | None, skip: Container[str]
    ) -> list[Pointer]:
        """The latest rows, newest first and then by key, without the keys in ``skip``."""
        values: list[str | int] = [word for word in (tag, owner) if word is not None]
        if after is not None:
            values += [-after[0], after[1]]
        query = _PAGES[tag is not None, owner is not None, after is not None]
        with self._lister.use() as connection:
            cursor = connection.execute(query, values)
            try:
                return list(islice((Pointer(*row) for row in cursor if row[0] not in skip), limit))
            finally:
                cursor.close()

    def count_by_tag(self) -> dict[str, int]:
        """How many keys have each tag."""
        query = "SELECT text, n FROM (SELECT tag_no, count(*) AS n FROM entry GROUP BY tag_no) JOIN word ON no = tag_no"
        with self._lister.use() as connection:
            return dict(connection.execute(query).fetchall())

    def close(self) -> None:
        """Close the index. Closing twice is harmless."""
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
                    connection.executemany(_ADD_WORD, [(each.tag, each.owner) for each in batch])
                    connection.executemany(
                        _ADD_ENTRY,
                        [
                            (each.key, -each.created_at, each.segment, each.offset, each.length, each.tag, each.owner)
                            for each in batch
                        ],
                    )
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.rollback()
                raise

    def _seal(self) -> None:
        """Bring everything into the main file and write down its SHA-256; without a seal it is built again."""
        with self._writer.use() as connection:
            is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if is_busy:
                return
            with guarded("seal the index of the archive", self._path):
                self._files.fsync(self._fd)
                digest = _digest(self._files, self._fd).encode()
                replace_file(
                    self._files,
                    _seal_path(self._path),
                    b"crabnet-archive-index %04d %s\n" % (_SCHEMA_VERSION, digest),
                )


def _seal_path(path: Path) -> Path:
    return path.with_name(path.name + ".sum")


def _digest(files: Files, fd: int) -> str:
    digest = hashlib.sha256()
    for chunk in read_chunks(files, fd):
        digest.update(chunk)
    return digest.hexdigest()


def _remove(files: Files, path: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        file = path.with_name(path.name + suffix)
        if files.size(file) is not None:
            files.unlink(file)
