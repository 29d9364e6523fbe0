"""Saving what can be saved of a data dir that refuses to start. Only an operator starts this.

Salvage keeps the newest sound checkpoint and the unbroken chain of frames after it. It moves everything else to
damaged/ and deletes nothing. Acknowledged frames may be lost: the next start reports that with an alert.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crabnet.errors import DataDirDamagedError, Reason
from crabnet.storage.files import Files, OpenMode, guarded, make_dir, opened, read_chunks, replace_file, write_all
from crabnet.storage.journal.reading import HeaderKind, SegmentScan, TailKind, scan_segment
from crabnet.storage.journal.segment import HEADER_BYTES, Frame, SegmentWriter
from crabnet.storage.layout import Layout, list_segments
from crabnet.storage.lock import DirLock, LockRole
from crabnet.storage.opening.opening import free_name, set_aside
from crabnet.storage.opening.recovery import Action
from crabnet.storage.opening.survey import Survey, survey


@dataclass(frozen=True, slots=True)
class Salvage:
    """The plan or the result of saving a data dir. ``is_needed`` is false when the data dir opens as it is."""

    is_needed: bool
    damages: tuple[str, ...]
    """The damages, each with file and offset."""
    kept_lsn: int = 0
    """The last frame that is kept."""
    lost_lsn: int | None = None
    """The last frame that is known to have existed, if it is later than ``kept_lsn``."""
    cut: tuple[Path, int] | None = None
    """A segment that is truncated, and the number of its bytes that are kept."""
    aside: tuple[Path, ...] = ()
    """Files that are moved to damaged/ as a whole."""


@dataclass(frozen=True, slots=True)
class _Chain:
    kept_lsn: int
    head_hash: str
    last: SegmentScan | None
    aside: tuple[Path, ...]


def plan_salvage(files: Files, data_dir: Path) -> Salvage:
    """Return what ``salvage`` would do. It changes nothing and needs no lock.

    Raises ``DataDirDamagedError`` when the data dir is of a newer version, or when nothing is left to start from.
    Raises ``StorageFailedError`` when reading fails.
    """
    found = survey(files, data_dir)
    if not found.rule.action.refuses:
        return Salvage(is_needed=False, damages=tuple(str(each) for each in found.damages()))
    with guarded("read the journal", found.layout.journal):
        return _plan(found, _follow(files, found))


def salvage(
    data_dir: Path,
    *,
    files: Files,
    now_ms: int,
    role: LockRole = LockRole.COMMAND,
    program: str = "crabnet",
    lock: DirLock | None = None,
) -> Salvage:
    """Save what can be saved, so that the data dir opens again. Return what was done.

    ``lock`` is a lock that the caller holds and keeps. Raises the same errors as ``plan_salvage``, and
    ``DataDirBusyError``. If it is interrupted, run it again.
    """
    layout = Layout(data_dir)
    taken = None if lock is not None else DirLock.acquire(files, layout.lock, role, program=program, now_ms=now_ms)
    try:
        plan = plan_salvage(files, data_dir)
        if plan.is_needed:
            found = survey(files, data_dir)
            with guarded("save the data dir", data_dir):
                _apply(files, found, _follow(files, found), plan, now_ms)
        return plan
    finally:
        if taken is not None:
            taken.release()


def _plan(found: Survey, chain: _Chain) -> Salvage:
    if found.rule.action is Action.REFUSE_NEWER:
        raise DataDirDamagedError(
            f"{found.layout.data_dir} was written by a newer Crabnet: upgrade Crabnet, there is nothing to repair",
            Reason.DATA_DIR_NEWER,
        )
    if found.base.finding is None and chain.kept_lsn == 0:
        raise DataDirDamagedError(
            f"{found.layout.data_dir}: neither a checkpoint nor the beginning of the journal is sound; "
            f"restore a backup, or start in a new data dir"
        )
    last = chain.last
    cut = (last.path, last.end) if last is not None and last.end < last.size else None
    seen = [chain.kept_lsn, found.seal_lsn or 0, *(each.lsn for each in (found.state, found.bak))]
    seen += [first - 1 for first, _ in found.segments]
    lost = max(seen)
    return Salvage(
        is_needed=True,
        damages=tuple(str(each) for each in found.damages()) or (f"{found.layout.journal}: the journal is missing",),
        kept_lsn=chain.kept_lsn,
        lost_lsn=lost if lost > chain.kept_lsn else None,
        cut=cut,
        aside=chain.aside,
    )


def _follow(files: Files, found: Survey) -> _Chain:
    """Follow the chain from the base as far as it is sound."""
    base = found.base
    starts = [index for index, (first, _) in enumerate(found.segments) if first <= base.lsn + 1]
    segments = found.segments[starts[-1] :] if starts else found.segments
    kept_lsn, head_hash, last = base.lsn, base.head_hash, None
    reached: tuple[int, str] | None = None
    for index, (first, path) in enumerate(segments):
        strangers: list[Frame] = []

        def visit(frame: Frame, strangers: list[Frame] = strangers) -> None:
            known = {base.lsn: base.head_hash}
            if known.get(frame.lsn, frame.hash) != frame.hash or (
                known.get(frame.lsn - 1, frame.previous_hash) != frame.previous_hash
            ):
                strangers.append(frame)

        scan = scan_segment(files, path, first, resume_max_lsn=max(base.lsn + 1, first), visit=visit)
        fits = first <= base.lsn + 1 if reached is None else (first, scan.previous_hash) == (reached[0] + 1, reached[1])
        sound = scan.header is HeaderKind.OK or scan.skipped is not None
        if not fits or not sound or strangers or scan.last_lsn < max(first, base.lsn + 1):
            aside = segments[index:]
            break
        last, reached = scan, (scan.last_lsn, scan.head_hash)
        kept_lsn, head_hash = reached
        if scan.tail is not TailKind.CLEAN:
            aside = segments[index + 1 :]
            break
    else:
        aside = []
    movable = tuple(path for first, path in aside if path.parent == found.layout.journal or first > base.lsn)
    return _Chain(kept_lsn, head_hash, last, movable)


def _apply(files: Files, found: Survey, chain: _Chain, plan: Salvage, now_ms: int) -> None:
    """Carry out the plan. After every step but the last, the data dir is refused or opens with the alert."""
    layout = found.layout
    make_dir(files, layout.journal)
    make_dir(files, layout.history)
    replace_file(files, layout.repaired, b"%d\n" % now_ms)
    for path in reversed(plan.aside):
        set_aside(files, layout, path, now_ms)
    last = chain.last
    if last is not None and plan.cut is not None:
        with opened(files, last.path, OpenMode.READ) as source:
            original = b"".join(read_chunks(files, source))
        target = free_name(files, layout, f"{last.path.name}.damaged-{now_ms}")
        with opened(files, target, OpenMode.CREATE) as fd:
            write_all(files, fd, original, 0)
            files.fsync(fd)
        files.fsync_dir(layout.damaged)
        SegmentWriter.reopen(files, last.path, last.first_lsn, max(last.end, HEADER_BYTES), renew=True).close()
    if files.size(layout.seal) is not None:
        set_aside(files, layout, layout.seal, now_ms)
    in_place = {path for _, path in list_segments(files, layout) if path.parent == layout.journal}
    if last is None or last.path not in in_place:
        SegmentWriter.create(files, layout.journal, chain.kept_lsn + 1, chain.head_hash).close()
