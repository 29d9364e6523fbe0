"""Opens a data dir: lock, key, ledger, core, index. All of this happens before the first input."""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from crabnet.core.core import Core
from crabnet.core.replica.held import NothingHeld
from crabnet.core.replica.records import (
    EnvelopeRecord,
    decode_frame,
    envelope_of,
    other_version,
)
from crabnet.core.replica.snapshot import restore
from crabnet.errors import DataDirDamagedError, Reason, UsageError
from crabnet.node.clock import wall_ms
from crabnet.node.config import core_config
from crabnet.node.durable.baseline import demand_importable, holds_our_state, import_baseline
from crabnet.node.durable.indexing import History
from crabnet.node.durable.own_feed import OwnFeed, examine, traces_of
from crabnet.protocol.identity import Signer, VerifyAll, verify_each
from crabnet.protocol.keys import pem_of_seed, seed_of_pem
from crabnet.settings import Settings
from crabnet.storage.archive.archive import Archive, SegmentInfo
from crabnet.storage.feed_index import INDEX_NAME, FeedIndex
from crabnet.storage.files import Files, guarded, make_dir, read_whole
from crabnet.storage.keyfile import KEY_FILE, create_key_file, load_key_file
from crabnet.storage.layout import Layout
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole, acquire_with_wait, demand_owner
from crabnet.storage.opening.shape import demand_shape

LOCK_NAME = "lock"
FORMER_FILE = "identity.former"
"""The former ids of the data dir, one per line. `crabnet id renew` writes it."""
_FORMER_BYTES_MAX = 64 * 1024
_SEED_BYTES = 32


@dataclass(slots=True)
class Replayed:
    """What a start has replayed: the number of frames, and of envelopes by (outcome, Reason or "")."""

    frames: int = 0
    envelopes: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass
class Store:
    """An open data dir and the core that was restored from it."""

    ledger: Ledger
    core: Core
    index: FeedIndex
    history: History
    archive: Archive
    own_feed: OwnFeed
    key_created: bool
    replayed: Replayed
    duration_ms: int
    closing: ExitStack
    """What ``close`` does."""
    last_ms: int | None = None
    """The time of the last write, in milliseconds of the clock at that time; None for a new data dir."""
    left_out: tuple[str, ...] = ()
    """A sentence for each part of a baseline's state that was not imported."""

    def close(self) -> None:
        """Close index, archive and ledger. The ledger comes last, because it holds the lock. Frees the memory for the
        garbage collector.
        """
        self.closing.close()


def entropy() -> int:
    """A random integer from 0 to 2^53-1, from the system's random source."""
    return int.from_bytes(os.urandom(8), "big") >> 11


def open_store(
    settings: Settings, files: Files, *, role: LockRole, now_ms: int, verify_all: VerifyAll = verify_each
) -> Store:
    """Open the data dir of ``settings``. Its core checks signatures with ``verify_all``. Blocks: use a worker thread.

    Waits up to ``lock_wait_ms`` for commands that hold the data dir, but not for a node.
    Raises DataDirBusyError, DataDirDamagedError, StorageFailedError, UsageError for a data dir of another namespace or
    if root opens the data dir of another user, RefusedError for an unsigned baseline state.
    """
    started_ms = wall_ms()
    demand_owner(settings.data_dir)
    demand_shape(settings.data_dir, listens=role is not LockRole.COMMAND)
    demand_importable(files, settings)
    lock = acquire_with_wait(
        files,
        settings.data_dir / LOCK_NAME,
        role,
        program="crabnet",
        clock_ms=wall_ms,
        wait_ms=settings.lock_wait_ms,
        sleep_ms=lambda ms: time.sleep(ms / 1000),
    )
    try:
        traces = traces_of(settings.data_dir)
        signer, created = _signer(files, settings.data_dir)
    except BaseException:
        lock.release()
        raise
    ledger = Ledger.open(
        settings.data_dir,
        files=files,
        now_ms=now_ms,
        role=role,
        expected_node_id=signer.node_id,
        former_ids=read_former(files, settings.data_dir),
        lock=lock,
    )
    with ExitStack() as undo:
        undo.callback(gc.unfreeze)
        undo.callback(ledger.close)
        core = Core(core_config(settings, stays=role is not LockRole.COMMAND), signer, entropy, verify_all)
        replayed = restore_core(core, ledger)
        own_feed = examine(files, settings, ledger, core, traces, key_created=created)
        undo.callback(own_feed.high_water.close)
        archive = undo.enter_context(Archive.open(files, settings.data_dir, archive_segments(core)))
        core.replica.archived.read_row = archive.get
        last_ms = core.replica.written_until_s * 1000 or None
        left_out = import_baseline(core, ledger, files, now_ms)
        index = FeedIndex.open(files, settings.data_dir / INDEX_NAME, journal_last_lsn=ledger.last_lsn)
        undo.callback(index.close)
        history = History(ledger, index, files, Layout(settings.data_dir), settings.namespace)
        history.catch_up()
        core.replica.held = history
        return Store(
            ledger,
            core,
            index,
            history,
            archive,
            own_feed,
            created,
            replayed,
            wall_ms() - started_ms,
            undo.pop_all(),
            last_ms,
            left_out,
        )


