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
from crabnet.storage.journal import FramePosition

_SCHEMA_VERSION: Final = 3
_SCHEMA: Final = """
CREATE TABLE feed (feed_no INTEGER PRIMARY KEY, namespace TEXT NOT NULL, author TEXT NOT NULL,
                   UNIQUE (namespace, author));
CREATE TABLE entry (feed_no INTEGER NOT NULL, seq INTEGER NOT NULL, envelope_id TEXT NOT NULL, lsn INTEGER NOT NULL,
                    segment_first_lsn INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
                    record_no INTEGER NOT NULL, PRIMARY KEY (feed_no, seq, envelope_id)) WITHOUT ROWID;
CREATE TABLE asleep (parent TEXT NOT NULL, feed_no INTEGER NOT NULL, seq INTEGER NOT NULL, envelope_id TEXT NOT NULL,
                     PRIMARY KEY (parent, feed_no, seq)) WITHOUT ROWID;
CREATE INDEX asleep_place ON asleep (feed_no, seq);
CREATE TABLE marker (one INTEGER PRIMARY KEY CHECK (one = 1), last_lsn INTEGER NOT NULL);
INSERT INTO marker VALUES (1, 0);
"""
_FORGET_ONE: Final = "DELETE FROM asleep WHERE feed_no = ? AND seq = ?"
_FORGET_BRANCH: Final = "DELETE FROM asleep WHERE feed_no = ? AND seq >= ?"
_DAMAGE_CODES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_FULL_CODES: Final = frozenset({sqlite3.SQLITE_FULL})


class FeedEntry(NamedTuple):
    """Where an envelope of a feed lies: record ``record_no`` (from 0) of the frame at ``position``."""

    namespace: str
    author: str
    seq: int
    envelope_id: str
    position: FramePosition
    record_no: int


class Sleeper(NamedTuple):
    """An envelope whose content waits for the object ``parent``; with parent "" it waits no longer.

    With ``branch`` nor does anything behind it in its feed.
    """

    namespace: str
    author: str
    seq: int
    envelope_id: str = ""
    parent: str = ""
    branch: bool = False


