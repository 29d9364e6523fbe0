"""A survey of a data dir: its parts, their conditions, and what recovery would do. It changes nothing.

It needs no lock. While a node runs, the answer may be out of date.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crabnet.storage.checkpoint.format import CheckpointFinding, Condition
from crabnet.storage.checkpoint.reading import examine_checkpoint
from crabnet.storage.files import Files, guarded
from crabnet.storage.journal.reading import TailKind
from crabnet.storage.journal.segment import GENESIS_HASH, Frame
from crabnet.storage.journal.survey import Base, Damage, JournalSurvey, survey_journal
from crabnet.storage.layout import Layout, list_segments, read_seal
from crabnet.storage.opening.recovery import Action, Notice, NoticeCode, Rule, decide


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything that recovery needs to know."""

    layout: Layout
    state: CheckpointFinding
    bak: CheckpointFinding
    base: Base
    journal: JournalSurvey
    segments: list[tuple[int, Path]]
    seal_lsn: int | None
    rule: Rule
    notices: tuple[Notice, ...]
    gutted: bool = False
    """True if there is nothing to start from, but there is an archive. A node that has never run has no archive."""

    def damages(self) -> list[Damage]:
        """Return all damage that was found, for the operator."""
        found = [
            Damage(each.path, each.offset, each.detail)
            for each in (self.state, self.bak)
            if each.condition in {Condition.DAMAGED, Condition.NEWER}
        ]
        found += [] if self.journal.damage is None else [self.journal.damage]
        return found + self.journal.covered


def survey(files: Files, data_dir: Path) -> Survey:
    """Examine a data dir. Raises ``StorageFailedError`` when it cannot be read."""
    layout = Layout(data_dir)
    state = examine_checkpoint(files, layout.state)
    bak = examine_checkpoint(files, layout.bak)
    if Condition.OLDER in {state.condition, bak.condition}:
        imported = examine_checkpoint(files, layout.baseline)
        state, bak = _unless_written_since(state, imported), _unless_written_since(bak, imported)
    notices: list[Notice] = []
    with guarded("read the data dir", data_dir):
        segments = list_segments(files, layout)
    seal: tuple[int, str] | None = None
    with guarded("read the seal", layout.seal):
        try:
            seal = read_seal(files, layout.seal)
        except ValueError as error:
            notices.append(Notice(NoticeCode.SEAL_DAMAGED, f"{layout.seal}: {error}; it is replaced", layout.seal))
    base = _choose_base(files, layout, state, bak, segments)
    with guarded("read the journal", layout.journal):
        journal = survey_journal(files, layout, base, segments, seal)
    rule = decide(state.condition, bak.condition, journal.condition)
    seal_lsn = None if seal is None else seal[0]
    replacing = state.condition is Condition.ABSENT and _is_replacing(files, layout, bak, journal)
    notices += _notices(state, bak, journal, segments, seal_lsn, replacing=replacing)
    with guarded("read the data dir", layout.repaired):
        if files.size(layout.repaired) is not None:
            message = f"{layout.repaired}: a repair may have lost acknowledged frames"
            notices.append(Notice(NoticeCode.REPAIRED, message, layout.repaired))
    if rule.action is Action.IMPORT_BASELINE:
        message = f"{layout.state}: this is a state of the Rust program; its content is imported"
        notices.append(Notice(NoticeCode.BASELINE_IMPORTED, message, layout.state))
    if segments and segments[0][0] > 1:
        message = f"{layout.history}: frames before {segments[0][0]} are missing: new peers cannot get them from here"
        notices.append(Notice(NoticeCode.HISTORY_MISSING, message, layout.history))
    gutted = False
    if rule.action is Action.START_FRESH:
        with guarded("read the archive", layout.data_dir):
            gutted = any(name.endswith(".seg") for name in files.listdir(layout.data_dir / "archive"))
    return Survey(layout, state, bak, base, journal, segments, seal_lsn, rule, tuple(notices), gutted)


def verify(files: Files, data_dir: Path, visit: Callable[[Frame], None] | None = None) -> list[Damage]:
    """Read everything from the first frame on, including history/, and return all damage with file and offset.

    Every CRC and every hash link is checked, also those from the checkpoints and the seal to the journal. ``visit`` is
    called with the frames in order, up to the first damage. It needs no lock. Raises ``StorageFailedError``.
    """
    layout = Layout(data_dir)
    checkpoints = [examine_checkpoint(files, path) for path in (layout.state, layout.bak)]
    found = [
        Damage(each.path, each.offset, each.detail)
        for each in checkpoints
        if each.condition in {Condition.DAMAGED, Condition.NEWER}
    ]
    known = [(each.header.lsn, each.header.journal_head) for each in checkpoints if each.header is not None]
    seal: tuple[int, str] | None = None
    with guarded("read the data dir", data_dir):
        segments = list_segments(files, layout)
        try:
            seal = read_seal(files, layout.seal)
        except ValueError as error:
            found.append(Damage(layout.seal, 0, str(error)))
        base = _beginning(files, layout, segments)
        journal = survey_journal(files, layout, base, segments, seal, known=known, visit=visit)
    found += journal.covered + ([] if journal.damage is None else [journal.damage])
    if journal.torn_segment is not None:
        found.append(Damage(journal.torn_segment[1], 0, "it has no frames and no sound header"))
    elif journal.condition is Condition.OK and journal.last is not None and journal.last.tail is TailKind.TORN:
        found.append(Damage(journal.last.path, journal.last.end, journal.last.detail))
    reached = max((lsn for lsn, _ in known), default=0)
    if journal.condition in {Condition.OK, Condition.ABSENT} and journal.last_lsn < reached:
        found.append(Damage(layout.journal, 0, f"it ends with frame {journal.last_lsn}, but had reached {reached}"))
    return found


