"""The index as its one writer has it: the node that writes the events. It follows the files in small steps.

Between two seals everything new is in one open transaction, in memory. A crash loses it, and the next start indexes
these events again. ``seal`` moves it into the main file.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crabnet.limits import (
    EVENT_INDEX_CACHE_KIB,
    EVENT_INDEX_FORGET_ROWS,
    EVENT_INDEX_LAG_BYTES,
    EVENT_INDEX_SEAL_EVENTS,
)
from crabnet.monitor.index.blocks import Described, cut_blocks
from crabnet.monitor.index.tables import (
    INDEX_KIND,
    INDEX_NAME,
    SCHEMA,
    SEGMENT_IDS,
    STRETCH_IDS,
    FileRow,
    StaleError,
    Tables,
    check_file,
)
from crabnet.monitor.lines import rotated_name
from crabnet.monitor.snapshot import Snapshot
from crabnet.storage.files import Files, OpenMode
from crabnet.storage.origin import place_of
from crabnet.storage.seal import PAGE_BYTES, SUFFIX, Seal, beside, is_sealed, pages_in_wal

_ERRORS: Final = (sqlite3.Error, OverflowError, TypeError, ValueError, StaleError)
_ADD_BLOCK: Final = "INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?, ?, ?, ?)"
_ADD_POSTING: Final = "INSERT OR IGNORE INTO posting VALUES (?, ?, ?)"
_ADD_STRETCH: Final = (
    "INSERT INTO stretch VALUES (?, ?, ?) ON CONFLICT (no)"
    " DO UPDATE SET ts_min = min(ts_min, excluded.ts_min), ts_max = max(ts_max, excluded.ts_max)"
)
_FORGET_BLOCKS: Final = (
    "DELETE FROM block WHERE first_id IN (SELECT first_id FROM block WHERE first_id BETWEEN ? AND ? LIMIT ?)"
)
_FORGET_POSTINGS: Final = (
    "DELETE FROM posting WHERE (segment, term, block) IN"
    " (SELECT segment, term, block FROM posting WHERE segment < ? LIMIT ?)"
)


@dataclass(frozen=True, slots=True)
class Step:
    """What a step did: how many events it indexed, and whether there is more to do at once.

    ``rebuilding`` is set if the index was thrown away, and says why.
    """

    events: int = 0
    more: bool = False
    rebuilding: str | None = None


class EventIndex:
    """The index, kept up to date. Only the process that holds the lock of the event log may have one.

    Every call may block on the disk. It is safe to use from several threads. Methods raise ``OSError`` when the disk
    fails; the next call tries again.
    """

    def __init__(self, files: Files, directory: Path) -> None:
        self._files = files
        self._directory = directory
        self._path = directory / INDEX_NAME
        self._lock = threading.Lock()
        self._tables: Tables | None = None
        self._seal = Seal(INDEX_KIND)
        self._unsealed: set[int] = set()
        self._fd = -1
        self._new_events = 0
        self._looked_at: int | None = 0
        self._checked: list[int] | None = None
        self._stale: str | None = None

    def step(self) -> Step:
        """Index about EVENT_INDEX_STEP_BYTES of what is not indexed yet, after opening the index if need be.

        If it finds the index damaged or stale, it removes it. The following steps make it again.
        """
        with self._lock:
            try:
                if self._stale is not None:
                    raise StaleError(self._stale)
                unsound = self._open() if self._tables is None else None
                try:
                    step = self._one_step()
                except StaleError:  # the files may have been rotated just then
                    step = self._one_step()
                if self._new_events >= EVENT_INDEX_SEAL_EVENTS:
                    self._store()
            except _ERRORS as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
                    self._drop()
                    raise OSError(f"cannot write {self._path}: {error}") from error
                self._remove()
                return Step(more=True, rebuilding=str(error))
            return step if unsound is None else Step(step.events, step.more, unsound)

    @contextmanager
    def reading(self, snapshot: Snapshot) -> Iterator[Tables]:
        """The tables, for one query. Raises ``StaleError`` if they cannot be used; the next step then mends that."""
        with self._lock:
            if self._tables is None:
                raise StaleError("the index is not open yet")
            try:
                self._check(self._tables, snapshot)
            except StaleError:
                raise  # the snapshot may be older than the index; the next step sees whether the index is stale
            except _ERRORS as error:
                raise self._condemned(error) from error
            try:
                yield self._tables
            except _ERRORS as error:
                raise self._condemned(error) from error

    def _condemned(self, error: Exception) -> StaleError:
        """Have the next step make the index again."""
        self._stale = str(error)
        return StaleError(self._stale)

    def seal(self) -> None:
        """Store everything in the main file and seal it, for a next start and for other processes."""
        with self._lock:
            if self._tables is not None and self._new_events:
                try:
                    self._store()
                except _ERRORS as error:
                    self._stale = str(error)

    def look_at_some(self) -> None:
        """Compare one part of the main file with its seal; the next call compares the next part."""
        with self._lock:
            if self._tables is None or self._unsealed or self._looked_at is None:
                self._looked_at = 0
            elif self._seal.matches_at(self._files, self._fd, self._looked_at):
                self._looked_at = self._seal.after(self._looked_at)
            else:
                self._stale = "it differs from its seal"

    def close(self) -> None:
        """Seal and close the index. Closing twice is harmless."""
        try:
            self.seal()
        finally:
            with self._lock:
                self._drop()

    def _opened(self) -> Tables:
        if self._tables is None:
            raise StaleError("the index is not open")
        return self._tables

    def _one_step(self) -> Step:
        with Snapshot(self._files, self._directory) as snapshot:
            return self._step(self._opened(), snapshot)

    def _step(self, tables: Tables, snapshot: Snapshot) -> Step:
        self._check(tables, snapshot)
        if not tables.connection.in_transaction:
            tables.connection.execute("BEGIN IMMEDIATE")
        if self._forget(tables, snapshot):
            return Step(more=True)
        rows = tables.files()
        row = rows[-1] if rows else None
        firsts = [first for first in snapshot.firsts if row is None or first > row.first_id]
        if row is None or (
            firsts and (row.first_id not in snapshot.firsts or row.bytes >= snapshot.size(row.first_id))
        ):
            if not firsts:
                return Step()
            # A current file may have been rotated after the snapshot. Then another file has its name.
            place = place_of(self._directory / rotated_name(firsts[0])) or place_of(snapshot.path(firsts[0]))
            if place is None:
                return Step(more=True)
            row = FileRow(firsts.pop(0), place.inode, place.birth_ns, 0, 0 if row is None else row.last_id)
        left = snapshot.size(row.first_id) - row.bytes
        if left < (EVENT_INDEX_LAG_BYTES if snapshot.is_current(row.first_id) else 1):
            return Step()
        cut = cut_blocks(snapshot, row.first_id, row.bytes, row.last_id)
        self._add(tables.connection, cut.blocks)
        tables.connection.execute(
            "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?)",
            (row.first_id, row.inode, row.birth_ns, cut.end, cut.last_id),
        )
        self._new_events += cut.events
        return Step(cut.events, not cut.at_end_of_file or bool(firsts))

    def _add(self, connection: sqlite3.Connection, described: Iterable[Described]) -> None:
        for block, ts_min, ts_max, terms in described:
            connection.execute(_ADD_BLOCK, (*block, ts_min, ts_max))
            connection.execute(_ADD_STRETCH, (block.first_id // STRETCH_IDS, ts_min, ts_max))
            segment = block.first_id // SEGMENT_IDS
            connection.executemany(_ADD_POSTING, [(segment, each, block.first_id) for each in terms])

    def _forget(self, tables: Tables, snapshot: Snapshot) -> int:
        """Remove what the index says about deleted files, some rows at a time. Returns how many rows it removed."""
        connection = tables.connection
        existing = set(snapshot.firsts)
        rows = tables.files()
        for row in rows[:-1]:
            if row.first_id in existing:
                continue
            gone = connection.execute(
                _FORGET_BLOCKS,
                (row.first_id, row.last_id, EVENT_INDEX_FORGET_ROWS),
            ).rowcount
            if gone < EVENT_INDEX_FORGET_ROWS:
                connection.execute("DELETE FROM file WHERE first_id = ?", (row.first_id,))
            return gone + 1
        oldest = connection.execute("SELECT min(first_id) FROM block").fetchone()[0]
        if oldest is None:
            return 0
        connection.execute("DELETE FROM stretch WHERE no < ?", (oldest // STRETCH_IDS,))
        return connection.execute(_FORGET_POSTINGS, (oldest // SEGMENT_IDS, EVENT_INDEX_FORGET_ROWS)).rowcount

    def _check(self, tables: Tables, snapshot: Snapshot) -> None:
        if self._checked != snapshot.firsts:
            tables.check(snapshot)
            self._checked = list(snapshot.firsts)
        elif rows := tables.connection.execute("SELECT * FROM file ORDER BY first_id DESC LIMIT 1").fetchall():
            check_file(snapshot, FileRow(*rows[0]))

    def _open(self) -> str | None:
        """Open the file, or make an empty one. Returns why an existing one was thrown away."""
        unsound = None
        if not is_sealed(self._files, self._path, INDEX_KIND):
            existed = bool(self._files.size(self._path))
            unsound = "it was damaged, or not sealed when the node ended" if existed else None
            self._remove()
        for suffix in ("-wal", "-shm"):
            self._unlink(suffix)
        self._seal = Seal.read(self._files, self._path, INDEX_KIND) or Seal(INDEX_KIND)
        is_new = not self._files.size(self._path)
        # Kept open as long as SQLite uses the file: closing any descriptor of it would release SQLite's locks.
        self._fd = self._files.open(self._path, OpenMode.LOCK)
        connection = sqlite3.connect(self._path, check_same_thread=False, timeout=0, isolation_level=None)
        self._tables = Tables(connection)
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA synchronous = OFF")  # pages that are not durable do not match the seal
        connection.execute(f"PRAGMA cache_size = -{EVENT_INDEX_CACHE_KIB}")
        connection.execute("PRAGMA cache_spill = OFF")
        if is_new:
            connection.executescript(f"BEGIN;{SCHEMA}COMMIT;")
            self._unsealed |= set(range(1, (self._files.size(self._path) or 0) // PAGE_BYTES + 1))
            self._new_events = 1  # so that even an empty index is sealed
        return unsound

    def _store(self) -> None:
        connection = self._opened().connection
        if connection.in_transaction:
            connection.execute("COMMIT")
        self._unsealed |= pages_in_wal(self._files, beside(self._path, "-wal"))
        self._unlink(SUFFIX)  # readers in other processes learn by this that the main file changes
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._files.fsync(self._fd)
        self._seal.renew(self._files, self._fd, self._unsealed)
        self._seal.write(self._files, self._path)
        self._unsealed.clear()
        self._new_events, self._looked_at = 0, 0

    def _drop(self) -> None:
        tables, self._tables = self._tables, None
        if tables is not None:
            with suppress(sqlite3.Error):
                tables.connection.rollback()
            with suppress(sqlite3.Error):
                tables.connection.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                self._files.close(fd)
        self._unsealed.clear()
        self._checked, self._stale, self._new_events, self._looked_at = None, None, 0, 0

    def _remove(self) -> None:
        self._drop()
        for suffix in (SUFFIX, "-wal", "-shm", ""):
            self._unlink(suffix)

    def _unlink(self, suffix: str) -> None:
        path = beside(self._path, suffix)
        if self._files.size(path) is not None:
            self._files.unlink(path)
