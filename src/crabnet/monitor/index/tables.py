"""The tables of the index, and how a query finds blocks in them.

A **block** is a run of events in one file, named by its first id. A **term** is a field with a value, as a number. A
**posting** says that a block has a term. A **segment** is a range of SEGMENT_IDS ids: postings are kept segment by
segment, so that new ones change few pages. A **stretch** is a range of STRETCH_IDS ids with the least and the greatest
time in it. Times need not rise with ids, because clocks are set.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from heapq import merge
from typing import Final, NamedTuple

from crabnet.limits import INTEGER_MAX
from crabnet.monitor.query import EventQuery
from crabnet.monitor.snapshot import Snapshot
from crabnet.storage.origin import Place, place_of
from crabnet.storage.seal import Kind

INDEX_NAME: Final = "events.sqlite"
INDEX_KIND: Final = Kind("event-index", 1)
SEGMENT_IDS: Final = 1 << 20
STRETCH_IDS: Final = 1 << 13
SCHEMA: Final = """
CREATE TABLE file (first_id INTEGER PRIMARY KEY, inode INTEGER NOT NULL, birth_ns INTEGER NOT NULL,
                   bytes INTEGER NOT NULL, last_id INTEGER NOT NULL);
CREATE TABLE block (first_id INTEGER PRIMARY KEY, last_id INTEGER NOT NULL, file INTEGER NOT NULL,
                    offset INTEGER NOT NULL, length INTEGER NOT NULL, ts_min INTEGER NOT NULL, ts_max INTEGER NOT NULL);
CREATE TABLE stretch (no INTEGER PRIMARY KEY, ts_min INTEGER NOT NULL, ts_max INTEGER NOT NULL);
CREATE TABLE posting (segment INTEGER NOT NULL, term INTEGER NOT NULL, block INTEGER NOT NULL,
                      PRIMARY KEY (segment, term, block)) WITHOUT ROWID;
