"""The repairs on opening a data dir, made after the survey and under the lock. They delete nothing that is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from crabnet.errors import DataDirDamagedError, Reason
from crabnet.limits import RESERVE_BYTES
from crabnet.storage.checkpoint.format import CheckpointFinding, CheckpointHeader, Condition
from crabnet.storage.checkpoint.reading import read_baseline, read_rows
from crabnet.storage.files import (
    Files,
    OpenMode,
    guarded,
    make_dir,
    move_file,
    opened,
    read_chunks,
    replace_file,
    write_all,
)
from crabnet.storage.journal.reading import SegmentScan, TailKind, frames_of
from crabnet.storage.journal.segment import Frame, SegmentWriter
from crabnet.storage.layout import Layout, list_segments
from crabnet.storage.opening.recovery import Action, Notice
from crabnet.storage.opening.survey import Survey


@dataclass(frozen=True, slots=True)
class Recovery:
    """The result of opening a ledger. Rows and frames are read lazily, so read them before the next checkpoint."""

    files: Files
    layout: Layout
    action: Action
    conditions: tuple[Condition, Condition, Condition]
    """The conditions of state.json, state.json.bak and the journal."""
    notices: tuple[Notice, ...]
    base: CheckpointFinding | None
    base_lsn: int
    last_lsn: int

    @property
    def is_clean(self) -> bool:
        """True if the opening found nothing that deserves an alert."""
        return not any(notice.is_alert for notice in self.notices)

    @property
    def may_lack_frames(self) -> bool:
        """True if frames may be missing that were acknowledged, and perhaps sent."""
        return any(notice.code.may_lack_frames for notice in self.notices)

    @property
    def checkpoint(self) -> CheckpointHeader | None:
        """The header of the checkpoint. ``None`` when replay starts from the beginning or a baseline state."""
        return None if self.base is None else self.base.header

    def rows(self) -> Iterator[bytes]:
        """Yield the rows of the checkpoint, none without a checkpoint. Raises the same errors as ``read_rows``."""
        if self.base is not None and self.base.header is not None:
            yield from read_rows(self.files, self.base)

    def baseline(self) -> bytes | None:
        """Return the bytes of the baseline's ``state.json`` that precedes frame 1, if there is one."""
        if self.base is None or self.base.header is not None:
            return None
        return read_baseline(self.files, self.base)

    def frames(self) -> Iterator[Frame]:
        """Yield the frames after the checkpoint, in order. Raises the same errors as ``iter_frames``."""
        return iter_frames(self.files, self.layout, self.base_lsn, self.last_lsn)


def iter_frames(files: Files, layout: Layout, after_lsn: int, until_lsn: int) -> Iterator[Frame]:
    """Yield the frames with ``after_lsn < lsn <= until_lsn``, from history/ and journal/.

    Raises ``DataDirDamagedError`` at the first frame that is missing or not sound, and ``StorageFailedError`` when
    reading fails.
    """
    with guarded("read the journal", layout.journal):
        segments = list_segments(files, layout)
    expected = after_lsn + 1
    for index, (first, path) in enumerate(segments):
        last = segments[index + 1][0] - 1 if index + 1 < len(segments) else until_lsn
        if last < expected:
            continue
        if first > expected or expected > until_lsn:
            break
        for frame in frames_of(files, layout.places(path.name), first, expected - 1, min(last, until_lsn)):
            yield frame
            expected = frame.lsn + 1
    if expected <= until_lsn:
        raise DataDirDamagedError(f"{layout.journal}: frames {expected} to {until_lsn} are missing")


def refuse_if_told(survey: Survey, expected_node_id: str | None, former_ids: tuple[str, ...] = ()) -> None:
    """Raise ``DataDirDamagedError`` when the recovery table refuses, or when the checkpoint is of another node."""
    rule = survey.rule
    hint = "nothing was changed; run `crabnet fsck` to see what can be saved"
    if rule.action is Action.REFUSE_NEWER:
        for finding in (survey.state, survey.bak):
            if finding.condition is Condition.NEWER:
                raise _newer(f"{finding.path}: {finding.detail}")
        raise _newer(str(survey.journal.damage))
    if rule.action is Action.REFUSE_DAMAGED:
        if survey.journal.damage is not None:
            raise DataDirDamagedError(f"{survey.journal.damage}; {hint}")
        raise DataDirDamagedError(f"{survey.layout.journal}: the journal is missing; {hint}")
    if survey.gutted:
        raise DataDirDamagedError(
            f"{survey.layout.data_dir}: there is an archive, but journal and checkpoints are missing: restore them from"
            " a backup, or move archive/ away to start with an empty data dir"
        )
    finding_used = survey.base.finding
    header = None if finding_used is None else finding_used.header
    if expected_node_id is None or header is None:
        return
    if header.node_id not in {expected_node_id, *former_ids}:
        raise DataDirDamagedError(
            f"{survey.layout.data_dir} belongs to node {header.node_id}, but the key here is that of "
            f"{expected_node_id}; put the right identity.key back"
        )


