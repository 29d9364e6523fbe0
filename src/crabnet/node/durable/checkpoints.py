"""Decides when to make a checkpoint, and makes it without blocking the node: hashes and rows in slices, file work in a
thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, TypeVar

import trio

from crabnet import __version__
from crabnet.core.core import Core
from crabnet.core.effects import FieldValue
from crabnet.core.replica.snapshot import Snapshot
from crabnet.errors import StorageFailedError
from crabnet.node.durable.committer import Committer
from crabnet.storage.checkpoint.format import CheckpointHeader
from crabnet.storage.ledger import Ledger, LedgerMark

_HASH_SLICE: Final = 64
_ROWS_SLICE: Final = 200
_SLICE_S: Final = 0.002
"""A slice of rows ends early after this many seconds, because some seeds have rows of a megabyte."""
_PACE: Final = 8
"""After a slice the checkpointer sleeps this many times as long as the slice took."""

T = TypeVar("T")
Notify = Callable[[str, dict[str, FieldValue]], None]


def _slice(rows: Iterator[bytes], until_s: float) -> list[bytes]:
    """The next rows: at most ``_ROWS_SLICE``, or those ready by ``until_s`` (seconds of ``perf_counter``), but at least
    one. Empty at the end.
    """
    piece = []
    for row in islice(rows, _ROWS_SLICE):
        piece.append(row)
        if time.perf_counter() >= until_s:
            break
    return piece


class Checkpointer:
    """Makes the checkpoints of one ledger."""

    def __init__(
        self, core: Core, ledger: Ledger, committer: Committer, notify: Notify, clock_ms: Callable[[], int]
    ) -> None:
        self._core = core
        self._ledger = ledger
        self._committer = committer
        self._notify = notify
        self._clock_ms = clock_ms
        header = ledger.recovery.checkpoint
        self.written_ms = None if header is None else header.created_at_ms
        """The time of the last checkpoint, in milliseconds since the epoch. None without one."""

    async def run(self, *, journal_bytes: int, interval_ms: int) -> None:
        """Make a checkpoint whenever the journal has grown by ``journal_bytes``, or ``interval_ms`` after the last one
        if the journal has grown at all. Raises StorageFailedError.
        """
        last_ms = self._clock_ms()
        while True:
            await trio.sleep(1)
            grown = self._ledger.replay_bytes
            if grown >= journal_bytes or (grown and self._clock_ms() - last_ms >= interval_ms):
                await self.make()
                last_ms = self._clock_ms()

    async def make(self) -> None:
        """Make a checkpoint while the node goes on working. Raises StorageFailedError."""
        started_ms = self._clock_ms()
        state = self._core.replica.state
        for _ in range(0, state.hash_pending(), _HASH_SLICE):
            await self._paced(lambda: state.hash_some(_HASH_SLICE))
        snapshots: list[Snapshot] = []
        marks: list[LedgerMark] = []
        await self._committer.boundary(
            lambda: snapshots.append(Snapshot(self._core.replica)), lambda: marks.append(self._ledger.mark())
        )
        snapshot = snapshots[0]
        while await self._paced(lambda: snapshot.hash_some(_HASH_SLICE)):
            pass
        header = self._header(snapshot)
        try:
            writer = await trio.to_thread.run_sync(self._ledger.begin_checkpoint, header, marks[0])
        except StorageFailedError as error:
            self._failed(error)
            raise
        rows = snapshot.rows()
        try:
            while True:
                began_s = time.perf_counter()
                piece = _slice(rows, began_s + _SLICE_S)
                if not piece:
                    break
                took_s = time.perf_counter() - began_s
                await trio.to_thread.run_sync(writer.write_rows, piece)
                await trio.sleep(_PACE * took_s)
            with trio.CancelScope(shield=True):
                header = await trio.to_thread.run_sync(writer.commit)
        finally:
            writer.abort()
        self._written(header, started_ms)

    async def _paced(self, step: Callable[[], T]) -> T:
        """Do a step that blocks the loop, then sleep."""
        began_s = time.perf_counter()
        done = step()
        await trio.sleep(_PACE * (time.perf_counter() - began_s))
        return done

    def make_now(self) -> None:
        """Make a checkpoint at shutdown, when nothing else runs. Blocks. Raises StorageFailedError."""
        started_ms = self._clock_ms()
        snapshot = Snapshot(self._core.replica)
        try:
            writer = self._ledger.begin_checkpoint(self._header(snapshot))
        except StorageFailedError as error:
            self._failed(error)
            raise
        try:
            writer.write_rows(snapshot.rows())
            header = writer.commit()
        finally:
            writer.abort()
        self._written(header, started_ms)

    def _header(self, snapshot: Snapshot) -> CheckpointHeader:
        return CheckpointHeader(
            state_hash=snapshot.state_hash,
            created_at_ms=self._clock_ms(),
            node_id=self._core.signer.node_id,
            extra={"program": f"crabnet {__version__}", "namespace": self._core.replica.namespace},
        )

    def _failed(self, error: StorageFailedError) -> None:
        self._notify("checkpoint_failed", {"reason": error.reason.value, "detail": error.message})

    def _written(self, header: CheckpointHeader, started_ms: int) -> None:
        self.written_ms = header.created_at_ms
        self._notify(
            "checkpoint_written",
            {
                "lsn": header.lsn,
                "duration_ms": self._clock_ms() - started_ms,
                "state_hash": header.state_hash,
            },
        )
