"""The replica as rows of a checkpoint, and back.

A row is a JSON array: its kind and its content. Rows of kind ``seed`` stand for one seed each, or for a part of a large
one; a reader skips none. Every row is bounded, whatever the replica has grown to: what grows with time is divided among
rows, and the window of a feed takes 4 MiB with the longest ids.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from sys import intern
from typing import Final

import msgspec
from msgspec import Struct

from crabnet.core.applied import combined_hash
from crabnet.core.records import SegmentRow
from crabnet.core.replica import Replica
from crabnet.core.rows import SeedRow, joined, record_of_row, seed_rows
from crabnet.domain.accumulator import Accumulator
from crabnet.domain.lifecycle import Record
from crabnet.domain.model import SeedStatus
from crabnet.domain.state import rehash as rehash_seed
from crabnet.errors import DataDirDamagedError
from crabnet.protocol.feed import Feed, FeedEntry, ForkProof
from crabnet.protocol.feed import rehash as rehash_feed

_PER_ROW: Final = 1_000
"""Ids and the like in one row. The longest, in JSON, has 0.8 kB."""
_COVERS_WHAT_COUNTS: Final = 1


class FeedRow(Struct, frozen=True, array_like=True, tag="feed", gc=False):
    """One feed: its head, its window, and how many seeds of its author are open (-1 in older checkpoints).

    ``dozes``: facts of its author have slept.
    """

    author: str
    head_seq: int
    head_id: str
    window: tuple[tuple[str, str], ...]
    forks: tuple[ForkProof, ...]
    open_seeds: int = -1
    dozes: bool = False


class SeenRow(Struct, frozen=True, array_like=True, tag="seen", gc=False):
    """A part of the seen window, oldest first."""

    entries: tuple[tuple[str, int], ...]


class TotalsRow(Struct, frozen=True, array_like=True, tag="totals", gc=False):
    """The accumulators behind the state hash (hex), the namespace, the count of unsigned facts, and the archive.

    ``asleep`` counts facts that were left to sleep, ever; ``restless`` is what some of them may have waited for.
    ``covers`` is 0 in older checkpoints: their accumulator covers what waits and what is void as well. ``outdated`` is
    None in older checkpoints: they do not tell. Long lists go on in rows of kind ``more``.
    """

    namespace: str
    seeds: str
    feeds: str
    arrivals: int
    archived: dict[SeedStatus, int] = {}
    segments: tuple[SegmentRow, ...] = ()
    erased: tuple[str, ...] = ()
    asleep: int = 0
    restless: tuple[str, ...] = ()
    covers: int = 0
    outdated: tuple[str, ...] | None = None


class MoreRow(Struct, frozen=True, array_like=True, tag="more", gc=False):
    """A part of the lists that the row of totals begins."""

    segments: tuple[SegmentRow, ...] = ()
    erased: tuple[str, ...] = ()
    restless: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()


Row = SeedRow | FeedRow | SeenRow | TotalsRow | MoreRow
_encode: Final = msgspec.json.Encoder().encode
_encode_sorted: Final = msgspec.json.Encoder(order="deterministic").encode
_rows: Final = msgspec.json.Decoder(Row)


class Snapshot:
    """A consistent view of a replica at one moment, to be hashed and written in slices while the replica moves on.

    Making it costs a shallow copy of the map of seeds, some 10 ms for 300,000; records are immutable.
    """

    def __init__(self, replica: Replica) -> None:
        state = replica.state
        self._namespace = replica.namespace
        self._arrivals = replica.arrivals
        self._archived = dict(state.archived)
        self._asleep = replica.dormancy.asleep
        self._dozing = frozenset(replica.dormancy.dozing)
        self._lists = MoreRow(
            tuple(replica.attic.segments),
            tuple(state.erased),
            tuple(replica.dormancy.restless),
            tuple(state.outdated),
        )
        self._records = state.records.copy()
        self._open_seeds = state.open_seeds.copy()
        self._feeds = {
            feed.author: Feed(feed.author, feed.head_seq, feed.head_id, feed.window.copy(), feed.forks.copy())
            for feed in replica.feeds.all()
        }
        self._seen = list(replica.seen.entries())
        self._seeds_hash, self._unhashed_seeds = state.unhashed()
        self._feeds_hash, self._unhashed_feeds = replica.feeds.unhashed()

    def __len__(self) -> int:
        return len(self._records)

    def hash_some(self, count: int) -> bool:
        """Hash at most ``count`` of the seeds and feeds that were not hashed at that moment; True if some are left."""
        for _ in range(count):
            if self._unhashed_seeds:
                seed_id, before = self._unhashed_seeds.popitem()
                rehash_seed(self._seeds_hash, seed_id, before, self._records.get(seed_id))
            elif self._unhashed_feeds:
                author, head = self._unhashed_feeds.popitem()
                rehash_feed(self._feeds_hash, self._feeds[author], head)
            else:
                return False
        return bool(self._unhashed_seeds or self._unhashed_feeds)

    @property
    def state_hash(self) -> str:
        """What ``Replica.state_hash`` was at that moment. Hashes at once what is left to be hashed."""
        self.hash_some(len(self._unhashed_seeds) + len(self._unhashed_feeds))
        return combined_hash(self._namespace, self._seeds_hash.digest(), self._feeds_hash.digest())

    def _totals(self) -> TotalsRow:
        self.hash_some(len(self._unhashed_seeds) + len(self._unhashed_feeds))
        first = self._part(0)
        return TotalsRow(
            self._namespace,
            f"{self._seeds_hash.value():x}",
            f"{self._feeds_hash.value():x}",
            self._arrivals,
            self._archived,
            first.segments,
            first.erased,
            self._asleep,
            first.restless,
            _COVERS_WHAT_COUNTS,
            first.outdated,
        )

    def _part(self, at: int) -> MoreRow:
        lists, until = self._lists, at + _PER_ROW
        return MoreRow(
            lists.segments[at:until], lists.erased[at:until], lists.restless[at:until], lists.outdated[at:until]
        )

    def rows(self) -> Iterator[bytes]:
        """All rows, lazily."""
        yield _encode(self._totals())
        lists = self._lists
        longest = max(map(len, (lists.segments, lists.erased, lists.restless, lists.outdated)))
        for at in range(_PER_ROW, longest, _PER_ROW):
            yield _encode(self._part(at))
        for feed in self._feeds.values():
            window = tuple((entry.id, entry.seed_id) for entry in feed.window)
            open_seeds = self._open_seeds[feed.author]
            forks, dozes = tuple(feed.forks), feed.author in self._dozing
            yield _encode(FeedRow(feed.author, feed.head_seq, feed.head_id, window, forks, open_seeds, dozes))
        for at in range(0, len(self._seen), _PER_ROW):
            yield _encode(SeenRow(tuple(self._seen[at : at + _PER_ROW])))
        for seed_id, record in self._records.items():
            yield from seed_rows(seed_id, record)


def _uncovered(records: dict[str, Record], accumulated: int) -> int:
    """The accumulator of an older checkpoint without what the state hash does not cover any more."""
    accumulator = Accumulator(accumulated)
    for seed_id, record in records.items():
        if record.seed is None or not all(entry.effective for entry in record.others):
            accumulator.remove(seed_id.encode() + b"\0" + _encode_sorted(record))
            rehash_seed(accumulator, seed_id, None, record)
    return accumulator.value()


def restore(replica: Replica, rows: Iterable[bytes]) -> None:
    """Become what the rows say. Raises DataDirDamagedError for rows that no version wrote, or another namespace's."""
    records: dict[str, Record] = {}
    feeds: list[FeedRow] = []
    totals: TotalsRow | None = None
    more: list[MoreRow] = []
    try:
        for raw in rows:
            row = _rows.decode(raw)
            if isinstance(row, SeedRow):
                records[intern(row.seed_id)] = joined(records.get(row.seed_id), record_of_row(row))
            elif isinstance(row, FeedRow):
                feeds.append(row)
            elif isinstance(row, SeenRow):
                replica.seen.load(row.entries)
            elif isinstance(row, MoreRow):
                more.append(row)
            else:
                totals = row
    except msgspec.MsgspecError as error:
        raise DataDirDamagedError(f"state.json holds a row that this version cannot read: {error}") from error
    if totals is None:
        raise DataDirDamagedError("state.json lacks its row of totals")
    if totals.namespace != replica.namespace:
        raise DataDirDamagedError(
            f"the data dir belongs to namespace {totals.namespace!r}, the settings say {replica.namespace!r}:"
            " use one data dir per namespace"
        )
    accumulated = int(totals.seeds, 16)
    if totals.covers != _COVERS_WHAT_COUNTS:
        accumulated = _uncovered(records, accumulated)
    replica.state.load(records, accumulated)
    _restore_feeds(replica, feeds, int(totals.feeds, 16))
    replica.arrivals = totals.arrivals
    replica.dormancy.asleep = totals.asleep
    replica.state.archived.update(totals.archived)
    first = MoreRow(totals.segments, totals.erased, totals.restless, totals.outdated or ())
    _restore_lists(replica, [first, *more])
    if totals.outdated is None and totals.segments:
        replica.state.outdated.update(records)


def _restore_feeds(replica: Replica, rows: list[FeedRow], accumulated: int) -> None:
    feeds = []
    for row in rows:
        window = deque(FeedEntry(entry_id, seed_id) for entry_id, seed_id in row.window)
        feeds.append(Feed(row.author, row.head_seq, row.head_id, window, list(row.forks)))
        if row.open_seeds > 0:  # of these, some are archived
            replica.state.open_seeds[row.author] = row.open_seeds
        if row.dozes:
            replica.dormancy.dozing.add(row.author)
    replica.feeds.load(feeds, accumulated)


def _restore_lists(replica: Replica, parts: list[MoreRow]) -> None:
    replica.attic.segments = [segment for part in parts for segment in part.segments]
    replica.dormancy.restless = {each: 0 for part in parts for each in part.restless}
    for part in parts:
        replica.state.erased.update(part.erased)
        replica.state.outdated.update(part.outdated)
