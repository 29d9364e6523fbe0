"""A disposable index from feed positions to journal frames, in SQLite.

Only the journal is authoritative. The index may be deleted at any time: the node rebuilds it from the frames after
``last_lsn``. It is emptied when it is damaged, of another version, or ahead of the journal.

SQLite does not detect flipped bits, so the file has a seal (``storage/seal.py``), and each row has a checksum. Writes
after the last seal stay in SQLite's write-ahead log. The next start drops that log and indexes these frames again.
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
UNSEALED: Final = "damaged, or not sealed when the node ended: the next start rebuilds it from the journal"
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
    """The place of an envelope of a feed: record ``record_no`` (from 0) of the frame at ``position``.

    The index does not interpret ``about``, ``kind``, ``parent`` and ``role``. They are texts and a number that serve
    as search keys.
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
        """The checksum of the entry's row."""
        return int(google_crc32c.value(msgspec.msgpack.encode(self)))


class _DamagedError(Exception):
    """The file does not have the content that was written."""


class FeedIndex:
    """The open index. It is safe to use from several threads. Every call may block on the disk.

    Methods raise ``RefusedError`` (``UNAVAILABLE``) when they find the file damaged. They have then emptied it:
    ``last_lsn`` is 0 again, and ``emptied`` is true until ``whole`` is called. Methods raise ``StorageFailedError``
    when the disk fails, which does not affect the ledger.
    """

    def __init__(self, files: Files, path: Path) -> None:
        self._files = files
        self._path = path
        self._connect()
        self._writing = threading.Lock()
        """Guards the writer and the numbers of feeds. Code that needs both locks takes this one first."""
        self._reading = threading.Lock()
        self._feed_numbers: dict[tuple[str, str], int] = {}
        self._looked_at: int | None = 0
        self.built_anew = False
        """True if there was a file that could not be used."""
        self.emptied = False
        """True after damage, until all earlier entries are in the index again."""

    @classmethod
    def open(cls, files: Files, path: Path, *, journal_last_lsn: int) -> Self:
        """Open the index. Make an empty one if it is absent, damaged, or has frames that the journal lacks.

        The caller must then index the frames after ``last_lsn``. Raises ``StorageFailedError``.
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
        """Add entries and move the marker to ``last_lsn``, in one transaction. An entry added again replaces itself.

        While ``emptied`` is true, the marker stays where it is, so that after the next ``open`` every frame is indexed
        again.
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
        """End the state after damage: the caller has indexed all frames up to ``last_lsn`` again."""
        with self._write() as connection, connection:
            connection.execute("UPDATE marker SET last_lsn = max(last_lsn, ?)", (last_lsn,))
            self.emptied = False

    def seal(self, *, at_least_bytes: int = 0) -> None:
        """Move everything into the main file and seal it. After a crash half-way the next start rebuilds the index.

        It does nothing if the write-ahead log has fewer than ``at_least_bytes`` bytes.
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
        """Compare one part of the main file with its seal. The next call compares the next part."""
        with self._write(), guarded("read the feed index", self._path):
            if self._unsealed or self._looked_at is None:
                self._looked_at = 0
                return
            if not self._seal.matches_at(self._files, self._fd, self._looked_at):
                raise _DamagedError("it differs from its seal")
            self._looked_at = self._seal.after(self._looked_at)

    def damaged(self, why: str) -> None:
        """Report that a row is false, for the reason ``why``. Always raises RefusedError, as after any damage."""
        with self._guarded("read"):
            raise _DamagedError(why)

    def find(self, namespace: str, author: str, seq_from: int, limit: int) -> list[FeedEntry]:
        """Return at most ``limit`` entries of a feed from ``seq_from`` on, ordered by (seq, envelope id).

        A fork shows as two entries with one seq.
        """
        where = "f.namespace = ? AND f.author = ? AND e.seq >= ? ORDER BY e.seq, e.envelope_id LIMIT ?"
        return self._select(namespace, where, (namespace, author, seq_from, _bounded(limit)))

    def find_at(self, namespace: str, author: str, seq: int) -> FeedEntry | None:
        """Return the entry of a feed at a place. Of several, it is the one with the lowest id.

        Also raises ``RefusedError`` while ``emptied`` is true.
        """
        self._demand_whole()
        found = self.find(namespace, author, seq, 1)
        return found[0] if found and found[0].seq == seq else None

    def find_about(self, namespace: str, about: str, envelope_id: str) -> FeedEntry | None:
        """Return the entry with this ``about`` and envelope id, if any.

        Also raises ``RefusedError`` while ``emptied`` is true.
        """
        self._demand_whole()
        where = "e.about = ? AND e.envelope_id = ? AND e.about <> '' AND f.namespace = ?"
        found = self._select(namespace, where, (about, envelope_id, namespace))
        return found[0] if found else None

    def all_about(self, namespace: str, about: str, kinds: Iterable[str], role: int) -> list[FeedEntry]:
        """Return all entries with this ``about``, one of these kinds and this role.

        Also raises ``RefusedError`` while ``emptied`` is true.
        """
        self._demand_whole()
        chosen = list(kinds)
        marks = ", ".join("?" * len(chosen))
        where = f"e.about = ? AND e.about <> '' AND f.namespace = ? AND e.role = ? AND e.kind IN ({marks})"
        return self._select(namespace, where, (about, namespace, role, *chosen))

    def find_from(self, namespace: str, author: str, seq_from: int, limit: int) -> list[FeedEntry]:
        """Return entries as ``find`` does, but only those with an ``about`` and a positive role.

        Also raises ``RefusedError`` while ``emptied`` is true.
        """
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
                f"{self._path} was damaged and is being rebuilt from the journal; try again later", Reason.UNAVAILABLE
            )

    def clear(self) -> None:
        """Empty the index. ``last_lsn`` is 0 afterwards."""
        with self._writing, self._reading:
            self._reset()

    def close(self) -> None:
        """Seal and close the index. If sealing fails, the next start rebuilds the index. Closing twice is harmless."""
        try:
            if self._fd >= 0:
                with suppress(CrabnetError):
                    self.seal()
        finally:
            with self._writing, self._reading:
                self._disconnect()

    def _connect(self) -> None:
        """Open the file, which is either sealed or absent."""
        files, path = self._files, self._path
        with guarded("open the feed index", path):
            self._seal = Seal.read(files, path, INDEX_KIND) or Seal(INDEX_KIND)
            is_new = not files.size(path)
            # Kept open as long as SQLite uses the file: closing any descriptor of it would release SQLite's locks.
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
        """Use the reader. In WAL mode it does not wait for the writer: the node's loop reads while a thread commits."""
        with self._guarded("read"), self._reading:
            yield self._reader

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._guarded("write"), self._writing:
            try:
                yield self._writer
            except BaseException:
                self._feed_numbers.clear()  # the rollback may have removed the rows of some of them
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
                f"{self._path} was damaged and is being rebuilt from the journal; try again later", Reason.UNAVAILABLE
            ) from error


def is_unsealed(files: Files, path: Path) -> bool:
    """True for an index that the next start rebuilds: it is damaged or not sealed. Raises StorageFailedError."""
    with guarded("read the feed index", path):
        return bool(files.size(path)) and not is_sealed(files, path, INDEX_KIND)


def _bounded(limit: int) -> int:
    return min(limit, FEED_INDEX_ROWS_PER_QUERY_MAX)


def _is_damage(error: Exception) -> bool:
    """True if an error shows that the file is damaged: broken pages, or tables and types that we did not make."""
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
    """Return a connection. Pass a schema only for a new file. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, check_same_thread=False, timeout=0)
    try:
        if schema:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        # Only ``seal`` moves pages into the main file. Pages that are not durable do not match the seal.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA synchronous = OFF")
        if schema:
            connection.executescript(f"BEGIN;{schema}COMMIT;")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
