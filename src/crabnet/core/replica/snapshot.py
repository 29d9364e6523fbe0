"""Converts the replica to rows of a checkpoint, and rows to a replica (docs/STORAGE.md).

A row is a JSON array: its kind and its content. A row of kind ``seed`` holds one seed, or a part of a large one. A
reader skips no row. Every row is bounded, however large the replica is: lists that grow are divided among rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from sys import intern
from typing import Final

import msgspec
from msgspec import Struct

from crabnet.core.replica.applied import combined_hash
from crabnet.core.replica.records import PurchaseRecord, RequestRecord, SegmentRow, other_version
from crabnet.core.replica.replica import Replica
from crabnet.core.replica.rows import SeedRow, joined, record_of_row, seed_rows
from crabnet.domain.model import SeedStatus
from crabnet.domain.record import Record
from crabnet.domain.state import rehash as rehash_seed
from crabnet.errors import DataDirDamagedError
from crabnet.protocol.feed import Feed
from crabnet.protocol.feed import rehash as rehash_feed

_PER_ROW: Final = 1_000
"""Ids and similar items in one row. The longest has 0.8 kB in JSON."""


class FeedRow(Struct, frozen=True, array_like=True, tag="feed", gc=False):
    """One feed: its head, its window, its end, and the end whose consequences are processed (0: none)."""

    author: str
    head_seq: int
    head_id: str
    window: tuple[str, ...]
    end: int
    settled: int


class OpenRow(Struct, frozen=True, array_like=True, tag="open", gc=False):
    """Some of the seeds of an author that count towards its cap."""

    author: str
    seed_ids: tuple[str, ...]


class SeenRow(Struct, frozen=True, array_like=True, tag="seen", gc=False):
    """A part of the seen window, oldest first."""

    entries: tuple[tuple[str, int], ...]


class TotalsRow(Struct, frozen=True, array_like=True, tag="totals", gc=False):
    """The accumulators behind the state hash (hex), the namespace, the count of unsigned facts, and the archive.

    Long lists continue in rows of kind ``more``. ``outdated`` is None in older checkpoints, which do not have it.
    """

    namespace: str
    seeds: str
    feeds: str
    arrivals: int
    archived: dict[SeedStatus, int] = {}
    segments: tuple[SegmentRow, ...] = ()
    erased: tuple[str, ...] = ()
    outdated: tuple[str, ...] | None = None


class MoreRow(Struct, frozen=True, array_like=True, tag="more", gc=False):
    """A further part of the lists that begin in the row of totals."""

    segments: tuple[SegmentRow, ...] = ()
    erased: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()


Row = SeedRow | FeedRow | OpenRow | SeenRow | TotalsRow | MoreRow | RequestRecord | PurchaseRecord
_encode: Final = msgspec.json.Encoder().encode
_rows: Final = msgspec.json.Decoder(Row)


class Snapshot:
    """A consistent view of a replica at one moment. It is hashed and written in slices while the replica changes.

    To make it costs a shallow copy of the map of seeds, about 10 ms for 300,000. Records are immutable.
    """

    def __init__(self, replica: Replica) -> None:
        state = replica.state
        self._namespace = replica.namespace
        self._arrivals = replica.arrivals
        self._archived = dict(state.archived)
        self._lists = MoreRow(tuple(replica.archived.segments), tuple(state.erased), tuple(state.outdated))
        self._records = state.records.copy()
        self._feeds = {feed.author: _copy(feed) for feed in replica.feeds.all()}
        self._seen = list(replica.seen.entries())
        self._requests = list(replica.requests.entries())
        self._purchases = list(replica.purchases.entries())
        self._seeds_hash, self._unhashed_seeds = state.unhashed()
        self._feeds_hash, self._unhashed_feeds = replica.feeds.unhashed()

    def __len__(self) -> int:
        return len(self._records)

    def hash_some(self, count: int) -> bool:
        """Hash at most ``count`` of the seeds and feeds that were unhashed at that moment. True if some are left."""
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
        """The value of ``Replica.state_hash`` at that moment. This first hashes everything that is left."""
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
            first.outdated,
        )

    def _part(self, at: int) -> MoreRow:
        lists, until = self._lists, at + _PER_ROW
        return MoreRow(lists.segments[at:until], lists.erased[at:until], lists.outdated[at:until])

    def rows(self) -> Iterator[bytes]:
        """All rows, lazily."""
        yield _encode(self._totals())
        longest = max(map(len, (self._lists.segments, self._lists.erased, self._lists.outdated)))
        for at in range(_PER_ROW, longest, _PER_ROW):
            yield _encode(self._part(at))
        for feed in self._feeds.values():
            window = tuple(feed.window)
            yield _encode(FeedRow(feed.author, feed.head_seq, feed.head_id, window, feed.end, feed.settled))
            opened = list(feed.open_seeds)
            for at in range(0, len(opened), _PER_ROW):
                yield _encode(OpenRow(feed.author, tuple(opened[at : at + _PER_ROW])))
        for at in range(0, len(self._seen), _PER_ROW):
            yield _encode(SeenRow(tuple(self._seen[at : at + _PER_ROW])))
        yield from map(_encode, self._requests)
        yield from map(_encode, self._purchases)
        for seed_id, record in self._records.items():
            yield from seed_rows(seed_id, record)


def _copy(feed: Feed) -> Feed:
    window, open_seeds = feed.window.copy(), feed.open_seeds.copy()
    return Feed(feed.author, feed.head_seq, feed.head_id, window, feed.end, feed.settled, open_seeds)


def restore(replica: Replica, rows: Iterable[bytes]) -> None:
    """Load a replica from rows. Raises DataDirDamagedError for unreadable rows or those of another namespace."""
    records: dict[str, Record] = {}
    feeds: dict[str, Feed] = {}
    totals: TotalsRow | None = None
    more: list[MoreRow] = []
    try:
        for raw in rows:
            row = _rows.decode(raw)
            if isinstance(row, SeedRow):
                records[intern(row.seed_id)] = joined(records.get(row.seed_id), record_of_row(row))
            elif isinstance(row, FeedRow):
                window = deque(row.window)
                feeds[row.author] = Feed(row.author, row.head_seq, row.head_id, window, row.end, row.settled)
            elif isinstance(row, OpenRow):
                feeds[row.author].open_seeds.update(dict.fromkeys(map(intern, row.seed_ids)))
            elif isinstance(row, SeenRow):
                replica.seen.load(row.entries)
            elif isinstance(row, RequestRecord):
                replica.requests.put(row)
            elif isinstance(row, PurchaseRecord):
                replica.purchases.put(row)
            elif isinstance(row, MoreRow):
                more.append(row)
            else:
                totals = row
    except (msgspec.MsgspecError, KeyError) as error:
        raise other_version("state.json holds", error) from error
    totals = _demand_namespace(totals, replica.namespace)
    replica.state.load(records, int(totals.seeds, 16))
    replica.feeds.load(list(feeds.values()), int(totals.feeds, 16))
    replica.arrivals = totals.arrivals
    replica.state.archived.update(totals.archived)
    for part in (MoreRow(totals.segments, totals.erased, totals.outdated or ()), *more):
        replica.archived.segments += part.segments
        replica.state.erased.update(part.erased)
        replica.state.outdated.update(part.outdated)
    if totals.outdated is None and totals.segments:
        replica.state.outdated.update(records)


def _demand_namespace(totals: TotalsRow | None, namespace: str) -> TotalsRow:
    if totals is None:
        raise DataDirDamagedError("state.json lacks its row of totals")
    if totals.namespace != namespace:
        raise DataDirDamagedError(
            f"the data dir belongs to namespace {totals.namespace!r}, but the settings say {namespace!r};"
            " use one data dir per namespace"
        )
    return totals
