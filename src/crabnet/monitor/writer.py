"""The event log. It never blocks when it takes an event, writes events in batches, and survives a failing disk."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec
from msgspec import Struct

from crabnet.limits import EVENTS_RECENT_MAX, EVENTS_SAMPLED
from crabnet.monitor.events import Event, EventEncoder, PayloadValue, make_event
from crabnet.monitor.lines import CURRENT_NAME, LOCK_NAME
from crabnet.monitor.queue import EventQueue
from crabnet.monitor.registry import EventKind, Severity
from crabnet.monitor.segment import EventFile, EventLogOptions, Repair
from crabnet.storage.files import Files
from crabnet.storage.lock import DirLock, LockRole

_CHUNK_EVENTS: Final = 512
"""Events encoded at a time. Encoding blocks the interpreter, so it should take only a fraction of a millisecond."""


class EventGauges(Struct, frozen=True, kw_only=True):
    """How far the event log is behind, and what it has lost. Counts start when the log is opened.

    ``queued`` events are not in the file yet. At most ``capacity`` wait for their turn; those that are being written
    come on top. ``oldest_unwritten_ms`` is the age of the oldest one in milliseconds, 0 without any. ``bytes_behind``
    estimates what they take in the file: the mean size of the oldest EVENTS_SAMPLED ones, times ``queued``.
    ``dropped`` events are lost, ``dropped_alerts`` of them were alerts. Drops that ``events_dropped`` has not reported
    yet are counted, too. ``failing`` is true while the file cannot be written. ``last_error`` stays until the next one.
    """

    queued: int
    capacity: int
    oldest_unwritten_ms: int
    bytes_behind: int
    dropped: int
    dropped_alerts: int
    dropped_by_kind: dict[str, int]
    written: int
    write_failures: int
    failing: bool
    last_error: str | None
    last_id: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class FlushReport:
    """The result of one ``flush``: how many events were written, and the error that stopped it, if any."""

    written: int
    last_id: int
    error: str | None


class EventLog:
    """Writer of ``events.ndjson``. There is one per data dir, guarded by ``events.lock``.

    The node's loop calls ``put``, which never waits. ``flush`` does the file work and may be called in a worker
    thread. A failed write never raises: it is counted and reported, and the next ``flush`` tries again.
    """

    def __init__(
        self,
        files: Files,
        directory: Path,
        node_id: str,
        lock: DirLock,
        *,
        options: EventLogOptions,
        warn: Callable[[str], None],
    ) -> None:
        self._node_id = node_id
        self._path = directory / CURRENT_NAME
        self._lock = lock
        self._warn = warn
        self._queue = EventQueue(options.queue_max)
        self._wake_at = max(1, options.queue_max // 4)
        self._file = EventFile(files, directory, options)
        self._encoder = EventEncoder()
        self._flushing = threading.Lock()
        self._pending: list[Event] = []
        self._sync_due = False
        self._written = 0
        self._write_failures = self._failures_in_a_row = 0
        self._last_error: str | None = None
        self.recent: tuple[Event, ...] = ()
        """The newest events that are in the file, oldest first, without a gap. Any thread may read this at any time."""
        self.wake: Callable[[], None] | None = None
        """Called by ``put``, in its thread, when a flush should happen soon."""

    @classmethod
    def open(
        cls,
        files: Files,
        directory: Path,
        node_id: str,
        *,
        now_ms: int,
        role: LockRole = LockRole.NODE,
        program: str = "crabnet",
        options: EventLogOptions | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Self:
        """Take ``events.lock`` and find the end of the log. A torn end is repaired and reported by an event.

        Raises ``DataDirBusyError``, which names the holder, if another process writes, and ``StorageFailedError`` if
        locks do not work. A file that cannot be written is not an error: events wait in the queue, see ``flush``.
        """
        lock = DirLock.acquire(files, directory / LOCK_NAME, role, program=program, now_ms=now_ms)
        log = cls(
            files,
            directory,
            node_id,
            lock,
            options=EventLogOptions() if options is None else options,
            warn=_warn_on_stderr if warn is None else warn,
        )
        log.flush(now_ms)
        return log

    def put(self, event: Event) -> None:
        """Queue ``event``. If the queue is full, an event is dropped and counted."""
        self._queue.put(event)
        if self.wake is not None and (event.severity is Severity.ALERT or len(self._queue) >= self._wake_at):
            self.wake()

    def emit(self, kind: EventKind, now_ms: int, severity: Severity | None = None, /, **fields: PayloadValue) -> None:
        """``put(make_event(...))`` with the node id of this log."""
        self.put(make_event(kind, now_ms, self._node_id, severity, **fields))

    @property
    def flush_due(self) -> bool:
        """True if an alert waits or the queue fills, so that ``flush`` should be called without delay."""
        return self._queue.urgent or len(self._queue) >= self._wake_at

    def flush(self, now_ms: int) -> FlushReport:
        """Write the queued events. If one is an alert, make them durable. Never raises ``OSError``.

        Call it now and then even if no event is queued, because it also rotates and deletes files by their age.
        """
        with self._flushing:
            before = self._written
            error: str | None = None
            try:
                self._flush(now_ms)
            except OSError as failure:
                error = self._failed(failure)
            else:
                self._succeeded(now_ms)
            return FlushReport(self._written - before, self._file.last_id, error)

    @property
    def queued(self) -> int:
        """The number of events that are not in the file yet."""
        return len(self._queue) + len(self._pending)

    def gauges(self, now_ms: int) -> EventGauges:
        """The state of the log at ``now_ms``, in milliseconds since the epoch. Any thread may call this at any time."""
        queued, losses = self.queued, self._queue.losses()
        oldest = self._pending[:EVENTS_SAMPLED]
        oldest += self._queue.oldest(EVENTS_SAMPLED - len(oldest))
        sampled = sum(map(len, map(msgspec.json.encode, oldest))) + len(oldest)
        return EventGauges(
            queued=queued,
            capacity=self._queue.capacity,
            oldest_unwritten_ms=max((now_ms - event.ts_ms for event in oldest), default=0) if queued else 0,
            bytes_behind=sampled * queued // len(oldest) if oldest else 0,
            dropped=sum(losses.by_kind.values()),
            dropped_alerts=losses.alerts,
            dropped_by_kind=losses.by_kind,
            written=self._written,
            write_failures=self._write_failures,
            failing=self._failures_in_a_row > 0,
            last_error=self._last_error,
            last_id=self._file.last_id,
            file_bytes=self._file.size,
        )

    def close(self, now_ms: int) -> FlushReport:
        """Write the queued events, make them durable, and release the lock. The log cannot be used after that."""
        self._sync_due = True
        report = self.flush(now_ms)
        with self._flushing:
            try:
                self._file.detach()
            except OSError as failure:
                self._failed(failure)
            self._lock.release()
        return report

    def _flush(self, now_ms: int) -> None:
        if not self._file.attached:
            self._attach(now_ms)
        while True:
            if not self._pending:
                self._refill(now_ms)
            if not self._pending:
                break
            repair = self._file.look(now_ms)
            if repair is not None:
                self._pending.insert(0, self._repaired(repair, now_ms))
            chunk = self._pending[:_CHUNK_EVENTS]
            for event_id, event in enumerate(chunk, self._file.last_id + 1):
                event.id = event_id
            data = self._encoder.lines(chunk)
            self._file.rotate_if_due(len(data), now_ms)
            self._file.append(data, chunk)
            self._sync_due = self._sync_due or any(event.severity is Severity.ALERT for event in chunk)
            self._acknowledge(len(chunk))
            self._remember(chunk)
        if self._sync_due:
            self._file.sync()
            self._sync_due = False
        self._file.tidy(now_ms)

    def _attach(self, now_ms: int) -> None:
        """Open the file. Events that were written before a failure was reported are not written again."""
        repair = self._file.attach(now_ms)
        last_id = self._file.last_id
        self._acknowledge(sum(1 for event in self._pending if 0 < event.id <= last_id))
        if repair is not None:
            self._pending.insert(0, self._repaired(repair, now_ms))

    def _acknowledge(self, count: int) -> None:
        del self._pending[:count]
        self._written += count

    def _remember(self, chunk: list[Event]) -> None:
        follows = self.recent and self.recent[-1].id + 1 == chunk[0].id
        self.recent = (*(self.recent if follows else ()), *chunk)[-EVENTS_RECENT_MAX:]

    def _refill(self, now_ms: int) -> None:
        batch = self._queue.take()
        self._pending = batch.events
        if batch.dropped:
            self._pending.insert(
                0,
                make_event(
                    EventKind.EVENTS_DROPPED, now_ms, self._node_id, count=batch.dropped, lost=batch.dropped_alerts
                ),
            )

    def _repaired(self, repair: Repair, now_ms: int) -> Event:
        return make_event(
            EventKind.EVENTS_REPAIRED,
            now_ms,
            self._node_id,
            file=repair.file,
            offset=repair.offset,
            bytes=repair.bytes,
            action=repair.action,
        )

    def _failed(self, failure: OSError) -> str:
        self._write_failures += 1
        self._failures_in_a_row += 1
        self._last_error = failure.strerror or str(failure)
        try:
            self._file.detach()
        except OSError as second:
            self._last_error = f"{self._last_error}; closing: {second.strerror or second}"
        if self._failures_in_a_row == 1:
            self._warn(
                f"events cannot be written to {self._path}: {self._last_error}; "
                f"the node continues and tries again; check the disk"
            )
        return self._last_error

    def _succeeded(self, now_ms: int) -> None:
        if not self._failures_in_a_row:
            return
        failures, self._failures_in_a_row = self._failures_in_a_row, 0
        self._warn(f"events are written to {self._path} again after {failures} failures")
        self._queue.put(
            make_event(EventKind.EVENTS_WRITE_FAILED, now_ms, self._node_id, failures=failures, detail=self._last_error)
        )


def _warn_on_stderr(message: str) -> None:
    sys.stderr.write(f"crabnet: {message}\n")
    sys.stderr.flush()
