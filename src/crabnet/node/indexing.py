"""The disposable index behind the journal: kept up a little behind it, read to serve neighbours."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

import trio

from crabnet import limits
from crabnet.core.effects import Serve, Sleep
from crabnet.core.records import ArchiveRecord, FactRecord, ProofRecord, decode_frame, envelopes_of_frame
from crabnet.node.framing import Durable
from crabnet.protocol.admission import Admission, AdmissionPolicy
from crabnet.protocol.fork_proof import choose_pair, envelopes_of
from crabnet.protocol.replay import SeenWindow
from crabnet.storage.feed_index import FeedEntry, FeedIndex, Sleeper
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
        self._queue: list[Durable] = []
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
        """Write what was noted to the index. Raises RefusedError, StorageFailedError of the index alone."""
        with self._lock:
            noted, self._queue = self._queue, []
            lsn = self._lsn
        if noted:
            self._index.add_many(self._entries(noted), lsn, self._sleepers(noted))

    def _entries(self, noted: list[Durable]) -> Iterator[FeedEntry]:
        for durable in noted:
            for place in durable.effects.places:
                namespace = forks_namespace(self._namespace) if place.fork else self._namespace
                yield FeedEntry(namespace, place.author, place.seq, place.envelope_id, *durable.place(place.record_no))

    def _sleepers(self, noted: list[Durable]) -> Iterator[Sleeper]:
        for durable in noted:
            for each in durable.effects.dormancy:
                if isinstance(each, Sleep):
                    yield Sleeper(self._namespace, each.author, each.seq, each.envelope_id, each.parent)
                else:
                    yield Sleeper(self._namespace, each.author, each.seq, branch=each.branch)

    def asleep(self, parent: str, after: tuple[str, int]) -> tuple[list[bytes], tuple[str, int] | None]:
        """Some of the envelopes that wait for ``parent``, behind a place (author, seq), and where to go on, if so.

        At most SYNC_RESPONSE_BYTES_MAX but at least one, if there is one.
        """
        self.flush()
        with self._reading:
            rows = self._index.asleep(self._namespace, parent, after, limits.SLEEPERS_WOKEN_AT_ONCE)
            found: list[bytes] = []
            size = 0
            for row in rows:
                raw = self._frame(row.position)[row.record_no]
                size += len(raw)
                if found and size > limits.SYNC_RESPONSE_BYTES_MAX:
                    break
                found.append(raw)
        if len(found) == len(rows) < limits.SLEEPERS_WOKEN_AT_ONCE:
            return found, None
        last = rows[len(found) - 1]
        return found, (last.author, last.seq)

    async def run(self) -> None:
        """Flush a few times a second until cancelled."""
        while True:
            await trio.sleep(limits.INDEX_FLUSH_MS / 1000)
            if self._queue:
                await trio.to_thread.run_sync(self.flush)

    def read(self, serves: list[Serve]) -> list[list[tuple[int, str, bytes]]]:
        """For each range (seq, id, envelope) in order, at most SYNC_RESPONSE_BYTES_MAX but at least one."""
        self.flush()
        with self._reading:
            return [self._range(serve) for serve in serves]

    def _range(self, serve: Serve) -> list[tuple[int, str, bytes]]:
        found: list[tuple[int, str, bytes]] = []
        size = 0
        rows_max = 2 * (serve.to_seq - serve.from_seq + 1)
        for entry in self._index.find(self._namespace, serve.author, serve.from_seq, rows_max):
            if entry.seq > serve.to_seq:
                break
            raw = self._frame(entry.position)[entry.record_no]
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
