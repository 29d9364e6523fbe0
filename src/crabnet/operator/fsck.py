"""``crabnet fsck``: finds out why a node does not start on a data dir, and saves what can be saved.

A repair keeps the best checkpoint and the unbroken chain of frames after it (``storage.salvage``). It imports the
envelopes in frames after the damage, and complete ones inside damaged frames. Signature and feed chain decide about
them. If neither a checkpoint nor the beginning of the journal is left, or if the archive is damaged, it imports all
readable envelopes into an empty ledger. A repair invents nothing. It moves damaged files to ``damaged/`` and deletes
none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from crabnet.control.route import demand_data_dir
from crabnet.core.replica.records import EnvelopeRecord, FactRecord, ForkRecord, decode_frame
from crabnet.core.replica.replica import Replica
from crabnet.core.replica.snapshot import Snapshot, restore
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, RefusedError
from crabnet.limits import AUDIT_FINDINGS_MAX
from crabnet.node.durable.baseline import demand_importable
from crabnet.node.durable.store import read_former
from crabnet.operator.archived import archive_damages
from crabnet.operator.audit import new_replica
from crabnet.operator.envelopes import any_age_admission, broken_envelopes, sound_envelopes
from crabnet.operator.frames import Frame, Hole, read_hole, walk_journal
from crabnet.operator.namespace import demand_namespace
from crabnet.protocol.identity import Signer
from crabnet.protocol.keys import seed_of_pem
from crabnet.settings import Settings
from crabnet.storage.checkpoint.reading import read_rows
from crabnet.storage.checkpoint.writing import check_row
from crabnet.storage.feed_index import INDEX_NAME, UNSEALED, is_unsealed
from crabnet.storage.files import Files, guarded
from crabnet.storage.keyfile import KEY_FILE, load_key_file
from crabnet.storage.layout import Layout, list_segments
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import DirLock, LockRole, demand_owner
from crabnet.storage.opening.opening import iter_frames, refuse_if_told
from crabnet.storage.opening.salvage import Salvage, plan_salvage
from crabnet.storage.opening.shape import demand_shape
from crabnet.storage.opening.survey import Survey, verify

WAITING: Final = ".waiting"
_PENDING: Final = re.compile(r"entries-\d+\.ndjson(?:\.\d+)?(?:\.waiting)?")
"""Files in damaged/ with entries from damaged files that are not yet imported or wait for earlier ones."""
_KEEPS: Final = "keep the sound part and import the envelopes after it again"
_STARTS_OVER: Final = "start with an empty ledger and import all readable envelopes again"


@dataclass
class FsckReport:
    """The findings. ``opens``: a node starts on the data dir. ``obstacle``: what fsck cannot repair."""

    conditions: dict[str, str]
    recovery: str
    opens: bool = True
    damages: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    obstacle: str = ""
    obstacle_reason: Reason = Reason.DATA_DIR_DAMAGED
    repair: str = ""
    """The action of --repair, or "" if there is nothing to do."""
    kept_lsn: int = 0
    lost: list[tuple[int, int]] = field(default_factory=list)
    """Frames that cannot be read: first and last lsn."""
    seeds_kept: int = 0
    envelopes_behind: int = 0
    """Readable envelopes that are not in the kept part."""
    envelopes_broken: list[str] = field(default_factory=list)
    """A limited number of ids that are still recognisable in damaged bytes."""

    @property
    def healthy(self) -> bool:
        """Whether a start of the node repairs everything automatically, if anything."""
        return self.opens and not self.damages and not self.repair


@dataclass
class Examination:
    """The report, and the other data that a repair needs."""

    report: FsckReport
    survey: Survey
    salvage: Salvage | None = None
    starts_over: bool = False
    pending: list[Path] = field(default_factory=list)


@contextmanager
def fsck_lock(files: Files, data_dir: Path, now_ms: int) -> Iterator[DirLock]:
    """The lock of the data dir. Raises UsageError without a data dir, DataDirBusyError, StorageFailedError."""
    layout = Layout(data_dir)
    demand_data_dir(data_dir)
    demand_owner(data_dir)
    demand_shape(data_dir, listens=True)
    lock = DirLock.acquire(files, layout.lock, LockRole.COMMAND, program="crabnet fsck", now_ms=now_ms)
    try:
        yield lock
    finally:
        lock.release()


def examine(files: Files, settings: Settings) -> Examination:
    """Examine a data dir whose lock is held. Changes nothing.

    Raises StorageFailedError, DataDirDamagedError if something else is in the place of a file, and UsageError for a
    data dir of another namespace than that of the settings.
    """
    demand_namespace(files, Layout(settings.data_dir), settings.namespace)
    found = Ledger.inspect(settings.data_dir, files=files)
    report = FsckReport(
        conditions={
            "state.json": found.state.condition.value,
            "state.json.bak": found.bak.condition.value,
            "journal": found.journal.condition.value,
        },
        recovery=found.rule.action.value,
        notices=[notice.message for notice in found.notices if notice.is_alert],
    )
    index = settings.data_dir / INDEX_NAME
    if is_unsealed(files, index):
        report.notices.append(f"{index}: {UNSEALED}")
    examination = Examination(report, found, pending=_pending(files, found.layout))
    if _key_obstacle(files, settings, report) or _import_obstacle(files, settings, report):
        return examination
    if found.rule.action.refuses:
        _refused(files, settings, examination)
    else:
        _opens(files, settings, examination)
    waiting = [path for path in examination.pending if path.name.endswith(WAITING)]
    report.notices += [f"{path} has envelopes that wait for earlier ones, which peers may have" for path in waiting]
    if report.opens and not report.repair and len(waiting) < len(examination.pending):
        report.repair = "import the entries that an earlier repair took from damaged files"
    return examination


def _import_obstacle(files: Files, settings: Settings, report: FsckReport) -> bool:
    try:
        demand_importable(files, settings)
    except RefusedError as error:
        report.opens, report.obstacle, report.obstacle_reason = False, error.message, error.reason
        return True
    return False


def _pending(files: Files, layout: Layout) -> list[Path]:
    with guarded("read the data dir", layout.damaged):
        return [layout.damaged / name for name in files.listdir(layout.damaged) if _PENDING.fullmatch(name)]


def _key_obstacle(files: Files, settings: Settings, report: FsckReport) -> bool:
    """Whether the node cannot start because of its key, which only the operator can restore."""
    try:
        pem = load_key_file(files, settings.data_dir)
        with guarded("read the data dir", settings.data_dir):
            used = bool(files.listdir(settings.data_dir / "journal"))
        if pem is None and used:
            raise DataDirDamagedError(f"{settings.data_dir} has no {KEY_FILE}; restore it from a backup")
        if pem is not None:
            seed_of_pem(pem)
    except CrabnetError as error:
        report.opens, report.obstacle, report.obstacle_reason = False, error.message, error.reason
    except ValueError as error:
        report.opens = False
        report.obstacle = f"{settings.data_dir / KEY_FILE} is damaged: {error}; restore it from a backup"
    return bool(report.obstacle)


def _refused(files: Files, settings: Settings, examination: Examination) -> None:
    """If the decision table refuses: find what would be kept, and what is readable after it."""
    report, found = examination.report, examination.survey
    report.opens = False
    report.damages += [str(each) for each in found.damages()]
    try:
        examination.salvage = plan_salvage(files, settings.data_dir)
        report.damages = list(examination.salvage.damages)
        report.kept_lsn = examination.salvage.kept_lsn
        report.repair = _KEEPS
    except DataDirDamagedError as error:
        if error.reason is Reason.DATA_DIR_NEWER:
            report.obstacle, report.obstacle_reason = error.message, error.reason
            return
        examination.starts_over = True
        report.repair = _STARTS_OVER
    if examination.salvage is not None and not _loads(files, settings, examination):
        return
    _count_behind(files, settings, examination)


def _opens(files: Files, settings: Settings, examination: Examination) -> None:
    """If the decision table opens the data dir: check whether the content can be read."""
    report, found = examination.report, examination.survey
    report.kept_lsn = found.journal.last_lsn
    try:
        refuse_if_told(found, _node_id(files, settings), read_former(files, settings.data_dir))
    except DataDirDamagedError as error:
        report.opens, report.obstacle, report.obstacle_reason = False, error.message, error.reason
        return
    if not _loads(files, settings, examination):
        return
    if examination.starts_over:
        _count_behind(files, settings, examination)
        return
    healed = {notice.path for notice in found.notices}
    report.damages += [str(each) for each in verify(files, settings.data_dir) if each.path not in healed]


def _node_id(files: Files, settings: Settings) -> str | None:
    pem = load_key_file(files, settings.data_dir)
    return None if pem is None else Signer(seed_of_pem(pem)).node_id


def _loads(files: Files, settings: Settings, examination: Examination) -> bool:
    """Load the kept part. False if that fails for a reason that fsck cannot repair."""
    report, found = examination.report, examination.survey
    replica = new_replica(settings.namespace)
    try:
        _load(files, found, replica, report.kept_lsn)
    except (DataDirDamagedError, msgspec.MsgspecError) as error:
        report.opens = False
        text = error.message if isinstance(error, CrabnetError) else str(error)
        report.obstacle = f"{settings.data_dir}: {text}"
        if isinstance(error, CrabnetError):
            report.obstacle_reason = error.reason
        report.repair = ""
        return False
    report.seeds_kept = sum((replica.state.counts + replica.state.archived).values())
    try:
        for row in Snapshot(replica).rows():
            check_row(row)
    except RefusedError as error:
        report.damages.append(f"{settings.data_dir}: a node would stop at its next checkpoint: {error.message}")
    try:
        broken = [str(each) for each in archive_damages(files, settings.data_dir, replica.archived.segments)]
    except DataDirDamagedError as error:
        broken = [error.message]
    if broken:
        report.damages += broken[:AUDIT_FINDINGS_MAX]
        report.opens = False
        report.kept_lsn, report.repair, report.seeds_kept = 0, _STARTS_OVER, 0
        examination.starts_over, examination.salvage = True, None
    return True


def _load(files: Files, found: Survey, replica: Replica, until_lsn: int) -> None:
    base = found.base.finding
    if base is not None and base.header is not None:
        restore(replica, read_rows(files, base))
    if until_lsn > found.base.lsn:
        for frame in iter_frames(files, found.layout, found.base.lsn, until_lsn):
            for record in decode_frame(frame.payload):
                replica.replay(record)


def _count_behind(files: Files, settings: Settings, examination: Examination) -> None:
    """Count what is readable but not kept, and what is lost permanently."""
    report = examination.report
    report.envelopes_behind = sum(1 for _ in entries_behind(files, settings, examination))
    admission = any_age_admission(settings.namespace)
    reached = 0
    with guarded("read the data dir", settings.data_dir):
        known = [first for first, _ in list_segments(files, examination.survey.layout)]
    for item in walk_journal(files, examination.survey.layout):
        if isinstance(item, Frame):
            if item.lsn > reached + 1 and item.lsn > report.kept_lsn:
                report.lost.append((max(reached, report.kept_lsn) + 1, item.lsn - 1))
            reached = max(reached, item.lsn)
        elif isinstance(item, Hole) and len(report.envelopes_broken) < AUDIT_FINDINGS_MAX:
            found = broken_envelopes(read_hole(files, item), admission)
            report.envelopes_broken += [envelope_id for _, envelope_id in found if envelope_id]
    survey = examination.survey
    expected = max([survey.seal_lsn or 0, survey.state.lsn, survey.bak.lsn, *(first - 1 for first in known)])
    if expected > max(reached, report.kept_lsn):
        report.lost.append((max(reached, report.kept_lsn) + 1, expected))


def entries_behind(files: Files, settings: Settings, examination: Examination) -> Iterator[bytes]:
    """Entries to import again, one line each: envelopes, and the facts of a baseline state as stored rows."""
    kept_lsn = examination.report.kept_lsn
    aside = () if examination.salvage is None else examination.salvage.aside
    aside_names = {path.name for path in aside}
    admission = any_age_admission(settings.namespace)
    for item in walk_journal(files, examination.survey.layout):
        if isinstance(item, Hole):
            if item.after_lsn + 1 > kept_lsn or item.path.name in aside_names:
                yield from (raw for _, raw in sound_envelopes(read_hole(files, item), admission))
        elif isinstance(item, Frame) and (
            item.lsn > kept_lsn or f"{item.position.segment_first_lsn:020d}.log" in aside_names
        ):
            yield from _entries_of(item)


def _entries_of(frame: Frame) -> Iterator[bytes]:
    try:
        records = decode_frame(frame.payload)
    except DataDirDamagedError:
        return
    for record in records:
        if isinstance(record, FactRecord):
            yield msgspec.json.encode(record.fact)
        elif isinstance(record, EnvelopeRecord | ForkRecord):
            yield bytes(record.raw)
