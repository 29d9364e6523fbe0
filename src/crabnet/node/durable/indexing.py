"""The disposable index behind the journal: kept up a little behind it, read to serve neighbours."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import trio

from crabnet import limits
from crabnet.core.effects import Serve
from crabnet.core.replica.held import HeldRow, Role
from crabnet.core.replica.records import envelopes_of_frame
from crabnet.domain.model import FactKind
from crabnet.errors import DataDirDamagedError, Reason, RefusedError
from crabnet.node.durable.framing import Durable
from crabnet.protocol.admission import Admission, AdmissionPolicy
from crabnet.protocol.fork_proof import choose_pair
from crabnet.protocol.replay import SeenWindow
from crabnet.storage.feed_index import FeedEntry, FeedIndex
from crabnet.storage.journal.segment import FramePosition
from crabnet.storage.ledger import Ledger

_BIDS: Final = (FactKind.BID.value,)
_OTHERS: Final = tuple(kind.value for kind in FactKind if kind is not FactKind.BID)


class StoredEnvelope(NamedTuple):
    """An envelope of a feed; ``order`` tells the place that it has in the journal."""

    seq: int
    envelope_id: str
    raw: bytes
    order: tuple[int, int]


Stored = list[StoredEnvelope]


def entry_of(namespace: str, row: HeldRow, position: FramePosition, record_no: int) -> FeedEntry:
    """What the index keeps of an envelope."""
    kind = "" if row.kind is None else row.kind.value
    return FeedEntry(
        namespace,
        row.author,
        row.seq,
        row.envelope_id,
        position,
        record_no,
        row.seed_id,
        kind,
        row.parent,
        int(row.role),
    )


def _row_of(entry: FeedEntry) -> HeldRow:
    kind = FactKind(entry.kind) if entry.kind else None
    return HeldRow(entry.author, entry.seq, entry.envelope_id, entry.about, kind, entry.parent, Role(entry.role))


class _Fresh:
    """Envelopes that are not in the index yet: a few hundred milliseconds' worth."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[HeldRow, bytes]] = {}
        self._unplaced: list[HeldRow] = []
        """Rows that are in none of the tables below: mostly nobody asks before the index has them."""
        self._places: dict[tuple[str, int], str] = {}
        self._about: dict[str, dict[str, HeldRow]] = {}

    def add(self, row: HeldRow, raw: bytes) -> None:
        self._rows[row.envelope_id] = (row, raw)
        self._unplaced.append(row)

    def get(self, envelope_id: str) -> tuple[HeldRow, bytes] | None:
        return self._rows.get(envelope_id)

    def id_at(self, author: str, seq: int) -> str | None:
        self._place_all()
        return self._places.get((author, seq))

    def about(self, seed_id: str) -> list[HeldRow]:
        self._place_all()
        return list(self._about.get(seed_id, {}).values())

    def of(self, author: str, seq: int) -> list[HeldRow]:
        return [row for row, _ in self._rows.values() if row.author == author and row.seq >= seq]

    def forget(self, rows: Iterable[HeldRow]) -> None:
        for row in rows:
            if self._is_here(row):
                self._forget(row)
        self._unplaced = [row for row in self._unplaced if self._is_here(row)]

    def _is_here(self, row: HeldRow) -> bool:
        known = self._rows.get(row.envelope_id)
        return known is not None and known[0] is row

    def _place_all(self) -> None:
        for row in self._unplaced:
            self._places.setdefault((row.author, row.seq), row.envelope_id)
            if row.seed_id:
                self._about.setdefault(row.seed_id, {})[row.envelope_id] = row
        self._unplaced = []

    def _forget(self, row: HeldRow) -> None:
        del self._rows[row.envelope_id]
        if self._places.get((row.author, row.seq)) == row.envelope_id:
            del self._places[row.author, row.seq]
        about = self._about.get(row.seed_id, {})
        about.pop(row.envelope_id, None)
        if not about:
            self._about.pop(row.seed_id, None)


