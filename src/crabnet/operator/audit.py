"""``crabnet audit verify``: checks the whole ledger again, without the lock and without changing anything.

It checks every frame from the first on: CRC, hash link, and the id, signature and place in the feed of each envelope.
From the requested start it applies the journalled decisions again. It computes the state hash from scratch and compares
it with that of every checkpoint on the way and with that of the running node. At the end it follows the chain of each
task, link by link (``chains``). It reads one frame at a time, so memory holds the state but not the journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec

from crabnet.core.replica.held import NothingHeld
from crabnet.core.replica.records import (
    EnvelopeRecord,
    FactRecord,
    ForkRecord,
    SegmentRow,
    decode_frame,
)
from crabnet.core.replica.replica import Replica
from crabnet.core.replica.snapshot import restore
from crabnet.domain.accumulator import Accumulator
from crabnet.domain.state import leaf
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, UsageError
from crabnet.limits import AUDIT_NOTES_MAX, AUDIT_RETRIES
from crabnet.operator.archived import archive_damages, archived_only
from crabnet.operator.chains import all_chains
from crabnet.operator.envelopes import EnvelopeChecker, any_age_admission, broken_envelopes
from crabnet.operator.findings import GENESIS, AskNode, AuditReport, Comparison, Finding, LivePoint
from crabnet.operator.frames import Hole, Segment, read_hole, walk_journal
from crabnet.operator.namespace import namespace_of
from crabnet.operator.redeciding import otherwise_decided
from crabnet.operator.rows import differing_row, header_lsn
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.storage.checkpoint.format import CheckpointFinding, Condition
from crabnet.storage.checkpoint.reading import examine_checkpoint, read_rows
from crabnet.storage.feed_index import INDEX_NAME, UNSEALED, is_unsealed
from crabnet.storage.files import Files, OpenMode, guarded, opened
from crabnet.storage.journal.segment import FRAME_PREFIX_BYTES, GENESIS_HASH, Frame
from crabnet.storage.layout import Layout, list_segments, read_seal

__all__ = ["GENESIS", "AskNode", "AuditReport", "Comparison", "Finding", "LivePoint", "audit", "new_replica"]

_STAMP_BYTES: Final = 128
_EXAMINED: Final = frozenset({Condition.OK, Condition.ABSENT, Condition.OLDER})


def audit(files: Files, data_dir: Path, *, namespace: str, ask_node: AskNode, start: str = GENESIS) -> AuditReport:
    """Check a data dir. ``start`` is ``genesis``, ``state``, ``bak`` or the path of a checkpoint file.

    ``namespace`` is used if the journal does not contain the namespace. While a node runs, the journal grows and
    checkpoints are replaced. Then the audit starts again, a limited number of times. Raises StorageFailedError if the
    data dir cannot be read, UsageError for a start that is not a checkpoint.
    """
    layout = Layout(data_dir)
    with guarded("read the data dir", data_dir):
        empty = all(files.size(path) is None for path in (layout.journal, layout.state, layout.bak))
    if empty:
        raise UsageError(f"there is no data dir at {data_dir}: no ledger was found", Reason.NO_DATA_DIR)
    namespace = namespace_of(files, layout) or namespace
    report = AuditReport()
    for _ in range(AUDIT_RETRIES):
        before = _stamp(files, layout)
        report = _Audit(files, layout, namespace, start, ask_node).run()
        if report.ok or _stamp(files, layout) == before:
            break
    return report


def _stamp(files: Files, layout: Layout) -> tuple[bytes | int | None, ...]:
    """The ends of the files. They show whether the data dir changed while it was read."""
    with guarded("read the data dir", layout.data_dir):
        segments = list_segments(files, layout)
        ends = [_end_of(files, path) for path in (layout.state, layout.bak, layout.seal)]
        tail = files.size(segments[-1][1]) if segments else None
    return (*ends, len(segments), tail)


def _end_of(files: Files, path: Path) -> bytes | None:
    size = files.size(path)
    if size is None:
        return None
    try:
        with opened(files, path, OpenMode.READ) as fd:
            return files.pread(fd, _STAMP_BYTES, max(0, size - _STAMP_BYTES))
    except FileNotFoundError:
        return None


class _Audit:
    """One walk over a data dir."""

    def __init__(self, files: Files, layout: Layout, namespace: str, start: str, ask_node: AskNode) -> None:
        self._files = files
        self._layout = layout
        self._namespace = namespace
        self._start = start
        self._ask_node = ask_node
        self._report = AuditReport(start=start)
        self._checker = EnvelopeChecker(namespace)
        self._replica: Replica | None = None
        self._checkpoints: list[CheckpointFinding] = []
        self._seal: tuple[int, str] | None = None
        self._live: LivePoint | None = None
        self._damaged: list[tuple[Path, int]] = []
        """Damaged checkpoints and the lsn that each claims to cover."""
        self._segments: Sequence[SegmentRow] = ()
        self._archive_findings: list[Finding] = []
        self._lsn = 0
        self._head = GENESIS_HASH
        self._previous: Frame | None = None
        self._previous_path = self._segment_path = layout.journal

    def run(self) -> AuditReport:
        report = self._report
        self._examine()
        self._live = self._ask_node()
        self._begin()
        for item in walk_journal(self._files, self._layout):
            if isinstance(item, Segment):
                self._segment(item)
            elif isinstance(item, Hole):
                if not self._hole(item):
                    break
            else:
                if self._live is not None and item.lsn > self._live.lsn:
                    break
                self._frame(item)
        self._end()
        index = self._layout.data_dir / INDEX_NAME
        if self._live is None and is_unsealed(self._files, index):
            report.notes.append(f"{index}: {UNSEALED}")
        report.last_lsn = self._lsn
        report.envelopes = self._checker.signed + self._checker.unsigned
        report.unsigned = self._checker.unsigned
        report.feeds = self._checker.chains()
        return report

    # --- checkpoints ---------------------------------------------------------------------------------------

    def _examine(self) -> None:
        layout = self._layout
        places = [layout.state, layout.bak]
        if self._start not in {GENESIS, "state", "bak"}:
            places.append(Path(self._start))
        for path in places:
            finding = examine_checkpoint(self._files, path)
            if finding.condition not in _EXAMINED:
                lsn = header_lsn(self._files, path) if finding.condition is Condition.DAMAGED else None
                if lsn is not None:
                    self._damaged.append((path, lsn))
                self._report.add(Finding(path, finding.detail, finding.offset, lsn))
            elif finding.header is not None:
                self._checkpoints.append(finding)
                self._check_rows(finding)
        try:
            with guarded("read the data dir", layout.data_dir):
                self._seal = read_seal(self._files, layout.seal)
        except ValueError as error:
            self._report.add(Finding(layout.seal, str(error)))

    def _check_rows(self, checkpoint: CheckpointFinding) -> Replica | None:
        """The replica of a checkpoint, with hashes that are computed again from its rows."""
        header = checkpoint.header
        if header is None:
            return None
        replica = new_replica(self._namespace)
        path = checkpoint.path
        try:
            restore(replica, read_rows(self._files, checkpoint))
        except (DataDirDamagedError, msgspec.MsgspecError) as error:
            text = error.message if isinstance(error, CrabnetError) else str(error)
            self._report.add(Finding(path, text, lsn=header.lsn))
            return None
        self._segments = max(self._segments, replica.archived.segments, key=len)
        stored = (replica.state.accumulated(), replica.feeds.accumulated())
        try:
            self._recompute(replica)
        except DataDirDamagedError as error:
            self._report.add(Finding(path, error.message, lsn=header.lsn))
            return None
        computed = replica.state_hash()
        if computed != header.state_hash:
            # The hash covers archived seeds. If the archive is damaged, it says nothing about the checkpoint.
            if self._archive_is_sound(replica.archived.segments):
                text = f"its rows have the state hash {computed}, but its header says {header.state_hash}"
                self._report.add(Finding(path, text, lsn=header.lsn))
        elif stored != (replica.state.accumulated(), replica.feeds.accumulated()):
            self._report.add(Finding(path, "its totals do not match its rows", lsn=header.lsn))
        return replica

    def _archive_is_sound(self, segments: Sequence[SegmentRow]) -> bool:
        """False if a segment is damaged. Each damage is reported once."""
        try:
            found = [
                Finding(each.path, each.detail, each.offset)
                for each in archive_damages(self._files, self._layout.data_dir, segments)
            ]
        except DataDirDamagedError as error:
            found = [Finding(self._layout.data_dir, error.message)]
        for finding in found:
            if finding not in self._archive_findings:
                self._archive_findings.append(finding)
                self._report.add(finding)
        return not found

    def _recompute(self, replica: Replica) -> None:
        """Hash all seeds, including archived ones, and all feeds again."""
        state = replica.state
        records = state.records
        state.load(records, None)
        if replica.archived.segments:
            total = Accumulator(state.accumulated())
            for seed_id, record in archived_only(self._files, self._layout.data_dir, replica):
                if record.seed is not None:
                    total.add(leaf(seed_id, record))
            state.load(records, total.value())
        replica.feeds.load(replica.feeds.all(), None)

    def _begin(self) -> None:
        """Choose where the replay starts."""
        if self._start == GENESIS:
            return
        wanted = {"state": self._layout.state, "bak": self._layout.bak}.get(self._start, Path(self._start))
        chosen = next((each for each in self._checkpoints if each.path == wanted), None)
        if chosen is None or chosen.header is None:
            if self._report.findings_total:
                return
            raise UsageError(
                f"{wanted} is not a checkpoint, so the replay cannot start from it", Reason.INVALID_ARGUMENT
            )
        self._replica = self._check_rows(chosen)
        self._report.first_lsn = chosen.lsn + 1

    # --- the journal ---------------------------------------------------------------------------------------

    def _segment(self, segment: Segment) -> None:
        self._segment_path = segment.path
        if self._previous is None and not self._report.frames:
            self._first_segment(segment)
        elif segment.first_lsn != self._lsn + 1:
            self._missing(segment.path, self._lsn + 1, segment.first_lsn - 1)
            self._break(segment.first_lsn - 1, segment.previous_hash)
        elif segment.previous_hash and self._head and segment.previous_hash != self._head:
            self._unlinked(segment.path, 0, segment.first_lsn)

    def _first_segment(self, segment: Segment) -> None:
        baseline = examine_checkpoint(self._files, self._layout.baseline)
        if baseline.condition is Condition.OLDER:
            self._head = baseline.digest
        elif baseline.condition is not Condition.ABSENT:
            self._report.add(Finding(baseline.path, baseline.detail, baseline.offset))
        if segment.first_lsn != 1:
            self._missing(segment.path, 1, segment.first_lsn - 1)
            self._break(segment.first_lsn - 1, segment.previous_hash)
            if self._start == GENESIS:
                self._report.notes.append("the state was not replayed; use --from-checkpoint state")
        elif segment.previous_hash and segment.previous_hash != self._head:
            self._unlinked(segment.path, 0, 1)
        if self._start == GENESIS and segment.first_lsn == 1:
            self._replica = new_replica(self._namespace)
            self._report.first_lsn = 1
            self._compare(0)

    def _missing(self, path: Path, first: int, last: int) -> None:
        """Report missing frames. After a repair, frames before the chosen start may be missing."""
        text = f"frames {first} to {last} before it are missing"
        if self._start != GENESIS and first <= last < self._report.first_lsn:
            self._report.notes.append(f"{path}: {text}; they are before the start")
        else:
            self._report.add(Finding(path, text, 0, first))

    def _unlinked(self, path: Path, offset: int, lsn: int) -> None:
        text = f"frame {lsn} does not continue frame {lsn - 1}: the hash chain is broken; one of the two was changed"
        if self._previous is not None:
            text += f" (frame {lsn - 1} is at {self._previous_path}, offset {self._previous.position.offset})"
        self._report.add(Finding(path, text, offset, lsn))

    def _break(self, lsn: int, head: str) -> None:
        """Continue after an unreadable place. The replay ends there."""
        self._lsn, self._head = lsn, head
        self._previous = None
        self._checker.skip()
        if self._replica is not None and lsn >= self._report.first_lsn:
            self._replica = None
            self._report.notes.append(f"the state was not replayed beyond frame {lsn}, because of the findings")

    def _hole(self, hole: Hole) -> bool:
        """Report damage. False if the hole is after the last frame that must exist."""
        if self._live is not None and hole.after_lsn >= self._live.lsn:
            return False
        broken = broken_envelopes(read_hole(self._files, hole), any_age_admission(self._namespace))
        lsn = None if hole.offset == 0 else hole.after_lsn + 1
        text = f"{hole.detail} (up to offset {hole.end})"
        if hole.at_end and lsn is not None:
            text = f"{hole.end - hole.offset} bytes are an unfinished or damaged frame; the next start cuts them off"
        for index, envelope_id in broken or [(0, "")]:
            self._report.add(Finding(hole.path, text, hole.offset + index, lsn, envelope_id))
        if lsn is not None:
            self._break(self._lsn, "")
        return True

    def _frame(self, frame: Frame) -> None:
        report = self._report
        at = self._previous_path = self._segment_path
        if frame.lsn != self._lsn + 1:
            text = f"frames {self._lsn + 1} to {frame.lsn - 1} are missing"
            report.add(Finding(at, text, frame.position.offset, self._lsn + 1))
            self._break(frame.lsn - 1, "")
        elif self._head and frame.previous_hash != self._head:
            self._unlinked(at, frame.position.offset, frame.lsn)
        self._lsn, self._head, self._previous = frame.lsn, frame.hash, frame
        report.frames += 1
        for name, lsn, head in self._known():
            if frame.lsn == lsn and frame.hash != head:
                report.add(Finding(at, f"it is not the frame that {name} names", frame.position.offset, lsn))
        self._records(frame, at)
        self._compare(frame.lsn)

    def _records(self, frame: Frame, path: Path) -> None:
        replica = self._replica if frame.lsn >= self._report.first_lsn else None
        try:
            records = decode_frame(frame.payload)
        except DataDirDamagedError as error:
            self._report.add(Finding(path, error.message, frame.position.offset, frame.lsn))
            self._break(frame.lsn, frame.hash)
            return
        for record in records:
            if isinstance(record, EnvelopeRecord | ForkRecord):
                envelope_id, wrong = self._checker.check(record)
                if wrong:
                    index = FRAME_PREFIX_BYTES + max(0, frame.payload.find(bytes(record.raw)))
                    self._report.add(Finding(path, wrong, frame.position.offset + index, frame.lsn, envelope_id))
            self._report.facts += isinstance(record, FactRecord)
            try:
                if replica is not None:
                    self._note_otherwise(otherwise_decided(replica, record), frame.lsn)
                    replica.replay(record)
            except (CrabnetError, msgspec.MsgspecError) as error:
                text = error.message if isinstance(error, CrabnetError) else str(error)
                self._report.add(Finding(path, text, frame.position.offset, frame.lsn))
                self._break(frame.lsn, frame.hash)
                replica = None

    def _note_otherwise(self, what: str, lsn: int) -> None:
        self._report.otherwise += bool(what)
        if what and self._report.otherwise <= AUDIT_NOTES_MAX:
            self._report.notes.append(f"frame {lsn}: the rules of this version would decide differently about {what}")

    # --- what was known before -----------------------------------------------------------------------------

    def _known(self) -> Iterator[tuple[str, int, str]]:
        for checkpoint in self._checkpoints:
            if checkpoint.header is not None:
                yield str(checkpoint.path), checkpoint.lsn, checkpoint.header.journal_head
        if self._seal is not None:
            yield str(self._layout.seal), *self._seal

    def _compare(self, lsn: int) -> None:
        """Compare the state hash with all known state hashes after this frame."""
        if self._replica is None or lsn < self._report.first_lsn - 1:
            return
        for path, at in self._damaged:
            differing = differing_row(self._files, path, self._replica) if at == lsn else None
            if differing is not None:
                self._report.add(Finding(path, differing[1], differing[0], lsn))
        words = [
            (str(each.path), each.path, each.header.state_hash)
            for each in self._checkpoints
            if each.header is not None and each.lsn == lsn
        ]
        if self._live is not None and self._live.lsn == lsn:
            words.append(("the running node", self._layout.data_dir, self._live.state_hash))
        for name, path, expected in words:
            comparison = Comparison(name, lsn, expected, self._replica.state_hash())
            self._report.comparisons.append(comparison)
            if not comparison.equal:
                text = f"after frame {lsn} the state hash is {comparison.computed}, but {name} has {expected}"
                self._report.add(Finding(path, text, 0, lsn))

    def _end(self) -> None:
        for name, lsn, _ in self._known():
            if self._lsn < lsn:
                text = f"the journal ends with frame {self._lsn}, but {name} shows that it had reached frame {lsn}"
                self._report.add(Finding(self._layout.journal, text, 0, self._lsn + 1))
        if self._live is not None and self._lsn < self._live.lsn:
            text = f"the journal ends with frame {self._lsn}, but the running node has written frame {self._live.lsn}"
            self._report.add(Finding(self._layout.journal, text, 0, self._lsn + 1))
        self._archive_is_sound(self._segments if self._replica is None else self._replica.archived.segments)
        if self._replica is None:
            return
        self._report.state_hash = self._replica.state_hash()
        self._chains(self._replica)
        heads = self._checker.feeds.heads()
        if not self._report.findings_total and self._replica.feeds.heads() != heads:
            wrong = next(author for author, head in heads.items() if self._replica.feeds.heads().get(author) != head)
            text = f"the feed of {wrong} in the state is not the one in the journal"
            self._report.add(Finding(self._layout.journal, text))

    def _chains(self, replica: Replica) -> None:
        """Check the chain of every task. A link that does not hold is a finding."""
        archived = archived_only(self._files, self._layout.data_dir, replica)
        for task in all_chains(chain(replica.state.records.items(), archived), self._checker.holds):
            self._report.chains.add(task)
            for envelope_id, wrong in task.faults():
                text = f"task {task.seed_id}: {wrong}"
                self._report.add(Finding(self._layout.journal, text, envelope_id=envelope_id))


def new_replica(namespace: str) -> Replica:
    """An empty replica for replay. It keeps no window of seen messages."""
    replica = Replica(AdmissionPolicy(namespace), seen_ttl_s=0, seen_capacity=1, parked_ttl_s=0)
    replica.held = NothingHeld()
    return replica
