"""``crabnet fsck --repair``: does what ``examine`` has planned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from crabnet.core.replica.records import FactRow, fact_of_row
from crabnet.errors import DataDirDamagedError, Reason
from crabnet.limits import STORAGE_CHUNK_BYTES
from crabnet.node.durable.own_feed import RiskMark
from crabnet.operator.fsck import WAITING, Examination, entries_behind
from crabnet.operator.transfer import Entry, ImportTotals, import_entries
from crabnet.settings import Settings
from crabnet.storage.feed_index import INDEX_NAME
from crabnet.storage.files import Files, OpenMode, guarded, move_file, opened, read_chunks, replace_file, write_all
from crabnet.storage.layout import Layout
from crabnet.storage.lock import DirLock
from crabnet.storage.opening.opening import free_name, set_aside
from crabnet.storage.opening.salvage import salvage

_DONE: Final = ".applied"

_COME_AGAIN: Final = (Reason.GAP, Reason.UNKNOWN_PARENT, Reason.PARKING_FULL, Reason.UNAVAILABLE)
"""Reasons of ignored envelopes that may count later."""


def prepare(files: Files, settings: Settings, examination: Examination, lock: DirLock, now_ms: int) -> None:
    """Repair the data dir so that it can be opened. The lock is held. An interrupted repair can be repeated.

    First what can be saved is written to damaged/. Then the node's feed is marked as being at risk. Then files are
    moved.
    Raises StorageFailedError, DataDirDamagedError.
    """
    if examination.report.opens:
        return
    layout = Layout(settings.data_dir)
    with guarded("save the envelopes", layout.damaged):
        _stage(files, layout, entries_behind(files, settings, examination), now_ms)
    RiskMark(files, settings.data_dir).keep(at_risk=True)
    if examination.starts_over:
        with guarded("put the damaged files aside", settings.data_dir):
            _clear(files, layout, now_ms)
    else:
        salvage(settings.data_dir, files=files, now_ms=now_ms, lock=lock)
    with guarded("remove the index", settings.data_dir):
        for name in files.listdir(settings.data_dir):
            if name.startswith((INDEX_NAME, "archive.sqlite")):
                files.unlink(settings.data_dir / name)


def _stage(files: Files, layout: Layout, entries: Iterator[bytes], now_ms: int) -> None:
    """Write the entries to a separate file. It counts when it has its final name."""
    target = free_name(files, layout, f"entries-{now_ms}.ndjson")
    temporary = target.with_name(target.name + ".tmp")
    empty = True
    with opened(files, temporary, OpenMode.REPLACE) as fd:
        offset, buffer = 0, bytearray()
        for entry in entries:
            empty = False
            buffer += entry + b"\n"
            if len(buffer) >= STORAGE_CHUNK_BYTES:
                offset = write_all(files, fd, bytes(buffer), offset)
                buffer.clear()
        if buffer:
            write_all(files, fd, bytes(buffer), offset)
        files.fsync(fd)
    if empty:
        files.unlink(temporary)
        return
    files.rename(temporary, target)
    files.fsync_dir(layout.damaged)


def _clear(files: Files, layout: Layout, now_ms: int) -> None:
    """Move the whole ledger aside. history/ is moved last, because until then every start is refused."""
    replace_file(files, layout.repaired, b"%d\n" % now_ms)
    for path in (layout.seal, layout.bak, layout.state, layout.data_dir / "archive", layout.journal, layout.history):
        if files.size(path) is not None:
            set_aside(files, layout, path, now_ms)


def apply_pending(files: Files, settings: Settings, pending: list[Path]) -> ImportTotals:
    """Open the data dir as a node does and import what repairs have saved. The lock must be free.

    Envelopes that follow missing ones stay aside. They can be tried again when peers have sent the missing ones.

    Raises the errors of opening.
    """
    totals = ImportTotals()
    if not pending:
        return import_entries(settings, [])
    for path in pending:
        part = import_entries(settings, _staged(files, path))
        totals.entries += part.entries
        totals.accepted += part.accepted
        totals.ignored += part.ignored
        totals.rejected += part.rejected
        incomplete = any(part.ignored[reason.value] for reason in _COME_AGAIN)
        name = path.name.removesuffix(WAITING) + (WAITING if incomplete else _DONE)
        with guarded("mark the entries as applied", path):
            move_file(files, path, path.with_name(name))
    return totals


def _staged(files: Files, path: Path) -> Iterator[Entry]:
    """The entries of a file that a repair has written."""
    rest = b""
    with guarded("read the saved entries", path), opened(files, path, OpenMode.READ) as fd:
        for chunk in read_chunks(files, fd):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from map(_entry, lines)
    if rest:
        raise DataDirDamagedError(f"{path} is damaged: it does not end with a line feed")


def _entry(line: bytes) -> Entry:
    if line.startswith(b"{"):
        return line
    return fact_of_row(msgspec.json.decode(line, type=FactRow))