class FeedIndex:
    """The open index. Safe to use from several threads; every call may block on the disk.

    Methods raise ``RefusedError`` (``UNAVAILABLE``) when the file turns out damaged: it has then been emptied and
    ``last_lsn`` is 0 again. They raise ``StorageFailedError`` when the disk fails; the ledger is not touched by that.
    """

    def __init__(self, files: Files, path: Path, connection: sqlite3.Connection) -> None:
        self._files = files
        self._path = path
        self._connection = connection
        self._lock = threading.Lock()
        self._feed_numbers: dict[tuple[str, str], int] = {}
        self._emptied = False

    @classmethod
    def open(cls, files: Files, path: Path, *, journal_last_lsn: int) -> Self:
        """Open the index, or make an empty one when it is absent, damaged or knows frames that the journal has not.

        Afterwards index the frames after ``last_lsn``.
        """
        with guarded("open the feed index", path):
            files.close(files.open(path, OpenMode.LOCK))
        index = cls(files, path, _connect(files, path))
        if index.last_lsn > journal_last_lsn:
            index.clear()
        return index

    @property
    def last_lsn(self) -> int:
        """The last frame whose envelopes are in the index."""
        with self._work("read") as connection:
            row = connection.execute("SELECT last_lsn FROM marker").fetchone()
            return int(row[0])

    def add_many(self, entries: Iterable[FeedEntry], last_lsn: int, sleepers: Iterable[Sleeper] = ()) -> None:
        """Add entries and move the marker to ``last_lsn``, in one transaction. Adding one again changes nothing.

        ``sleepers`` are taken in their order. After damage the marker stays where it is, so that the next ``open``
        finds everything to be indexed again.
        """
        with self._work("write") as connection, connection:
            rows = [
                (self._feed_no(connection, each), each.seq, each.envelope_id, *each.position, each.record_no)
                for each in entries
            ]
            connection.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            for sleeper in sleepers:
                place = (self._feed_no(connection, sleeper), sleeper.seq)
                connection.execute(_FORGET_BRANCH if sleeper.branch else _FORGET_ONE, place)
                if sleeper.parent:
                    row = (sleeper.parent, *place, sleeper.envelope_id)
                    connection.execute("INSERT INTO asleep VALUES (?, ?, ?, ?)", row)
            if not self._emptied:
                connection.execute("UPDATE marker SET last_lsn = max(last_lsn, ?)", (last_lsn,))

    def find(self, namespace: str, author: str, seq_from: int, limit: int) -> list[FeedEntry]:
        """At most ``limit`` entries of a feed from ``seq_from`` on, by (seq, envelope id): a fork shows as two."""
        with self._work("read") as connection:
            rows = connection.execute(
                "SELECT seq, envelope_id, lsn, segment_first_lsn, offset, length, record_no FROM entry"
                " WHERE feed_no = (SELECT feed_no FROM feed WHERE namespace = ? AND author = ?) AND seq >= ?"
                " ORDER BY seq, envelope_id LIMIT ?",
                (namespace, author, seq_from, min(limit, FEED_INDEX_ROWS_PER_QUERY_MAX)),
            ).fetchall()
        return [FeedEntry(namespace, author, row[0], row[1], FramePosition(*row[2:6]), row[6]) for row in rows]

    def asleep(self, namespace: str, parent: str, after: tuple[str, int], limit: int) -> list[FeedEntry]:
        """At most ``limit`` entries that wait for ``parent``, by author and seq, behind the place ``after``.

        Raises ``RefusedError`` after damage, until everything was indexed again.
        """
        if self._emptied:
            raise RefusedError(f"{self._path} was damaged; it is whole again after a restart", Reason.UNAVAILABLE)
        with self._work("read") as connection:
            rows = connection.execute(
                "SELECT f.author, e.seq, e.envelope_id, lsn, segment_first_lsn, offset, length, record_no FROM asleep a"
                " JOIN feed f ON f.feed_no = a.feed_no AND f.namespace = ?"
                " JOIN entry e ON e.feed_no = a.feed_no AND e.seq = a.seq AND e.envelope_id = a.envelope_id"
                " WHERE a.parent = ? AND (f.author, a.seq) > (?, ?) ORDER BY f.author, a.seq LIMIT ?",
                (namespace, parent, *after, min(limit, FEED_INDEX_ROWS_PER_QUERY_MAX)),
            ).fetchall()
        return [FeedEntry(namespace, row[0], row[1], row[2], FramePosition(*row[3:7]), row[7]) for row in rows]

    def clear(self) -> None:
        """Empty the index; ``last_lsn`` is 0 afterwards."""
        with self._lock:
            self._reset()

    def close(self) -> None:
        """Close the index. Closing twice is harmless."""
        with self._lock, suppress(sqlite3.Error):
            self._connection.close()

    def _feed_no(self, connection: sqlite3.Connection, entry: FeedEntry | Sleeper) -> int:
        key = (entry.namespace, entry.author)
        number = self._feed_numbers.get(key)
        if number is None:
            connection.execute("INSERT OR IGNORE INTO feed (namespace, author) VALUES (?, ?)", key)
            row = connection.execute("SELECT feed_no FROM feed WHERE namespace = ? AND author = ?", key).fetchone()
            number = self._feed_numbers[key] = int(row[0])
        return number

    def _reset(self) -> None:
        self._feed_numbers.clear()
        with suppress(sqlite3.Error):
            self._connection.close()
        _remove(self._files, self._path)
        self._connection = _connect(self._files, self._path)

    @contextmanager
    def _work(self, what: str) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except (sqlite3.Error, OverflowError, TypeError) as error:
                self._feed_numbers.clear()
                if _is_damage(error):
                    self._emptied = True
                    self._reset()
                    raise RefusedError(
                        f"{self._path} was damaged and is built again from the journal", Reason.UNAVAILABLE
                    ) from error
                raise _failed(error, what, self._path) from error


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


def _connect(files: Files, path: Path) -> sqlite3.Connection:
    try:
        connection = _prepare(files, path)
        if connection is None:
            _remove(files, path)
            connection = _prepare(files, path)
    except sqlite3.Error as error:
        raise _failed(error, "open", path) from error
    if connection is None:
        raise StorageFailedError(f"cannot open the feed index: {path} cannot be made")
    return connection


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
