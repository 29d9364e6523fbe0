"""A disposable index from feed positions to journal frames, in SQLite.

The journal is the truth. The index may be deleted at any time: it is built again from the frames after ``last_lsn``.
It is emptied when it is damaged, of another version, or ahead of the journal.

SQLite does not notice flipped bits, so the file has a seal (``storage/seal.py``), and each row a checksum. What was
written after the last seal stays in SQLite's write-ahead log; the next start drops that, and indexes these frames
again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

import google_crc32c
import msgspec

from crabnet.errors import CrabnetError, Reason, RefusedError, StorageFailedError
from crabnet.limits import FEED_INDEX_ROWS_PER_QUERY_MAX
from crabnet.storage.files import Files, OpenMode, guarded
from crabnet.storage.journal.segment import FramePosition
from crabnet.storage.seal import PAGE_BYTES, SUFFIX, Kind, Seal, beside, is_sealed, pages_in_wal

INDEX_NAME: Final = "index.sqlite"
UNSEALED: Final = "damaged, or not sealed when the node ended: the next start builds it again from the journal"
INDEX_KIND: Final = Kind("feed-index", 5)
_SCHEMA: Final = """
CREATE TABLE feed (feed_no INTEGER PRIMARY KEY, namespace TEXT NOT NULL, author TEXT NOT NULL,
                   UNIQUE (namespace, author));
CREATE TABLE entry (feed_no INTEGER NOT NULL, seq INTEGER NOT NULL, envelope_id TEXT NOT NULL, lsn INTEGER NOT NULL,
                    segment_first_lsn INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
                    record_no INTEGER NOT NULL, about TEXT NOT NULL, kind TEXT NOT NULL, parent TEXT NOT NULL,
                    role INTEGER NOT NULL, crc INTEGER NOT NULL,
                    PRIMARY KEY (feed_no, seq, envelope_id)) WITHOUT ROWID;
