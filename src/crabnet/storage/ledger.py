"""The ledger: every acknowledged frame exists exactly once, even after a failure of the disk or the power.

``Ledger.append`` returns when a frame is durable. After any failure the ledger is poisoned: it acknowledges nothing
more, and a restart recovers. One process owns a data dir. Inside this process, one thread appends while others read.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from crabnet.errors import CrabnetError, Reason, RefusedError, StorageFailedError
from crabnet.limits import DISK_FREE_LOW_BYTES
from crabnet.storage.checkpoint.format import CheckpointHeader, Condition
from crabnet.storage.checkpoint.writing import CheckpointFile
from crabnet.storage.files import Files, guarded, move_file, replace_file, storage_failed
from crabnet.storage.journal.reading import read_frame_at
from crabnet.storage.journal.segment import HEADER_BYTES, Frame, FramePosition, SegmentWriter, encode_frame, hash_line
from crabnet.storage.layout import Layout, encode_seal, list_segments, segment_name
from crabnet.storage.lock import DirLock, LockRole
from crabnet.storage.opening.opening import Recovery, iter_frames, refuse_if_told, repair
from crabnet.storage.opening.survey import Survey, survey


class DiskSpace(NamedTuple):
    """Free space on the file system of the data dir. The node should warn the operator when ``is_low`` is true."""

    free_bytes: int
    is_low: bool


class LedgerMark(NamedTuple):
    """An end of the journal: the last frame, its hash, and the bytes that a restart would replay up to it."""

    lsn: int
    head_hash: str
    replay_bytes: int


class Ledger:
    """An open data dir. Get one from ``Ledger.open``, and ``close`` it or use it as a context manager."""

    def __init__(self, files: Files, found: Survey, writer: SegmentWriter, lock: DirLock) -> None:
        self._files = files
        self._layout = found.layout
        self._writer = writer
        self._dir_lock = lock
        self._append_lock = threading.Lock()
        self._failure: StorageFailedError | None = None
        self._closed = False
        self._last_lsn = found.journal.last_lsn
        self._head_hash = found.journal.head_hash
        self._seal_lsn = found.seal_lsn or 0
        self._state_lsn = found.state.lsn if found.state.condition in {Condition.OK, Condition.OLDER} else None
        self._bak_lsn = found.bak.lsn if found.bak.condition in {Condition.OK, Condition.OLDER} else 0
        self._replay_bytes = found.journal.replay_bytes
        self._checkpoint: CheckpointWriter | None = None
        self.last_sync_s = 0.0
        """How long the fdatasync of the last frame took, in seconds."""
        conditions = (found.state.condition, found.bak.condition, found.journal.condition)
        self.recovery = Recovery(
            files,
            found.layout,
            found.rule.action,
            conditions,
            found.notices,
            found.base.finding,
            found.base.lsn,
            found.journal.last_lsn,
        )

    @classmethod
    def open(
        cls,
        data_dir: Path,
        *,
        files: Files,
        now_ms: int,
        role: LockRole,
        program: str = "crabnet",
        expected_node_id: str | None = None,
        former_ids: tuple[str, ...] = (),
        lock: DirLock | None = None,
    ) -> Self:
        """Lock a data dir, recover it, and be ready to append. A missing data dir is made.

        ``former_ids`` are the node ids that the data dir had before ``expected_node_id``. ``lock`` is a lock that the
        caller holds on ``<data_dir>/lock``. The ledger releases it on ``close`` and on failure. Raises
        ``DataDirBusyError``, ``DataDirDamagedError`` (nothing was changed) and ``StorageFailedError``.
        """
        layout = Layout(data_dir)
        held = lock or DirLock.acquire(files, layout.lock, role, program=program, now_ms=now_ms)
        try:
            found = survey(files, data_dir)
            refuse_if_told(found, expected_node_id, former_ids)
            with guarded("recover the data dir", data_dir):
                writer = repair(files, found, now_ms)
            return cls(files, found, writer, held)
        except BaseException:
            held.release()
            raise

    @staticmethod
    def inspect(data_dir: Path, *, files: Files) -> Survey:
        """Examine a data dir without a lock and without changing it. Raises ``StorageFailedError``."""
        return survey(files, data_dir)

    @property
    def data_dir(self) -> Path:
        return self._layout.data_dir

    @property
    def last_lsn(self) -> int:
        """The lsn of the last durable frame, 0 when there is none."""
        return self._last_lsn

    @property
    def head_hash(self) -> str:
        """The hash of the last durable frame."""
        return self._head_hash

    @property
    def checkpoint_lsn(self) -> int | None:
        """The lsn of the last frame that ``state.json`` covers, ``None`` without ``state.json``."""
        return self._state_lsn

    @property
    def replay_bytes(self) -> int:
        """How many bytes of the journal a restart would replay. The node decides by it when to make a checkpoint."""
        return self._replay_bytes

    @property
    def failure(self) -> StorageFailedError | None:
        """Why the ledger is poisoned, ``None`` while it is sound."""
        return self._failure

    def poison(self, failure: StorageFailedError) -> None:
        """Poison the ledger because of a failure outside it. Only the first failure is kept."""
        if self._failure is None:
            self._failure = failure
            if failure.reason is Reason.DISK_FULL:
                self.release_reserve()

    def append(self, payload: bytes) -> FramePosition:
        """Write one frame and make it durable. On return it is acknowledged.

        Raises ``StorageFailedError`` when writing fails. Every later call then raises it too. Raises ``RefusedError``
        for a payload out of bounds.
        """
        with self._append_lock:
            self._check()
            lsn = self._last_lsn + 1
            line = encode_frame(lsn, self._head_hash, payload)
            with self._fatal("append to the journal", self._writer.path):
                offset = self._writer.append(line)
            self.last_sync_s = self._writer.sync_s
            self._last_lsn = lsn
            self._head_hash = hash_line(line)
            self._replay_bytes += len(line)
            return FramePosition(lsn, self._writer.first_lsn, offset, len(payload))

    def read_frame(self, position: FramePosition) -> bytes:
        """Return the payload of a durable frame after checking its CRC. Safe in any thread.

        Raises ``DataDirDamagedError`` when its bytes are not sound, and ``StorageFailedError`` when reading fails.
        """
        return read_frame_at(self._files, self._layout.places(segment_name(position.segment_first_lsn)), position)

    def frames_after(self, lsn: int) -> Iterator[Frame]:
        """Yield all durable frames after ``lsn``. 0 yields every frame. Raises the same errors as ``read_frame``."""
        return iter_frames(self._files, self._layout, lsn, self._last_lsn)

    def mark(self) -> LedgerMark:
        """Return the end of the durable journal."""
        with self._append_lock:
            return LedgerMark(self._last_lsn, self._head_hash, self._replay_bytes)

    def begin_checkpoint(self, header: CheckpointHeader, mark: LedgerMark | None = None) -> CheckpointWriter:
        """Begin a checkpoint of the state after the frames up to ``mark``, by default the end of the journal.

        Frames may be appended while it is made. Raises ``RefusedError`` while another checkpoint is being made, and
        ``StorageFailedError`` as ``append`` does.
        """
        with self._append_lock:
            self._check()
            if self._checkpoint is not None:
                raise RefusedError("a checkpoint is being made already; wait for it")
            if mark is None:
                mark = LedgerMark(self._last_lsn, self._head_hash, self._replay_bytes)
            header = msgspec.structs.replace(header, lsn=mark.lsn, journal_head=mark.head_hash)
            with self._fatal("begin the checkpoint", self._layout.temporary):
                file = CheckpointFile(self._files, self._layout.temporary, header)
            self._checkpoint = CheckpointWriter(self, file, header, mark.replay_bytes)
            return self._checkpoint

    def disk_space(self) -> DiskSpace:
        """Return how much space is left. Raises ``StorageFailedError`` when that cannot be read."""
        with guarded("read the free space", self.data_dir):
            free_bytes = self._files.free_bytes(self.data_dir)
            reserved = self._files.size(self._layout.reserve) is not None
        return DiskSpace(free_bytes, free_bytes < DISK_FREE_LOW_BYTES or not reserved)

    def release_reserve(self) -> None:
        """Free the reserved space, so that a node with a full disk can write its last messages. Never raises."""
        with suppress(OSError):
            self._files.unlink(self._layout.reserve)

    def close(self) -> None:
        """Write the seal with the end of the journal, then release the data dir. Closing twice is harmless.

        Raises ``StorageFailedError`` when that fails. All acknowledged frames are durable even then.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self._checkpoint is not None:
                self._checkpoint.abort()
            if self._failure is None:
                with self._fatal("close the journal", self._writer.path):
                    if self._last_lsn != self._seal_lsn:
                        replace_file(self._files, self._layout.seal, encode_seal(self._last_lsn, self._head_hash))
                    self._writer.close()
            else:
                with suppress(OSError):
                    self._writer.close()
        finally:
            self._dir_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check(self) -> None:
        if self._failure is not None:
            raise StorageFailedError(self._failure.message, self._failure.reason)
        if self._closed:
            raise StorageFailedError(f"{self.data_dir} is closed", Reason.UNAVAILABLE)

    @contextmanager
    def _fatal(self, what: str, path: Path, *, interruptible: bool = False) -> Iterator[None]:
        """Poison the ledger when a file call of the block fails, or when the block is interrupted half-way.

        An ``interruptible`` block does not poison the ledger when it is interrupted.
        """
        try:
            yield
        except OSError as error:
            self._failure = storage_failed(error, what, path)
            if self._failure.reason is Reason.DISK_FULL:
                self.release_reserve()
            raise self._failure from error
        except CrabnetError:
            raise
        except BaseException:
            if not interruptible:
                self._failure = StorageFailedError(f"cannot {what}: interrupted; start again")
            raise

    def _install(self, lsn: int, replay_bytes: int) -> None:
        """Put a finished checkpoint in place. Move segments to history/ that neither it nor the one before needs."""
        files, layout = self._files, self._layout
        with self._append_lock:
            self._check()
            with self._fatal("start a journal segment", layout.journal):
                if self._writer.end > HEADER_BYTES:
                    old = self._writer
                    self._writer = SegmentWriter.create(files, layout.journal, self._last_lsn + 1, self._head_hash)
                    old.close()
        with self._fatal("put the checkpoint in place", layout.state):
            if self._state_lsn is not None:
                files.rename(layout.state, layout.bak)
                self._bak_lsn = self._state_lsn
            files.rename(layout.temporary, layout.state)
            files.fsync_dir(layout.data_dir)
            self._state_lsn = lsn
            if lsn > self.recovery.last_lsn and files.size(layout.repaired) is not None:
                files.unlink(layout.repaired)
            with self._append_lock:
                self._replay_bytes -= replay_bytes
            self._retire()

    def _retire(self) -> None:
        segments = list_segments(self._files, self._layout)
        for (_, path), (next_first, _) in pairwise(segments):
            if path.parent == self._layout.journal and next_first <= self._bak_lsn + 1:
                move_file(self._files, path, self._layout.history / path.name)


