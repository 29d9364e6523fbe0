"""The disposable index behind the journal: kept up a little behind it, read to serve neighbours."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import trio

from crabnet import limits
from crabnet.core.effects import FeedPlace
from crabnet.core.records import ArchiveRecord, FactRecord, ProofRecord, decode_frame
from crabnet.node.committer import Durable
from crabnet.protocol.admission import Admission, AdmissionPolicy
from crabnet.protocol.fork_proof import choose_pair, envelopes_of
from crabnet.protocol.replay import SeenWindow
from crabnet.storage.feed_index import FeedEntry, FeedIndex
from crabnet.storage.journal import FramePosition
from crabnet.storage.ledger import Ledger


def forks_namespace(namespace: str) -> str:
    """The key under which the index keeps evidence of forks, apart from what stands in feeds."""
    return f"{namespace}\0forks"


class History:
    """Stored envelopes by feed position. ``flush`` and ``read`` block on the disk and are safe in worker threads."""

    def __init__(self, ledger: Ledger, index: FeedIndex, namespace: str) -> None:
        self._ledger = ledger
        self._index = index
        self._namespace = namespace
        self._lock = threading.Lock()
        self._queue: list[tuple[FramePosition, int, list[FeedPlace]]] = []
        self._lsn = ledger.last_lsn

    def note(self, durable: Durable) -> None:
        """Remember where the feed envelopes of durable effects lie."""
        if durable.position is None:
            return
        with self._lock:
            self._queue.append((durable.position, durable.record_base, durable.effects.places))
            self._lsn = durable.position.lsn

    def flush(self) -> None:
        """Write what was noted to the index. Raises RefusedError, StorageFailedError of the index alone."""
        with self._lock:
            noted, self._queue = self._queue, []
            lsn = self._lsn
        if noted:
            self._index.add_many(self._entries(noted), lsn)

    def _entries(self, noted: list[tuple[FramePosition, int, list[FeedPlace]]]) -> Iterator[FeedEntry]:
        for position, base, places in noted:
            for place in places:
                namespace = forks_namespace(self._namespace) if place.fork else self._namespace
                yield FeedEntry(namespace, place.author, place.seq, place.envelope_id, position, base + place.record_no)

    async def run(self) -> None:
        """Flush a few times a second until cancelled."""
        while True:
            await trio.sleep(limits.INDEX_FLUSH_MS / 1000)
            if self._queue:
                await trio.to_thread.run_sync(self.flush)

    def read(self, author: str, from_seq: int, to_seq: int) -> list[tuple[int, str, bytes]]:
        """(seq, id, envelope) in order, at most SYNC_RESPONSE_BYTES_MAX but at least one."""
        self.flush()
        found: list[tuple[int, str, bytes]] = []
        size = 0
        frames: dict[FramePosition, list[bytes]] = {}
        for entry in self._index.find(self._namespace, author, from_seq, 2 * (to_seq - from_seq + 1)):
            if entry.seq > to_seq:
                break
            envelopes = frames.get(entry.position)
            if envelopes is None:
                records = decode_frame(self._ledger.read_frame(entry.position))
                envelopes = frames[entry.position] = [
                    b"" if isinstance(record, ArchiveRecord | FactRecord | ProofRecord) else bytes(record.raw)
                    for record in records
                ]
            raw = envelopes[entry.record_no]
            if found and size + len(raw) > limits.SYNC_RESPONSE_BYTES_MAX:
                break
            size += len(raw)
            found.append((entry.seq, entry.envelope_id, raw))
        return found

    def proof(self, author: str, seq: int) -> bytes | None:
        """The document that proves a fork of the author at ``seq``, None if two envelopes for it are not stored."""
        self.flush()
        raws: list[bytes] = []
        for namespace in (self._namespace, forks_namespace(self._namespace)):
            for entry in self._index.find(namespace, author, seq, 2 * limits.FORK_PROOFS_PER_FEED_MAX):
                if entry.seq != seq:
                    break
                record = decode_frame(self._ledger.read_frame(entry.position))[entry.record_no]
                if isinstance(record, ProofRecord):
                    raws += envelopes_of(bytes(record.raw))
                elif not isinstance(record, ArchiveRecord | FactRecord):
                    raws.append(bytes(record.raw))
        admission = Admission(AdmissionPolicy(self._namespace), SeenWindow(ttl_s=0, capacity=0))
        evidence = choose_pair(raws, admission)
        return None if evidence is None else evidence.document()
