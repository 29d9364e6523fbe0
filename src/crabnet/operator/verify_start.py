"""What a start demands of a data dir and of this process, tried without changing anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from crabnet import limits
from crabnet.errors import DataDirBusyError, Reason, RefusedError, StorageFailedError
from crabnet.monitor.lines import LOCK_NAME as EVENTS_LOCK
from crabnet.node.descriptors import demand_descriptors, take_descriptors
from crabnet.node.durable.baseline import demand_importable, holds_our_state
from crabnet.node.durable.own_feed import state_dir_of
from crabnet.node.durable.reading import read_store
from crabnet.node.durable.store import LOCK_NAME, archive_segments
from crabnet.operator.check import Check, Situation, Verdict
from crabnet.storage.archive.archive import check_archive
from crabnet.storage.files import Files, OpenMode, guarded, opened
from crabnet.storage.keyfile import load_key_file
from crabnet.storage.layout import Layout
from crabnet.storage.lock import LockRole, demand_owner, read_holder
from crabnet.storage.opening.shape import demand_shape


def process(_: Situation) -> Iterator[Check]:
    """The limits of a process."""
    take_descriptors()
    demand_descriptors()
    yield Check("process", Verdict.OK, f"at least {limits.DESCRIPTORS_MIN} files may be open at once")


def ledger(at: Situation) -> Iterator[Check]:
    """Owner, lock, key and content of the data dir."""
    name, data_dir = "ledger", at.settings.data_dir
    if at.running:
        yield Check(name, Verdict.OK, "it is not read, because a node runs on this data dir")
        return
    yield from _room(at.files, data_dir)
    if not data_dir.is_dir():
        return
    demand_owner(data_dir)
    demand_shape(data_dir, listens=True)
    demand_importable(at.files, at.settings)
    yield from _locks(at)
    if load_key_file(at.files, data_dir) is None and not holds_our_state(at.files, data_dir):
        yield Check(name, Verdict.OK, "the data dir is new: the first start makes a key and a journal")
        return
    reading = read_store(at.settings, at.files)
    check_archive(at.files, data_dir, archive_segments(reading.core))
    yield Check(name, Verdict.OK, f"it can be read up to frame {reading.last_lsn}, and its key fits")
    if reading.core.feed_risk and not at.settings.accept_feed_risk:
        why = reading.core.neighbours.guard.doubt
        error = RefusedError(f"{why}: the node writes nothing until a peer has confirmed its feed", Reason.FEED_RISK)
        yield Check("feed", Verdict.WARNING, error.message, error, "make sure that a peer of this node can be reached")


def _locks(at: Situation) -> Iterator[Check]:
    """Whether another process holds the data dir or the event log."""
    held = [at.settings.data_dir / LOCK_NAME, at.settings.monitor_events.parent / EVENTS_LOCK]
    for path in held:
        holder = _held_by(at.files, path)
        if holder is None:
            continue
        error = DataDirBusyError(f"{path.parent} is in use by {holder}; stop it, or use another data dir")
        command = (found := read_holder(at.files, path)) is not None and found.role is LockRole.COMMAND
        verdict = Verdict.WARNING if command and path.name == LOCK_NAME else Verdict.FAILED
        yield Check("lock", verdict, error.message, error)


def _held_by(files: Files, path: Path) -> str | None:
    """Who holds a lock; None if nobody does. The lock is taken and released for a moment."""
    if files.size(path) is None:
        return None
    with guarded("look at the lock", path), opened(files, path, OpenMode.READ) as fd:
        if files.try_lock(fd):
            return None
    return str(read_holder(files, path) or "another process")


def _room(files: Files, data_dir: Path) -> Iterator[Check]:
    """Whether the reserve fits on the disk. A start allocates it."""
    there = next(path for path in (data_dir, *data_dir.parents) if path.is_dir())
    with guarded("read the free space", there):
        lacks = limits.RESERVE_BYTES - (files.size(Layout(data_dir).reserve) or 0)
        free = files.free_bytes(there)
    if free < lacks:
        error = StorageFailedError(
            f"{free} bytes are free on the disk of {data_dir}, but a start reserves {lacks}", Reason.DISK_FULL
        )
        yield Check("disk", Verdict.FAILED, error.message, error)


def state_dir(at: Situation) -> Iterator[Check]:
    """The directory outside of the data dir, in which a node notes how far its feed goes. It can do without."""
    name, path = "state_dir", state_dir_of(at.settings)
    if path is None:
        detail = "no home directory is known, so nothing outside of the data dir says how far this node's feed goes"
        yield Check(name, Verdict.WARNING, detail, None, "set state_dir")
        return
    there = next(each for each in (path, *path.parents) if each.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        yield Check(name, Verdict.OK, f"{path} can be used")
    else:
        detail = f"{path} cannot be used, so a data dir that was restored from an older copy may not be noticed"
        yield Check(name, Verdict.WARNING, detail, None, "set state_dir to a directory that this user may write")
