"""The disposable index of the journal. It is written a little after the journal, and read to serve neighbours."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from crabnet import limits
from crabnet.core.effects import Serve
from crabnet.core.replica.held import HeldRow, Role
from crabnet.core.replica.records import (
    EnvelopeRecord,
    ForkRecord,
    Record,
    decode_frame,
    envelope_of,
    envelopes_of_frame,
    held_row,
    is_frame_of_records,
    stated_by,
)
from crabnet.domain.model import FactKind
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, RefusedError
from crabnet.node.durable.framing import Durable
from crabnet.protocol.admission import Admission, AdmissionPolicy
from crabnet.protocol.fork_proof import choose_pair
from crabnet.protocol.replay import SeenWindow
from crabnet.storage.feed_index import FeedEntry, FeedIndex
from crabnet.storage.files import Files
from crabnet.storage.journal.segment import Frame, FramePosition
from crabnet.storage.journal.walk import walk_journal
from crabnet.storage.layout import Layout
from crabnet.storage.ledger import Ledger

_BIDS: Final = (FactKind.BID.value,)
_OTHERS: Final = tuple(kind.value for kind in FactKind if kind is not FactKind.BID)


class StoredEnvelope(NamedTuple):
    """An envelope of a feed. ``order`` is its place in the journal: (lsn, number of the record)."""

    seq: int
    envelope_id: str
    raw: bytes
    order: tuple[int, int]


Stored = list[StoredEnvelope]


def entry_of(namespace: str, row: HeldRow, position: FramePosition, record_no: int) -> FeedEntry:
    """The index entry of an envelope."""
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


def index_entries(records: list[Record], frame: Frame, namespace: str) -> Iterator[FeedEntry]:
    """The index entries of a frame: for its feed envelopes and its evidence of forks."""
    for record_no, record in enumerate(records):
        if isinstance(record, EnvelopeRecord) and record.fact is None:
            envelope = envelope_of(record)
            row = held_row(record, envelope, stated_by(envelope))
            yield entry_of(namespace, row, frame.position, record_no)
        elif isinstance(record, ForkRecord):
            meta = envelope_of(record).meta
            yield entry_of(namespace, HeldRow(meta.from_, meta.seq, meta.id), frame.position, record_no)


def _row_of(entry: FeedEntry) -> HeldRow:
    kind = FactKind(entry.kind) if entry.kind else None
    return HeldRow(entry.author, entry.seq, entry.envelope_id, entry.about, kind, entry.parent, Role(entry.role))


def _is_at(raw: bytes, entry: FeedEntry) -> bool:
    """Whether ``raw`` is the envelope of the entry. Its text is canonical, so these members have only this spelling."""
    place = b'"seq":%d' % entry.seq
    return (
        b'"id":"%s"' % entry.envelope_id.encode() in raw
        and b'"from":"%s"' % entry.author.encode() in raw
        and (place + b"," in raw or place + b"}" in raw)
    )


class _Fresh:
    """Envelopes that are not in the index yet: those of the last few hundred milliseconds."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[HeldRow, bytes]] = {}
        self._unplaced: list[HeldRow] = []
        """Rows that are in none of the tables below yet. Mostly the index has them before anything looks for them."""
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
    """Stored envelopes by feed position, by seed and by id. It is the ``Held`` of a node. Safe in worker threads.

    Methods may block on the disk. They raise RefusedError or StorageFailedError for failures of the index alone.
    """

    def __init__(self, ledger: Ledger, index: FeedIndex, files: Files, layout: Layout, namespace: str) -> None:
        self._ledger = ledger
        self._index = index
        self._files = files
        self._layout = layout
        self._namespace = namespace
        self._lock = threading.Lock()
        self._queue: list[Durable] = []
        self._fresh = _Fresh()
        self._lsn = ledger.last_lsn
        self._reading = threading.Lock()
        self._frames: OrderedDict[FramePosition, list[bytes]] = OrderedDict()
        self._frames_bytes = 0

    def note(self, durables: list[Durable]) -> None:
        """Note the places of the feed envelopes in effects, which must be all effects that became durable together."""
        with self._lock:
            for durable in durables:
                if durable.stretches:
                    self._queue.append(durable)
                    self._lsn = durable.stretches[-1].position.lsn

    def flush(self) -> None:
        """Write the noted entries to the index."""
        with self._lock:
            noted, self._queue = self._queue, []
            lsn = self._lsn
        if not noted:
            return
        try:
            self._index.add_many(self._entries(noted), lsn)
            self._index.seal(at_least_bytes=limits.INDEX_LOG_BYTES_MAX)
        except CrabnetError:
            with self._lock:
                self._queue[:0] = noted
            raise
        with self._lock:
            self._fresh.forget(place.row for durable in noted for place in durable.effects.places)

    def catch_up(self, *, pause_s: float = 0) -> int:
        """Index the frames of the journal that are not in the index yet. Returns the number of indexed envelopes.

        A pause of ``pause_s`` seconds after each batch lets a node go on working. Frames that cannot be read any more
        (damage in history/, frames lost in a repair) are skipped; the node cannot serve their envelopes. Raises
        StorageFailedError, and RefusedError if the index turns out to be damaged.
        """
        index, upto, added = self._index, self._ledger.last_lsn, 0
        first = index.last_lsn
        entries: list[FeedEntry] = []
        if first < upto:
            for frame in walk_journal(self._files, self._layout, is_frame_of_records, after_lsn=first):
                if not isinstance(frame, Frame) or frame.lsn <= first:
                    continue
                if frame.lsn > upto:
                    break
                entries.extend(index_entries(decode_frame(frame.payload), frame, self._namespace))
                if len(entries) >= limits.INDEX_BATCH_ENTRIES:
                    added += len(entries)
                    index.add_many(entries, frame.lsn)
                    index.seal(at_least_bytes=limits.INDEX_LOG_BYTES_MAX)
                    entries = []
                    time.sleep(pause_s)
        if entries or first < upto:
            index.add_many(entries, upto)
        index.whole(upto)
        return added + len(entries)

    @property
    def is_damaged(self) -> bool:
        """True while the index lacks entries after damage. ``catch_up`` restores them."""
        return self._index.emptied

    @property
    def was_built_anew(self) -> bool:
        """True if the index could not be used at the start and was rebuilt."""
        return self._index.built_anew

    def look_at_some(self) -> None:
        """Compare a part of the index with its seal. Raises RefusedError if they differ."""
        self._index.look_at_some()

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
                return _row_of(entry), self._raw(entry)
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

    def read(self, serves: list[Serve]) -> list[Stored]:
        """The envelopes of each range, in order. A range gives at most SYNC_RESPONSE_BYTES_MAX bytes, but at least one
        envelope if it has any.
        """
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
            raw = self._raw(entry)
            if found and size + len(raw) > limits.SYNC_RESPONSE_BYTES_MAX:
                break
            size += len(raw)
            order = (entry.position.lsn, entry.record_no)
            found.append(StoredEnvelope(entry.seq, entry.envelope_id, raw, order))
        return found

    def proof(self, author: str, seq: int) -> bytes | None:
        """The document that proves a fork of the author at ``seq``; None unless two envelopes for it are stored."""
        self.flush()
        raws: list[bytes] = []
        with self._reading:
            for entry in self._index.find(self._namespace, author, seq, limits.FORK_EVIDENCE_MAX):
                if entry.seq == seq:
                    raws.append(self._raw(entry))
        admission = Admission(AdmissionPolicy(self._namespace), SeenWindow(ttl_s=0, capacity=0))
        evidence = choose_pair(raws, admission)
        return None if evidence is None else evidence.document()

    def named(self, seed_id: str, envelope_id: str) -> bytes | None:
        """An envelope about a seed, by the envelope's id; None if it is not stored."""
        found = self.envelope(seed_id, envelope_id)
        return None if found is None else found[1]

    def _raw(self, entry: FeedEntry) -> bytes:
        """The envelope at the place of an entry. Raises RefusedError if the journal holds another one there."""
        frame = self._frame(entry.position)
        raw = frame[entry.record_no] if 0 <= entry.record_no < len(frame) else b""
        if not _is_at(raw, entry):
            self._index.damaged(f"it leads to another envelope than {entry.envelope_id}")
        return raw

    def _frame(self, position: FramePosition) -> list[bytes]:
        """The envelopes of a frame. Feeds share frames, so frames that were read lately are cached."""
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
