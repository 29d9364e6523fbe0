"""The envelopes that a node of the simulation has stored, by place, by seed and by id: what ``node.indexing`` does with
SQLite, in memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from crabnet import limits
from crabnet.core.effects import Serve, ServeNamed, ServeProof
from crabnet.core.replica.held import HeldRow, MemoryHeld
from crabnet.core.replica.records import EnvelopeRecord, ForkRecord, decode_frame, envelope_of, held_row, stated_by
from crabnet.node.durable.framing import Durable
from crabnet.protocol.admission import Admission
from crabnet.protocol.feed import Feed
from crabnet.protocol.fork_proof import choose_pair
from crabnet.storage.journal.segment import FramePosition


class _Entry(NamedTuple):
    """Where an envelope lies."""

    seq: int
    envelope_id: str
    frame: bytes
    record_no: int


class AllHeld(MemoryHeld):
    """``MemoryHeld`` that can tell also what can never count."""

    def __init__(self) -> None:
        super().__init__()
        self._all: defaultdict[str, dict[str, HeldRow]] = defaultdict(dict)

    def add(self, row: HeldRow, raw: bytes) -> None:
        """See ``Held``."""
        super().add(row, raw)
        self._all[row.seed_id][row.envelope_id] = row

    def all_about(self, seed_id: str) -> list[HeldRow]:
        """Everything that was said about a seed."""
        return list(self._all[seed_id].values())


class Stored:
    """``held`` knows an envelope at once, the rest of it when it is durable. ``raw`` reads a record of a frame."""

    def __init__(self, raw: Callable[[bytes, int], bytes]) -> None:
        self.held = AllHeld()
        self._raw = raw
        self._rows: dict[str, HeldRow] = {}
        self._entries: defaultdict[str, list[_Entry]] = defaultdict(list)

    def recover(self, frame: bytes) -> None:
        """Know what is in a frame of an earlier life."""
        for record_no, record in enumerate(decode_frame(frame)):
            if isinstance(record, EnvelopeRecord):
                envelope = envelope_of(record)
                row = held_row(record, envelope, stated_by(envelope))
            elif isinstance(record, ForkRecord):
                envelope = envelope_of(record)
                row = HeldRow(envelope.meta.from_, envelope.meta.seq, envelope.meta.id)
            else:
                continue
            self.held.add(row, envelope.raw)
            self._enter(row, frame, record_no)

    def add(self, durable: Durable, frames: Mapping[FramePosition, bytes]) -> None:
        """Effects are durable in these frames: know what they say of them."""
        for place in durable.effects.places:
            position, record_no = durable.place(place.record_no)
            self._enter(place.row, frames[position], record_no)

    def _enter(self, row: HeldRow, frame: bytes, record_no: int) -> None:
        self._rows[row.envelope_id] = row
        entries = self._entries[row.author]
        entry = _Entry(row.seq, row.envelope_id, frame, record_no)
        at = len(entries) if not entries or entries[-1][:2] < entry[:2] else _at(entries, *entry[:2])
        if at < len(entries) and entries[at][:2] == entry[:2]:
            entries[at] = entry
        else:
            entries.insert(at, entry)

    def rows(self) -> Iterator[HeldRow]:
        """All that is durable."""
        yield from self._rows.values()

    def range(self, serve: Serve, feed: Feed) -> list[tuple[int, bytes]]:
        """(seq, envelope) of what stands of a range, no more than one answer may hold."""
        found: list[tuple[int, bytes]] = []
        size = 0
        entries = self._entries.get(serve.author, [])
        for entry in entries[_at(entries, serve.from_seq) :]:
            if entry.seq > min(serve.to_seq, feed.head_seq):
                break
            if feed.in_window(entry.seq) not in {None, entry.envelope_id}:
                continue
            raw = self._raw(entry.frame, entry.record_no)
            size += len(raw)
            if found and size > limits.SYNC_RESPONSE_BYTES_MAX:
                break
            found.append((entry.seq, raw))
        return found

    def proof(self, wanted: ServeProof, admission: Admission) -> bytes | None:
        """The document that proves a fork."""
        entries = self._entries.get(wanted.author, [])
        first = _at(entries, wanted.seq)
        raws = [
            self._raw(entry.frame, entry.record_no)
            for entry in entries[first : first + limits.FORK_EVIDENCE_MAX]
            if entry.seq == wanted.seq
        ]
        evidence = choose_pair(raws, admission)
        return None if evidence is None else evidence.document()

    def named(self, named: ServeNamed) -> bytes | None:
        """An envelope about a seed, by its id."""
        found = self.held.envelope(named.seed_id, named.envelope_id)
        return None if found is None else found[1]

    def of(self, author: str) -> list[tuple[int, str, bytes]]:
        """(seq, id, envelope) of all of an author's, whether it stands or not."""
        entries = self._entries.get(author, [])
        return [(entry.seq, entry.envelope_id, self._raw(entry.frame, entry.record_no)) for entry in entries]

    def envelopes(self) -> Iterator[bytes]:
        """All of all authors."""
        for author in self._entries:
            for _, _, raw in self.of(author):
                yield raw


def _at(entries: list[_Entry], seq: int, envelope_id: str = "") -> int:
    return bisect_left(entries, (seq, envelope_id), key=lambda entry: entry[:2])
