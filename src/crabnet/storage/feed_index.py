"""A disposable index from feed positions to journal frames, in SQLite.

The journal is the truth. The index may be deleted at any time: it is built again from the frames after ``last_lsn``.
It is emptied when it is damaged, of another version, or ahead of the journal. What it points to is verified by the
ledger (CRC, lsn), so a wrong pointer is noticed.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from crabnet.errors import Reason, RefusedError, StorageFailedError
from crabnet.limits import FEED_INDEX_ROWS_PER_QUERY_MAX
from crabnet.storage.files import Files, OpenMode, guarded
from crabnet.storage.journal.segment import FramePosition

_SCHEMA_VERSION: Final = 4
_SCHEMA: Final = """
CREATE TABLE feed (feed_no INTEGER PRIMARY KEY, namespace TEXT NOT NULL, author TEXT NOT NULL,
                   UNIQUE (namespace, author));
CREATE TABLE entry (feed_no INTEGER NOT NULL, seq INTEGER NOT NULL, envelope_id TEXT NOT NULL, lsn INTEGER NOT NULL,
                    segment_first_lsn INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
                    record_no INTEGER NOT NULL, about TEXT NOT NULL, kind TEXT NOT NULL, parent TEXT NOT NULL,
                    role INTEGER NOT NULL, PRIMARY KEY (feed_no, seq, envelope_id)) WITHOUT ROWID;
CREATE INDEX entry_about ON entry (about, envelope_id) WHERE about <> '';
CREATE TABLE marker (one INTEGER PRIMARY KEY CHECK (one = 1), last_lsn INTEGER NOT NULL);
INSERT INTO marker VALUES (1, 0);
"""
_COLUMNS: Final = (
    "f.author, e.seq, e.envelope_id, e.lsn, e.segment_first_lsn, e.offset, e.length, e.record_no,"
    " e.about, e.kind, e.parent, e.role"
)
_DAMAGE_CODES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FULL_CODES: Final = frozenset({sqlite3.SQLITE_FULL})


class FeedEntry(NamedTuple):
    """Where an envelope of a feed lies: record ``record_no`` (from 0) of the frame at ``position``.

    What it is ``about``, its ``kind``, ``parent`` and ``role`` mean nothing here: texts and a number to find it by.
    """

    namespace: str
    author: str
    seq: int
    envelope_id: str
    position: FramePosition
    record_no: int
    about: str = ""
    kind: str = ""
    parent: str = ""
    role: int = 0


class FeedIndex:
    """The open index. Safe to use from several threads; every call may block on the disk.

    Methods raise ``RefusedError`` (``UNAVAILABLE``) when the file turns out damaged: it has then been emptied and
    ``last_lsn`` is 0 again. They raise ``StorageFailedError`` when the disk fails; the ledger is not touched by that.
    """

    def __init__(self, files: Files, path: Path) -> None:
        self._files = files
        self._path = path
        self._writer, self._reader = _connect(files, path)
        self._writing = threading.Lock()
        """Guards the writer and the numbers of feeds. Whoever wants both locks takes this one first."""
        self._reading = threading.Lock()
        self._feed_numbers: dict[tuple[str, str], int] = {}
        self._emptied = False

    @classmethod
    def open(cls, files: Files, path: Path, *, journal_last_lsn: int) -> Self:
        """Open the index, or make an empty one when it is absent, damaged or knows frames that the journal has not.

        Afterwards index the frames after ``last_lsn``.
        """
        with guarded("open the feed index", path):
            files.close(files.open(path, OpenMode.LOCK))
        index = cls(files, path)
        if index.last_lsn > journal_last_lsn:
            index.clear()
        return index

    @property
    def last_lsn(self) -> int:
        """The last frame whose envelopes are in the index."""
        with self._read() as connection:
            row = connection.execute("SELECT last_lsn FROM marker").fetchone()
            return int(row[0])

    def add_many(self, entries: Iterable[FeedEntry], last_lsn: int) -> None:
        """Add entries and move the marker to ``last_lsn``, in one transaction. Adding one again replaces it.

        After damage the marker stays where it is, so that the next ``open`` finds everything to be indexed again.
        """
        with self._write() as connection, connection:
            rows = [
                (
                    self._feed_no(connection, each),
                    each.seq,
                    each.envelope_id,
                    *each.position,
                    each.record_no,
                    each.about,
                    each.kind,
                    each.parent,
                    each.role,
                )
                for each in entries
            ]
            connection.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            if not self._emptied:
                connection.execute("UPDATE marker SET last_lsn = max(last_lsn, ?)", (last_lsn,))

    def find(self, namespace: str, author: str, seq_from: int, limit: int) -> list[FeedEntry]:
        """At most ``limit`` entries of a feed from ``seq_from`` on, by (seq, envelope id): a fork shows as two."""
        where = "f.namespace = ? AND f.author = ? AND e.seq >= ? ORDER BY e.seq, e.envelope_id LIMIT ?"
        return self._select(namespace, where, (namespace, author, seq_from, _bounded(limit)))

    def find_at(self, namespace: str, author: str, seq: int) -> FeedEntry | None:
        """The entry of a feed at a place, that with the lowest id. Raises ``RefusedError`` after damage, too."""
        self._demand_whole()
        found = self.find(namespace, author, seq, 1)
        return found[0] if found and found[0].seq == seq else None

    def find_about(self, namespace: str, about: str, envelope_id: str) -> FeedEntry | None:
        """The envelope about something with this id. Raises ``RefusedError`` after damage, too."""
        self._demand_whole()
        where = "e.about = ? AND e.envelope_id = ? AND e.about <> '' AND f.namespace = ?"
        found = self._select(namespace, where, (about, envelope_id, namespace))
        return found[0] if found else None

    def all_about(self, namespace: str, about: str, kinds: Iterable[str], role: int) -> list[FeedEntry]:
        """All about something, of these kinds and this role. Raises ``RefusedError`` after damage, too."""
        self._demand_whole()
        chosen = list(kinds)
        marks = ", ".join("?" * len(chosen))
        where = f"e.about = ? AND e.about <> '' AND f.namespace = ? AND e.role = ? AND e.kind IN ({marks})"
        return self._select(namespace, where, (about, namespace, role, *chosen))

    def find_from(self, namespace: str, author: str, seq_from: int, limit: int) -> list[FeedEntry]:
        """As ``find``, but only what is about something and has a role. Raises ``RefusedError`` after damage, too."""
        self._demand_whole()
        where = (
            "f.namespace = ? AND f.author = ? AND e.seq >= ? AND e.role > 0 AND e.about <> ''"
            " ORDER BY e.seq, e.envelope_id LIMIT ?"
        )
        return self._select(namespace, where, (namespace, author, seq_from, _bounded(limit)))

    def _select(self, namespace: str, where: str, values: tuple[str | int, ...]) -> list[FeedEntry]:
        with self._read() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM entry e JOIN feed f ON f.feed_no = e.feed_no WHERE {where}",  # noqa: S608
                values,
            ).fetchall()
        return [
            FeedEntry(namespace, row[0], row[1], row[2], FramePosition(*row[3:7]), row[7], *row[8:]) for row in rows
        ]

    def _demand_whole(self) -> None:
        if self._emptied:
            raise RefusedError(f"{self._path} was damaged; it is whole again after a restart", Reason.UNAVAILABLE)

    def clear(self) -> None:
        """Empty the index; ``last_lsn`` is 0 afterwards."""
        with self._writing, self._reading:
            self._reset()

    def close(self) -> None:
        """Close the index. Closing twice is harmless."""
        with self._writing, self._reading:
            self._disconnect()

    def _disconnect(self) -> None:
        for connection in (self._reader, self._writer):
            with suppress(sqlite3.Error):
                connection.close()

    def _feed_no(self, connection: sqlite3.Connection, entry: FeedEntry) -> int:
        key = (entry.namespace, entry.author)
        number = self._feed_numbers.get(key)
        if number is None:
            connection.execute("INSERT OR IGNORE INTO feed (namespace, author) VALUES (?, ?)", key)
            row = connection.execute("SELECT feed_no FROM feed WHERE namespace = ? AND author = ?", key).fetchone()
            number = self._feed_numbers[key] = int(row[0])
        return number

    def _reset(self) -> None:
        self._feed_numbers.clear()
        self._disconnect()
        _remove(self._files, self._path)
        self._writer, self._reader = _connect(self._files, self._path)

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        """In WAL mode a reader does not wait for the writer: the node's loop reads while a thread commits."""
        with self._guarded("read"), self._reading:
            yield self._reader

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._guarded("write"), self._writing:
            try:
                yield self._writer
            except BaseException:
                self._feed_numbers.clear()  # some of them may be of rows that are rolled back
                raise

    @contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError, TypeError) as error:
            if not _is_damage(error):
                raise _failed(error, what, self._path) from error
            with self._writing, self._reading:
                self._emptied = True
                self._reset()
            raise RefusedError(
                f"{self._path} was damaged and is built again from the journal", Reason.UNAVAILABLE
            ) from error