def _unless_written_since(finding: CheckpointFinding, imported: CheckpointFinding) -> CheckpointFinding:
    """Judge a state of the Rust program as damaged if that program wrote it after an earlier state was imported.

    The Rust program's state is imported once. A start moves a later one to damaged/.
    """
    if finding.condition is not Condition.OLDER or imported.condition is not Condition.OLDER:
        return finding
    if finding.digest == imported.digest:
        return finding
    detail = "the Rust program wrote it after its state had been imported: it is moved to damaged/, import it as a file"
    return CheckpointFinding(finding.path, Condition.DAMAGED, detail=detail)


def _base_of(finding: CheckpointFinding) -> Base:
    if finding.header is None:
        return Base(finding, 0, finding.digest)
    return Base(finding, finding.header.lsn, finding.header.journal_head)


def _choose_base(
    files: Files, layout: Layout, state: CheckpointFinding, bak: CheckpointFinding, segments: list[tuple[int, Path]]
) -> Base:
    """Return the newest usable checkpoint, or without one the beginning: an imported baseline or nothing."""
    for finding in (state, bak):
        if finding.condition in {Condition.OK, Condition.OLDER}:
            return _base_of(finding)
    return _beginning(files, layout, segments)


def _beginning(files: Files, layout: Layout, segments: list[tuple[int, Path]]) -> Base:
    """Return what precedes frame 1: an imported baseline state or nothing."""
    if segments:
        baseline = examine_checkpoint(files, layout.baseline)
        if baseline.condition is Condition.OLDER:
            return _base_of(baseline)
    return Base(None, 0, GENESIS_HASH)


def _is_replacing(files: Files, layout: Layout, bak: CheckpointFinding, journal: JournalSurvey) -> bool:
    """True if a process died while it put a checkpoint in place: between the two renames, or before that of the first.

    In this case the new checkpoint is whole under its temporary name, and the journal reaches as far as it says. So
    nothing is lost that a state.json would contain.
    """
    if bak.condition is Condition.DAMAGED or journal.condition is not Condition.OK:
        return False
    waiting = examine_checkpoint(files, layout.temporary)
    return waiting.condition is Condition.OK and bak.lsn <= waiting.lsn <= journal.last_lsn


def _notices(
    state: CheckpointFinding,
    bak: CheckpointFinding,
    journal: JournalSurvey,
    segments: list[tuple[int, Path]],
    seal_lsn: int | None,
    *,
    replacing: bool,
) -> list[Notice]:
    notices: list[Notice] = []

    def add(code: NoticeCode, path: Path, offset: int, message: str) -> None:
        notices.append(Notice(code, f"{path}: {message}", path, offset))

    if state.condition is Condition.DAMAGED:
        add(NoticeCode.STATE_DAMAGED, state.path, state.offset, state.detail)
    elif state.condition is Condition.ABSENT and segments:
        if replacing:
            add(NoticeCode.CHECKPOINT_UNFINISHED, state.path, 0, "a crash interrupted its replacement")
        elif bak.condition is not Condition.ABSENT or segments[-1][0] > 1:
            add(NoticeCode.STATE_ABSENT, state.path, 0, "there is no checkpoint, although one was made before")
        else:
            add(NoticeCode.NO_CHECKPOINT_YET, state.path, 0, "no checkpoint was made yet")
    if bak.condition is Condition.DAMAGED:
        add(NoticeCode.BAK_DAMAGED, bak.path, bak.offset, bak.detail)
    if journal.last is not None and journal.last.tail is TailKind.TORN:
        last = journal.last
        code = NoticeCode.JOURNAL_UNFINISHED if last.unfinished else NoticeCode.JOURNAL_TORN
        add(code, last.path, last.end, f"{last.detail}, which was never acknowledged; they are cut off")
    if journal.torn_segment is not None:
        unfinished = journal.torn_segment_unfinished
        code = NoticeCode.JOURNAL_SEGMENT_UNFINISHED if unfinished else NoticeCode.JOURNAL_SEGMENT_TORN
        add(code, journal.torn_segment[1], 0, "it has no frames and no sound header")
    for damage in journal.covered:
        add(NoticeCode.JOURNAL_DAMAGE_COVERED, damage.path, damage.offset, f"{damage.detail}; make a checkpoint")
    if journal.condition is Condition.OK and journal.last_lsn != (seal_lsn or 0):
        path = journal.last.path if journal.last else state.path
        add(NoticeCode.UNCLEAN_SHUTDOWN, path, 0, "the journal was not closed in order")
    return notices