class History:
    """Stored envelopes by feed position, by seed and by id: the ``Held`` of a node. Safe in worker threads.

    Methods may block on the disk, and raise RefusedError or StorageFailedError, which are the index's alone.
    """

    def __init__(self, ledger: Ledger, index: FeedIndex, namespace: str) -> None:
        self._ledger = ledger
        self._index = index
        self._namespace = namespace
        self._lock = threading.Lock()
        self._queue: list[Durable] = []
        self._fresh = _Fresh()
        self._lsn = ledger.last_lsn
        self._reading = threading.Lock()
        self._frames: OrderedDict[FramePosition, list[bytes]] = OrderedDict()
        self._frames_bytes = 0

    def note(self, durables: list[Durable]) -> None:
        """Remember where the feed envelopes of durable effects lie: of all that have become durable at once."""
        with self._lock:
            for durable in durables:
                if durable.stretches:
                    self._queue.append(durable)
                    self._lsn = durable.stretches[-1].position.lsn

    def flush(self) -> None:
        """Write what was noted to the index."""
        with self._lock:
            noted, self._queue = self._queue, []
            lsn = self._lsn
        if not noted:
            return
        self._index.add_many(self._entries(noted), lsn)
        with self._lock:
            self._fresh.forget(place.row for durable in noted for place in durable.effects.places)

    def _entries(self, noted: list[Durable]) -> Iterator[FeedEntry]:
        for durable in noted:
            for place in durable.effects.places:
                yield entry_of(self._namespace, place.row, *durable.place(place.record_no))

    def add(self, row: HeldRow, raw: bytes) -> None:
        """See ``Held``."""
        with self._lock:
            self._fresh.add(row, raw)

    def id_at(self, author: str, seq: int) -> str | None:
        """See ``Held``."""
        with self._lock:
            fresh = self._fresh.id_at(author, seq)
        if fresh is not None:
            return fresh
        entry = self._index.find_at(self._namespace, author, seq)
        return None if entry is None else entry.envelope_id

    def envelope(self, seed_id: str, envelope_id: str) -> tuple[HeldRow, bytes] | None:
        """See ``Held``."""
        with self._lock:
            fresh = self._fresh.get(envelope_id)
        if fresh is not None and fresh[0].seed_id == seed_id:
            return fresh
        entry = self._index.find_about(self._namespace, seed_id, envelope_id)
        if entry is None:
            return None
        try:
            with self._reading:
                return _row_of(entry), self._frame(entry.position)[entry.record_no]
        except DataDirDamagedError as error:
            raise RefusedError(f"envelope {envelope_id} cannot be read: {error.message}", Reason.UNAVAILABLE) from error

    def about(self, seed_id: str, *, bids: bool) -> list[HeldRow]:
        """See ``Held``."""
        entries = self._index.all_about(self._namespace, seed_id, _BIDS if bids else _OTHERS, Role.MAY)
        rows = {entry.envelope_id: _row_of(entry) for entry in entries}
        with self._lock:
            rows.update({row.envelope_id: row for row in self._fresh.about(seed_id)})
        return [row for row in rows.values() if (row.kind is FactKind.BID) is bids and row.role is Role.MAY]

    def seeds_from(self, author: str, seq: int, limit: int) -> list[tuple[int, str]]:
        """See ``Held``."""
        entries = self._index.find_from(self._namespace, author, seq, limit)
        found = {entry.envelope_id: (entry.seq, entry.about) for entry in entries}
        with self._lock:
            fresh = self._fresh.of(author, seq)
        found.update((row.envelope_id, (row.seq, row.seed_id)) for row in fresh if row.role)
        return sorted(found.values())[:limit]

    async def run(self) -> None:
        """Flush a few times a second until cancelled."""
        while True:
            await trio.sleep(limits.INDEX_FLUSH_MS / 1000)
            if self._queue:
                await trio.to_thread.run_sync(self.flush)

    def read(self, serves: list[Serve]) -> list[Stored]:
        """For each range its envelopes in order, at most SYNC_RESPONSE_BYTES_MAX but at least one."""
        self.flush()
        with self._reading:
            return [self._range(serve) for serve in serves]

    def _range(self, serve: Serve) -> Stored:
        found: Stored = []
        size = 0
        rows_max = 2 * (serve.to_seq - serve.from_seq + 1)
        for entry in self._index.find(self._namespace, serve.author, serve.from_seq, rows_max):
            if entry.seq > serve.to_seq:
                break
            raw = self._frame(entry.position)[entry.record_no]
            if found and size + len(raw) > limits.SYNC_RESPONSE_BYTES_MAX:
                break
            size += len(raw)
            order = (entry.position.lsn, entry.record_no)
            found.append(StoredEnvelope(entry.seq, entry.envelope_id, raw, order))
        return found

    def proof(self, author: str, seq: int) -> bytes | None:
        """The document that proves a fork of the author at ``seq``, None if two envelopes for it are not stored."""
        self.flush()
        raws: list[bytes] = []
        with self._reading:
            for entry in self._index.find(self._namespace, author, seq, limits.FORK_EVIDENCE_MAX):
                if entry.seq == seq:
                    raws.append(self._frame(entry.position)[entry.record_no])
        admission = Admission(AdmissionPolicy(self._namespace), SeenWindow(ttl_s=0, capacity=0))
        evidence = choose_pair(raws, admission)
        return None if evidence is None else evidence.document()

    def named(self, seed_id: str, envelope_id: str) -> bytes | None:
        """An envelope about a seed, by its id."""
        found = self.envelope(seed_id, envelope_id)
        return None if found is None else found[1]

    def _frame(self, position: FramePosition) -> list[bytes]:
        """The envelopes of a frame. Feeds share frames, so those read lately are kept."""
        envelopes = self._frames.get(position)
        if envelopes is None:
            envelopes = self._frames[position] = envelopes_of_frame(self._ledger.read_frame(position))
            self._frames_bytes += position.length
            while self._frames_bytes > limits.FRAMES_READ_BYTES_MAX and len(self._frames) > 1:
                old, _ = self._frames.popitem(last=False)
                self._frames_bytes -= old.length
        else:
            self._frames.move_to_end(position)
        return envelopes