def read_former(files: Files, data_dir: Path) -> tuple[str, ...]:
    """The former ids of the data dir. Raises StorageFailedError."""
    with guarded("read the former identities", data_dir):
        content = read_whole(files, data_dir / FORMER_FILE, _FORMER_BYTES_MAX)
    return tuple((content or b"").decode(errors="replace").split())


def _signer(files: Files, data_dir: Path) -> tuple[Signer, bool]:
    pem = load_key_file(files, data_dir)
    created = pem is None
    if pem is None:
        if holds_our_state(files, data_dir):
            raise key_lost(data_dir)
        with guarded("make the data dir", data_dir):
            make_dir(files, Layout(data_dir).journal)  # before the key, because a key alone is taken for a restored one
        pem = create_key_file(files, data_dir, lambda: pem_of_seed(os.urandom(_SEED_BYTES)))
    return signer_of(pem, data_dir), created


def signer_of(pem: bytes, data_dir: Path) -> Signer:
    """The identity in a key file's content. Raises DataDirDamagedError."""
    try:
        return Signer(seed_of_pem(pem))
    except ValueError as error:
        raise DataDirDamagedError(f"{data_dir / KEY_FILE} is damaged: {error}; restore it from a backup") from error


def key_lost(data_dir: Path) -> DataDirDamagedError:
    """The error for a data dir that holds a state but no key."""
    return DataDirDamagedError(
        f"{data_dir} holds a state but no {KEY_FILE}; restore the key from a backup, or start in a new data dir"
    )


def archive_segments(core: Core) -> list[SegmentInfo]:
    """The archive segments that the journal lists."""
    return [SegmentInfo(each.number, each.sha256, each.rows) for each in core.replica.archived.segments]


def restore_core(core: Core, ledger: Ledger) -> Replayed:
    """Load the checkpoint and replay the journal after it. Returns what was replayed.

    What was loaded is left out of garbage collections, until ``gc.unfreeze`` is called.

    Raises DataDirDamagedError, UsageError for a data dir of another namespace.
    """
    core.replica.held = NothingHeld()
    replayed = _replay(core, ledger)
    header = ledger.recovery.checkpoint
    written_ms = 0 if header is None else header.created_at_ms
    core.replica.written_until_s = core.replica.written_until_s or written_ms // 1000
    return replayed


def _replay(core: Core, ledger: Ledger) -> Replayed:
    recovery = ledger.recovery
    replayed = Replayed()
    known = recovery.checkpoint is not None
    gc.disable()
    try:
        if recovery.checkpoint is not None:
            _demand_namespace(core, recovery.checkpoint.extra.get("namespace"))
            restore(core.replica, recovery.rows())
        for frame in recovery.frames():
            for record in decode_frame(frame.payload):
                if not known and isinstance(record, EnvelopeRecord):
                    meta = envelope_of(record).meta
                    known = meta.v is not None
                    _demand_namespace(core, meta.ns if known else None)
                core.replica.replay(record)
                if isinstance(record, EnvelopeRecord):
                    reason = "" if record.reason is None else record.reason.value
                    replayed.envelopes[record.outcome.value, reason] += 1
            replayed.frames += 1
    except msgspec.MsgspecError as error:
        raise other_version("the journal holds", error) from error
    finally:
        gc.enable()
    gc.freeze()
    return replayed


def _demand_namespace(core: Core, held: object) -> None:
    """Refuse a data dir of another namespace, before its content is mixed with that of this namespace.

    Raises UsageError (WRONG_NAMESPACE).
    """
    ours = core.replica.namespace
    if isinstance(held, str) and held != ours:
        raise UsageError(
            f"the data dir belongs to namespace {held!r}, the settings say {ours!r}; use one data dir per namespace",
            Reason.WRONG_NAMESPACE,
        )