def _bounded(limit: int) -> int:
    return min(limit, FEED_INDEX_ROWS_PER_QUERY_MAX)


def _is_damage(error: Exception) -> bool:
    """Whether the file is not the database it was: broken pages, or tables and types that we did not make."""
    if not isinstance(error, sqlite3.Error):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF in _DAMAGE_CODES or code == sqlite3.SQLITE_ERROR)


def _failed(error: Exception, what: str, path: Path) -> StorageFailedError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    reason = Reason.DISK_FULL if code in _FULL_CODES else Reason.STORAGE_FAILED
    return StorageFailedError(f"cannot {what} the feed index: {path}: {error}", reason)


def _remove(files: Files, path: Path) -> None:
    with guarded("remove the feed index", path):
        for suffix in ("-wal", "-shm", ""):
            file = path.with_name(path.name + suffix)
            if files.size(file) is not None:
                files.unlink(file)


def _connect(files: Files, path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """A connection to write with, and one to read with."""
    try:
        writer = _prepare(files, path)
        if writer is None:
            _remove(files, path)
            writer = _prepare(files, path)
        if writer is None:
            raise StorageFailedError(f"cannot open the feed index: {path} cannot be made")
        return writer, _open_reader(writer, path)
    except sqlite3.Error as error:
        raise _failed(error, "open", path) from error


def _open_reader(writer: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    try:
        reader = sqlite3.connect(path, check_same_thread=False)
        reader.execute("PRAGMA query_only = ON")
    except sqlite3.Error:
        writer.close()
        raise
    return reader


def _prepare(files: Files, path: Path) -> sqlite3.Connection | None:
    """A connection to a sound index of this version; ``None`` when the file is anything else."""
    with guarded("open the feed index", path):
        files.close(files.open(path, OpenMode.LOCK))
    connection = sqlite3.connect(path, check_same_thread=False, timeout=0)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            connection.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version = {_SCHEMA_VERSION};COMMIT;")
            version = _SCHEMA_VERSION
        sound = version == _SCHEMA_VERSION and connection.execute("SELECT count(*) FROM marker").fetchone()[0] == 1
        sound = sound and connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    except sqlite3.Error as error:
        connection.close()
        if _is_damage(error):
            return None
        raise
    if sound:
        return connection
    connection.close()
    return None