class CheckpointWriter:
    """A checkpoint being made. ``commit`` puts it in place. ``commit`` blocks for long, so use a worker thread."""

    def __init__(self, ledger: Ledger, file: CheckpointFile, header: CheckpointHeader, replay_bytes: int) -> None:
        self._ledger = ledger
        self._file = file
        self._replay_bytes = replay_bytes
        self._done = False
        self.header = header

    def write_rows(self, rows: Iterable[bytes]) -> None:
        """Add rows, each one a JSON array on one line. It may be called repeatedly with slices of the rows.

        Raises ``RefusedError`` for a bad row, and ``StorageFailedError`` when writing fails.
        """
        self._check()
        with self._ledger._fatal("write the checkpoint", self._ledger._layout.temporary, interruptible=True):
            self._file.write_rows(rows)

    def commit(self) -> CheckpointHeader:
        """Make the checkpoint durable, verify it by reading it back, and put it in place of ``state.json``.

        Raises ``StorageFailedError``. The previous checkpoint then still exists, as ``state.json`` or ``.bak``.
        """
        self._check()
        self._done = True
        try:
            with self._ledger._fatal("write the checkpoint", self._ledger._layout.temporary, interruptible=True):
                self._file.finish()
            self._ledger._install(self.header.lsn, self._replay_bytes)
        finally:
            self._end()
        return self.header

    def abort(self) -> None:
        """Abandon the checkpoint. Never raises, and does nothing after ``commit``. The next start removes leftovers."""
        if not self._done:
            self._done = True
            self._end()

    def _check(self) -> None:
        self._ledger._check()
        if self._done:
            raise RefusedError("this checkpoint is finished")

    def _end(self) -> None:
        with suppress(OSError):
            self._file.close()
        self._ledger._checkpoint = None
