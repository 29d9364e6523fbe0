"""Group commit. Effects queue up while a frame is synced. The next frame takes all of them, or as many as fit.

Effects are carried out only after all their records are durable. The committer is the only writer of the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import trio

from crabnet import limits
from crabnet.core.effects import Effects
from crabnet.core.mending import ReplicaFailedError, is_containable
from crabnet.core.replica.records import envelopes_of_frame, frame_of
from crabnet.errors import CrabnetError, Reason, StorageFailedError
from crabnet.monitor.meters import Meters
from crabnet.node.durable.call_thread import CallThread
from crabnet.node.durable.framing import Batch, Durable, Framing
from crabnet.storage.journal.segment import FramePosition
from crabnet.storage.ledger import Ledger


@dataclass(slots=True)
class _Waiter:
    done: trio.Event
    failure: StorageFailedError | None = None


_Frame = Batch[_Waiter | None]


class Committer:
    """Commits effects and then calls ``release`` with them, in order."""

    def __init__(
        self,
        ledger: Ledger,
        release: Callable[[list[Durable]], None],
        broken: Callable[[], Exception | None] = lambda: None,
        note_head: Callable[[int, str], None] = lambda _seq, _id: None,
        meters: Meters | None = None,
    ) -> None:
        """``broken`` returns the error that made memory worthless, or None. After such an error nothing is committed.

        ``note_head`` is called in a thread with the seq and id of the head of the node's own feed, before the envelopes
        up to it are released. ``meters`` are those of the node.
        """
        self._ledger = ledger
        self._release = release
        self._broken = broken
        self._note_head = note_head
        self.meters = Meters() if meters is None else meters
        self._pending: Framing[_Waiter | None] = Framing()
        self._wake = trio.Event()
        self._drained = trio.Event()
        self._drained.set()
        self._failure: StorageFailedError | None = None
        self._boundaries: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self._crossed: list[Callable[[], None]] = []
        self._closing = False
        self._over = trio.Event()
        self.frames = 0
        self.records = 0

    @property
    def queued(self) -> tuple[int, int]:
        """How many records wait for a frame, and their size in bytes."""
        return self._pending.size

    def enqueue(self, effects: Effects) -> None:
        """Queue effects. They are carried out once they are durable."""
        self._put(effects, None)

    async def submit(self, effects: Effects) -> None:
        """Queue effects and wait until they are durable. Raises StorageFailedError if they cannot be made durable."""
        waiter = _Waiter(trio.Event())
        self._put(effects, waiter)
        await waiter.done.wait()
        if waiter.failure is not None:
            raise StorageFailedError(waiter.failure.message, waiter.failure.reason)

    async def room(self) -> None:
        """Wait while the queue is full."""
        while self._pending.full and self._failure is None:
            await self._drained.wait()

    async def boundary(self, at_boundary: Callable[[], None], at_synced: Callable[[], None]) -> None:
        """Call ``at_boundary`` when the next frame will hold all queued records, and ``at_synced`` once it is synced.

        No other frame is appended between the two. So the ledger's last lsn in ``at_synced`` belongs to the content of
        memory in ``at_boundary``. Neither callback may raise. Raises StorageFailedError.
        """
        self._boundaries.append((at_boundary, at_synced))
        await self.submit(Effects())

    def _put(self, effects: Effects, waiter: _Waiter | None) -> None:
        if self._failure is not None:
            if waiter is not None:
                waiter.failure = self._failure
                waiter.done.set()
            return
        self._pending.put(effects, waiter)
        if self._pending.full:
            self._drained = trio.Event() if self._drained.is_set() else self._drained
        self._wake.set()

    async def run(self) -> None:
        """Commit until ``close``. Raises StorageFailedError if the ledger fails; all waiters get that error too.

        Raises ReplicaFailedError for an unexpected error, and the error that ``broken`` returns.
        """
        try:
            with CallThread[FramePosition]("crabnet-journal") as thread:
                while True:
                    await self._wake.wait()
                    self._wake = trio.Event()
                    while self._pending:
                        broken = self._broken()
                        if broken is not None:
                            raise broken
                        await self._commit(self._take(), thread)
                    if self._closing:
                        return
        finally:
            self._over.set()

    async def close(self) -> None:
        """Commit all pending effects and refuse later ones. Returns when ``run`` has ended."""
        self._closing = True
        self._wake.set()
        await self._over.wait()
        if self._failure is None:
            self._fail(StorageFailedError("the node is stopping; try again", Reason.NODE_STOPPING), Batch())

    def _take(self) -> _Frame:
        batch = self._pending.take()
        if not self._pending:
            boundaries, self._boundaries = self._boundaries, []
            for at_boundary, at_synced in boundaries:
                at_boundary()
                self._crossed.append(at_synced)
        return batch

    async def _commit(self, batch: _Frame, thread: CallThread[FramePosition]) -> None:
        try:
            await self._write(batch, thread)
        except BaseException as error:
            await self._give_up(error, batch)
            raise

    async def fail(self, error: BaseException) -> None:
        """Acknowledge nothing more, because a part of the node has failed with ``error``. All waiters get an error."""
        if self._failure is None:
            await self._give_up(error, Batch())

    async def _give_up(self, error: BaseException, batch: _Frame) -> None:
        """End every wait, whatever the error, because the waiting tasks cannot be cancelled."""
        failure = error
        if not isinstance(failure, StorageFailedError):
            text = f"a part of the node has failed: {type(error).__name__}: {error}"
            failure = StorageFailedError(text, Reason.INTERNAL)
        self._ledger.poison(failure)
        self._fail(failure, batch)
        if isinstance(error, Exception):
            with trio.CancelScope(shield=True):
                await trio.sleep(limits.LAST_WORDS_MS / 1000)

    async def _write(self, batch: _Frame, thread: CallThread[FramePosition]) -> None:
        if batch.records:
            # In a thread, so that a slow disk does not block the loop.
            began_s = time.perf_counter()
            try:
                position = await thread.run_sync(partial(self._append, batch))
            except Exception as error:
                if not is_containable(error):
                    raise
                raise _commit_failed(error, batch.records) from error
            batch.written(position)
            self._measure(time.perf_counter() - began_s, len(batch.records), position.length)
            self.frames += 1
            self.records += len(batch.records)
        crossed, self._crossed = self._crossed, []
        for at_synced in crossed:
            at_synced()
        if not self._pending.full:
            self._drained.set()
        self._release([durable for durable, _ in batch.whole])
        for _, waiter in batch.whole:
            if waiter is not None:
                waiter.done.set()

    def _measure(self, took_s: float, records: int, size: int) -> None:
        meters = self.meters
        meters.fsync.observe(self._ledger.last_sync_s)
        meters.commit.observe(took_s)
        meters.commit_records.observe(records)
        meters.commit_bytes.observe(size)

    def _append(self, batch: _Frame) -> FramePosition:
        position = self._ledger.append(frame_of(batch.records))
        head = next((each.effects.own_head for each, _ in reversed(batch.whole) if each.effects.own_head), None)
        if head is not None:
            self._note_head(*head)
        return position

    def _fail(self, error: StorageFailedError, batch: _Frame) -> None:
        self._failure = error
        for waiter in (*(waiter for _, waiter in batch.whole), *self._pending.clear()):
            if waiter is not None:
                waiter.failure = error
                waiter.done.set()
        self._drained.set()


def _commit_failed(error: Exception, records: list[bytes]) -> ReplicaFailedError:
    """The error for a failed commit. It names the envelope; if there are several, all of them as suspects."""
    try:
        raws = tuple(raw for record in records for raw in envelopes_of_frame(frame_of([record])) if raw)
    except CrabnetError:
        raws = ()
    alone = len(raws) == 1
    return ReplicaFailedError("committing", error, messages=raws if alone else (), suspects=() if alone else raws)