def _newer(what: str) -> DataDirDamagedError:
    return DataDirDamagedError(
        f"{what}, written by a newer Crabnet; nothing was changed; upgrade Crabnet", Reason.DATA_DIR_NEWER
    )


def repair(files: Files, survey: Survey, now_ms: int) -> SegmentWriter:
    """Repair the data dir by the rule of the survey, and return the segment to append to.

    If the process dies after any step, the data dir still recovers to the same content. Raises ``OSError``.
    """
    layout, journal = survey.layout, survey.journal
    for directory in (layout.journal, layout.history):
        make_dir(files, directory)
    _remove_leftovers(files, layout)
    for finding in (survey.state, survey.bak):
        if finding.condition is Condition.DAMAGED:
            set_aside(files, layout, finding.path, now_ms)
    if survey.base.finding is not None and survey.base.finding.header is None:
        _keep_baseline(files, layout, survey.base.finding)
    if journal.torn_segment is not None:
        set_aside(files, layout, journal.torn_segment[1], now_ms)
    if journal.last is not None and journal.last.tail is TailKind.TORN:
        _copy_tail(files, layout, journal.last, now_ms)
    if journal.last is not None and journal.torn_segment is None:
        last = journal.last
        sealed = journal.last_lsn == survey.seal_lsn and last.size == last.end and last.last_lsn >= last.first_lsn
        writer = SegmentWriter.reopen(files, last.path, last.first_lsn, last.end, renew=not sealed)
    else:
        writer = SegmentWriter.create(files, layout.journal, journal.last_lsn + 1, journal.head_hash)
    try:
        for directory in (layout.history, layout.journal, layout.data_dir):
            files.fsync_dir(directory)
        if survey.rule.action is Action.START_FRESH:
            with suppress(PermissionError):
                files.fsync_dir(layout.data_dir.parent)
        hold_reserve(files, layout)
    except BaseException:
        writer.close()
        raise
    return writer


def _remove_leftovers(files: Files, layout: Layout) -> None:
    for directory in (layout.data_dir, layout.journal, layout.history):
        for name in files.listdir(directory):
            if layout.is_leftover(name):
                files.unlink(directory / name)


def _keep_baseline(files: Files, layout: Layout, finding: CheckpointFinding) -> None:
    """Keep the imported file, because a replay of the journal from its beginning needs it."""
    if files.size(layout.baseline) is None:
        replace_file(files, layout.baseline, read_baseline(files, finding))


def free_name(files: Files, layout: Layout, name: str) -> Path:
    """Return an unused path in damaged/, and make that directory. Raises ``OSError``."""
    make_dir(files, layout.damaged)
    target, attempt = layout.damaged / name, 0
    while files.size(target) is not None:
        attempt += 1
        target = layout.damaged / f"{name}.{attempt}"
    return target


def set_aside(files: Files, layout: Layout, path: Path, now_ms: int) -> Path:
    """Move a damaged file to damaged/ and return its new path. Raises ``OSError``."""
    target = free_name(files, layout, f"{path.name}.damaged-{now_ms}")
    move_file(files, path, target)
    return target


def _copy_tail(files: Files, layout: Layout, scan: SegmentScan, now_ms: int) -> None:
    with opened(files, scan.path, OpenMode.READ) as fd:
        tail = b"".join(read_chunks(files, fd, scan.end))
    target = free_name(files, layout, f"{scan.path.name}.{scan.end}.torn-{now_ms}")
    with opened(files, target, OpenMode.CREATE) as fd:
        write_all(files, fd, tail, 0)
        files.fsync(fd)
    files.fsync_dir(layout.damaged)


def hold_reserve(files: Files, layout: Layout) -> None:
    """Reserve ``RESERVE_BYTES`` of disk space. Raises ``OSError`` when the disk is full."""
    if (files.size(layout.reserve) or 0) < RESERVE_BYTES:
        with opened(files, layout.reserve, OpenMode.LOCK) as fd:
            files.allocate(fd, RESERVE_BYTES)