CREATE INDEX entry_about ON entry (about, envelope_id) WHERE about <> '';
CREATE TABLE marker (one INTEGER PRIMARY KEY CHECK (one = 1), last_lsn INTEGER NOT NULL);
INSERT INTO marker VALUES (1, 0);
"""
_COLUMNS: Final = (
    "f.author, e.seq, e.envelope_id, e.lsn, e.segment_first_lsn, e.offset, e.length, e.record_no,"
    " e.about, e.kind, e.parent, e.role, e.crc"
)
_DAMAGE_CODES: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_CONSTRAINT}
)
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

    @property
    def crc(self) -> int:
        """The checksum of its row."""
        return int(google_crc32c.value(msgspec.msgpack.encode(self)))


class _DamagedError(Exception):
    """The file is not what was written."""


class FeedIndex:
    """The open index. Safe to use from several threads; every call may block on the disk.

    Methods raise ``RefusedError`` (``UNAVAILABLE``) when the file turns out damaged: it has then been emptied,
    ``last_lsn`` is 0 again, and ``emptied`` tells until ``whole`` is called. They raise ``StorageFailedError`` when the
    disk fails; the ledger is not touched by that.
    """

    def __init__(self, files: Files, path: Path) -> None:
        self._files = files
        self._path = path
        self._connect()
        self._writing = threading.Lock()
        """Guards the writer and the numbers of feeds. Whoever wants both locks takes this one first."""
        self._reading = threading.Lock()
        self._feed_numbers: dict[tuple[str, str], int] = {}
        self._looked_at: int | None = 0
        self.built_anew = False
        """True if there was a file that could not be used."""
        self.emptied = False
        """True while not everything is there that was, after damage."""

    @classmethod
    def open(cls, files: Files, path: Path, *, journal_last_lsn: int) -> Self:
        """Open the index, or make an empty one when it is absent, damaged or knows frames that the journal has not.

        Afterwards index the frames after ``last_lsn``.
        """
        with guarded("open the feed index", path):
            sealed = is_sealed(files, path, INDEX_KIND)
            existed = bool(files.size(path))
            _remove(files, path, "-wal", "-shm", *([] if sealed else [SUFFIX, ""]))
        index = cls(files, path)
        index.built_anew = existed and not sealed
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
                    each.crc,
                )
                for each in entries
            ]
            connection.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            if not self.emptied:
                connection.execute("UPDATE marker SET last_lsn = max(last_lsn, ?)", (last_lsn,))

    def whole(self, last_lsn: int) -> None:
        """After damage: all frames up to ``last_lsn`` have been indexed again."""
        with self._write() as connection, connection:
            connection.execute("UPDATE marker SET last_lsn = max(last_lsn, ?)", (last_lsn,))
            self.emptied = False

    def seal(self, *, at_least_bytes: int = 0) -> None:
        """Bring everything into the main file and seal it, if as much was written since. After a crash half-way the
        index is built again.
        """
        log = beside(self._path, "-wal")
        with self._write() as connection, guarded("seal the feed index", self._path):
            if (self._files.size(log) or 0) < at_least_bytes:
                return
            self._unsealed |= pages_in_wal(self._files, log)
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            with self._reading:
                if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    return
            self._files.fsync(self._fd)
            self._seal.renew(self._files, self._fd, self._unsealed)
            self._seal.write(self._files, self._path)
            self._unsealed.clear()

    def look_at_some(self) -> None:
        """Compare a part of the main file with its seal, the next part the next time."""
        with self._write(), guarded("read the feed index", self._path):
            if self._unsealed or self._looked_at is None:
                self._looked_at = 0
                return
            if not self._seal.matches_at(self._files, self._fd, self._looked_at):
                raise _DamagedError("it is not as it was sealed")
            self._looked_at = self._seal.after(self._looked_at)

    def damaged(self, why: str) -> None:
        """What a row says is not so. Raises RefusedError, as after any damage."""
        with self._guarded("read"):
            raise _DamagedError(why)

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
            entries = [
                FeedEntry(namespace, row[0], row[1], row[2], FramePosition(*row[3:7]), row[7], *row[8:12])
                for row in rows
            ]
            if any(entry.crc != row[12] for entry, row in zip(entries, rows, strict=True)):
                raise _DamagedError("a row does not fit its checksum")
        return entries

    def _demand_whole(self) -> None:
        if self.emptied:
            raise RefusedError(
                f"{self._path} was damaged, and is being built again from the journal", Reason.UNAVAILABLE
            )

    def clear(self) -> None:
        """Empty the index; ``last_lsn`` is 0 afterwards."""
        with self._writing, self._reading:
            self._reset()

    def close(self) -> None:
        """Seal and close the index. Without a seal it is built again. Closing twice is harmless."""
        try:
            if self._fd >= 0:
                with suppress(CrabnetError):
                    self.seal()
        finally:
            with self._writing, self._reading:
                self._disconnect()

    def _connect(self) -> None:
        """Open the file, which is sealed or not there."""
        files, path = self._files, self._path
        with guarded("open the feed index", path):
            self._seal = Seal.read(files, path, INDEX_KIND) or Seal(INDEX_KIND)
            is_new = not files.size(path)
            # Held open for as long as SQLite uses the file: closing any descriptor of it would drop SQLite's locks.
            self._fd = files.open(path, OpenMode.LOCK)
        self._unsealed: set[int] = set()
        try:
            self._writer = _connected(path, "" if not is_new else _SCHEMA)
            self._reader = _connected(path, "")
            self._reader.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise _failed(error, "open", path) from error
        if is_new:
            with guarded("open the feed index", path):
                self._unsealed |= set(range(1, (files.size(path) or 0) // PAGE_BYTES + 1))

    def _disconnect(self) -> None:
        for connection in (self._reader, self._writer):
            with suppress(sqlite3.Error):
                connection.close()
        if self._fd >= 0:
            with suppress(OSError):
                self._files.close(self._fd)
        self._fd = -1

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
        self._looked_at = 0
        self._disconnect()
        with guarded("remove the feed index", self._path):
            _remove(self._files, self._path, SUFFIX, "-wal", "-shm", "")
        self._connect()

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
        except (sqlite3.Error, OverflowError, TypeError, ValueError, _DamagedError) as error:
            if not _is_damage(error):
                raise _failed(error, what, self._path) from error
            with self._writing, self._reading:
                self.emptied = True
                self._reset()
            raise RefusedError(
                f"{self._path} was damaged and is built again from the journal", Reason.UNAVAILABLE
            ) from error


def is_unsealed(files: Files, path: Path) -> bool:
    """True for an index that the next start builds again: damaged, or not sealed. Raises StorageFailedError."""
    with guarded("read the feed index", path):
        return bool(files.size(path)) and not is_sealed(files, path, INDEX_KIND)


def _bounded(limit: int) -> int:
    return min(limit, FEED_INDEX_ROWS_PER_QUERY_MAX)


def _is_damage(error: Exception) -> bool:
    """Whether the file is not the database it was: broken pages, or tables and types that we did not make."""
    if not isinstance(error, sqlite3.Error):
        return True
    if isinstance(error, sqlite3.ProgrammingError):
        return False
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF in _DAMAGE_CODES or code == sqlite3.SQLITE_ERROR)


def _failed(error: Exception, what: str, path: Path) -> StorageFailedError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    reason = Reason.DISK_FULL if code in _FULL_CODES else Reason.STORAGE_FAILED
    return StorageFailedError(f"cannot {what} the feed index: {path}: {error}", reason)


def _remove(files: Files, path: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        file = beside(path, suffix)
        if files.size(file) is not None:
            files.unlink(file)


def _connected(path: Path, schema: str) -> sqlite3.Connection:
    """A connection; with a schema, to a file that is new. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, check_same_thread=False, timeout=0)
    try:
        if schema:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        # Only a seal brings anything into the main file, and what is not durable does not match it.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA synchronous = OFF")
        if schema:
            connection.executescript(f"BEGIN;{schema}COMMIT;")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