"""
_BLOCKS: Final = (
    "SELECT b.first_id, b.last_id, b.file, b.offset, b.length FROM block b"
    " WHERE b.first_id >= ? AND b.first_id < ? AND b.ts_max >= ? AND b.ts_min < ?"
)
_BLOCKS_OF_TERM: Final = (
    "SELECT b.first_id, b.last_id, b.file, b.offset, b.length FROM posting p CROSS JOIN block b ON b.first_id = p.block"
    " WHERE p.segment = ? AND p.term = ? AND p.block >= ? AND p.block < ? AND b.ts_max >= ? AND b.ts_min < ?"
)
_WITH_ANY_OF: Final = (
    " AND EXISTS (SELECT 1 FROM posting q WHERE q.segment = p.segment"
    " AND q.term IN (SELECT value FROM json_each(?)) AND q.block = p.block)"
)
_COUNT: Final = (
    "SELECT count(*) FROM (SELECT 1 FROM posting WHERE segment = ? AND term IN (SELECT value FROM json_each(?))"
    " AND block >= ? AND block < ? LIMIT ?)"
)
_SURVEY_ROWS: Final = 256
_TIME_MAX: Final = 2**63 - 1


class StaleError(Exception):
    """The index does not describe the files as they are, or is damaged. Do without it; its owner makes it again."""


class Block(NamedTuple):
    """Where the events of a block are: ``length`` bytes from ``offset`` of the file whose first id is ``file``."""

    first_id: int
    last_id: int
    file: int
    offset: int
    length: int


class FileRow(NamedTuple):
    """How far a file is in the index: its first ``bytes`` bytes, with events up to ``last_id``."""

    first_id: int
    inode: int
    birth_ns: int
    bytes: int
    last_id: int


class Tables:
    """Reading the tables over a connection. The caller guards it, and turns ``sqlite3.Error`` into ``StaleError``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def files(self) -> list[FileRow]:
        """The indexed files in ascending order."""
        rows = self.connection.execute("SELECT first_id, inode, birth_ns, bytes, last_id FROM file ORDER BY first_id")
        return [FileRow(*row) for row in rows]

    def indexed_to(self) -> int:
        """The last id in the index; 0 if it is empty."""
        row = self.connection.execute("SELECT last_id FROM file ORDER BY first_id DESC LIMIT 1").fetchone()
        return 0 if row is None else int(row[0])

    def check(self, snapshot: Snapshot) -> None:
        """Raise ``StaleError`` if an indexed file was replaced or cut, or if an older file is not in the index.

        A deleted file is no contradiction. May raise ``OSError``.
        """
        known = {row.first_id: row for row in self.files()}
        newest = max(known, default=0)
        for first in snapshot.firsts:
            row = known.get(first)
            if row is None and first < newest:
                raise StaleError(f"the file from event {first} on is not in the index")
            if row is not None:
                check_file(snapshot, row)

    def find(self, query: EventQuery, after: int, before: int) -> Iterator[Block | int]:
        """The blocks that may have wanted events with ids between two ids (exclusive), in the order of the query.

        Between them come ids: up to there, all blocks were given. So the caller can stop after a bounded number.
        """
        terms = query.terms()
        for low, high in self._ranges(query, after, before):
            yield from self._blocks(query, terms, low, high)
            yield low if query.newest_first else high - 1

    def _ranges(self, query: EventQuery, after: int, before: int) -> Iterator[tuple[int, int]]:
        """Ranges of ids (the end is exclusive) that may have events of the wanted time, each within one segment."""
        # a block begins before the ids that it contains
        first = self.connection.execute("SELECT max(first_id) FROM block WHERE first_id <= ?", (after + 1,)).fetchone()[
            0
        ]
        if first is None:
            first = self.connection.execute("SELECT min(first_id) FROM block").fetchone()[0]
        last = self.connection.execute("SELECT max(first_id) FROM block WHERE first_id < ?", (before,)).fetchone()[0]
        if first is None or last is None:
            return
        ranges: list[tuple[int, int]] = [(first, last + 1)]
        if query.since_ms is not None or query.until_ms is not None:
            ranges = list(self._times(query, first, last + 1))
        for low, high in reversed(ranges) if query.newest_first else ranges:
            for start in _starts(low, high, newest_first=query.newest_first):
                yield max(low, start), min(high, start + SEGMENT_IDS)

    def _times(self, query: EventQuery, low: int, high: int) -> Iterator[tuple[int, int]]:
        rows = self.connection.execute(
            "SELECT no FROM stretch WHERE no BETWEEN ? AND ? AND ts_max >= ? AND ts_min < ? ORDER BY no",
            (low // STRETCH_IDS, (high - 1) // STRETCH_IDS, *_times_of(query)),
        )
        begin = end = low
        for (number,) in rows:
            start = number * STRETCH_IDS
            if start > end:
                if end > begin:
                    yield begin, min(end, high)
                begin = start
            end = start + STRETCH_IDS
        if end > begin:
            yield begin, min(end, high)

    def _blocks(self, query: EventQuery, terms: list[list[int]], low: int, high: int) -> Iterator[Block]:
        times = _times_of(query)
        if not terms:
            sql = _BLOCKS + (" ORDER BY b.first_id DESC" if query.newest_first else " ORDER BY b.first_id")
            yield from self._select(sql, (low, high, *times))
            return
        segment = low // SEGMENT_IDS
        lists = [str(each) for each in terms]
        counts = [1] if len(terms) == 1 else [self._count(segment, each, low, high) for each in lists]
        if not all(counts):
            return
        driver = counts.index(min(counts))
        others = lists[:driver] + lists[driver + 1 :]
        sql = _BLOCKS_OF_TERM + _WITH_ANY_OF * len(others)
        sql += " ORDER BY p.block DESC" if query.newest_first else " ORDER BY p.block"
        streams = [self._select(sql, (segment, one, low, high, *times, *others)) for one in terms[driver]]
        last = 0
        for block in merge(*streams, reverse=query.newest_first):
            if block.first_id != last:
                yield block
            last = block.first_id

    def _count(self, segment: int, terms: str, low: int, high: int) -> int:
        return int(self.connection.execute(_COUNT, (segment, terms, low, high, _SURVEY_ROWS)).fetchone()[0])

    def _select(self, sql: str, values: tuple[int | str, ...]) -> Iterator[Block]:
        cursor = self.connection.execute(sql, values)
        try:
            for row in cursor:
                yield Block(*row)
        finally:
            cursor.close()


def check_file(snapshot: Snapshot, row: FileRow) -> None:
    """Raise ``StaleError`` if a file is not the one that was indexed or was cut. May raise ``OSError``."""
    place = place_of(snapshot.path(row.first_id))
    if place is None:
        return
    if not place.may_be(Place(row.inode, row.birth_ns)) or snapshot.size(row.first_id) < row.bytes:
        raise StaleError(f"{snapshot.path(row.first_id).name} was replaced or cut")


def _times_of(query: EventQuery) -> tuple[int, int]:
    since = -_TIME_MAX if query.since_ms is None else query.since_ms
    until = _TIME_MAX if query.until_ms is None else query.until_ms
    return clamped(since), clamped(until)


def clamped(number: int) -> int:
    """``number``, or the nearest one that SQLite can hold."""
    return max(-_TIME_MAX, min(_TIME_MAX, number))


def _starts(low: int, high: int, *, newest_first: bool) -> Iterator[int]:
    """Where the segments of a range of ids begin, in order."""
    segments = range(low // SEGMENT_IDS, (min(high, INTEGER_MAX) - 1) // SEGMENT_IDS + 1)
    for number in reversed(segments) if newest_first else segments:
        yield number * SEGMENT_IDS
