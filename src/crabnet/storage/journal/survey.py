"""A survey of the journal after a base: the checkpoint, or the beginning, from which replay would start.

It changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from crabnet.storage.checkpoint.format import CheckpointFinding, Condition
from crabnet.storage.files import Files
from crabnet.storage.journal.reading import HeaderKind, SegmentScan, TailKind, scan_segment
from crabnet.storage.journal.segment import GENESIS_HASH, HEADER_BYTES, Frame
from crabnet.storage.layout import Layout

_FOREIGN: Final = {HeaderKind.NEWER: Condition.NEWER, HeaderKind.OLDER: Condition.OLDER}


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where stored bytes are wrong."""

    path: Path
    offset: int
    detail: str

    def __str__(self) -> str:
        return f"{self.path}, offset {self.offset}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Base:
    """The state from which replay starts. ``finding`` is ``None`` for the empty beginning."""

    finding: CheckpointFinding | None
    lsn: int
    head_hash: str


@dataclass
class JournalSurvey:
    """The content and condition of the journal."""

    condition: Condition
    last_lsn: int = 0
    head_hash: str = GENESIS_HASH
    damage: Damage | None = None
    """The damage because of which the journal is not ok."""
    covered: list[Damage] = field(default_factory=list)
    """Damage to frames whose content the base contains."""
    last: SegmentScan | None = None
    """The last segment with at least a sound header, ``None`` when it has to be made."""
    torn_segment: tuple[int, Path] | None = None
    """A segment after ``last`` without a sound header."""
    torn_segment_unfinished: bool = False
    """True if the header of ``torn_segment`` is an incomplete beginning. Its write never returned."""
    replay_bytes: int = 0
    """Bytes of the frames after the base."""


def survey_journal(
    files: Files,
    layout: Layout,
    base: Base,
    segments: list[tuple[int, Path]],
    seal: tuple[int, str] | None,
    *,
    known: Sequence[tuple[int, str]] = (),
    visit: Callable[[Frame], None] | None = None,
) -> JournalSurvey:
    """Scan every segment in journal/, and those in history/ that replay from the base needs. Raises ``OSError``.

    ``known`` are further pairs of lsn and frame hash with which the journal must agree. ``visit`` is called with every
    sound frame, in order.
    """
    if not segments:
        if seal is None:
            return JournalSurvey(Condition.ABSENT, head_hash=base.head_hash)
        missing = Damage(layout.journal, 0, f"there are no segments, but the journal had reached frame {seal[0]}")
        return JournalSurvey(Condition.DAMAGED, damage=missing)
    starts = [index for index, (first, _) in enumerate(segments) if first <= base.lsn + 1]
    if not starts:
        first, path = segments[0]
        gap = Damage(path, 0, f"frames {base.lsn + 1} to {first - 1} before it are missing")
        return JournalSurvey(Condition.DAMAGED, damage=gap)
    walk = _Walk(files, layout, base, seal, known, visit)
    for (first, path), (next_first, _) in pairwise(segments[: starts[-1] + 1]):
        if path.parent == layout.journal:
            scan = scan_segment(files, path, first)
            if scan.tail is not TailKind.CLEAN or scan.last_lsn != next_first - 1:
                detail = scan.detail or f"frames {scan.last_lsn + 1} to {next_first - 1} are missing"
                walk.result.covered.append(Damage(path, scan.end, detail))
    walk.run(segments[starts[-1] :])
    return walk.result


class _Walk:
    """The walk over the segments that replay needs: frame after frame, hash after hash."""

    def __init__(
        self,
        files: Files,
        layout: Layout,
        base: Base,
        seal: tuple[int, str] | None,
        known: Sequence[tuple[int, str]],
        visit: Callable[[Frame], None] | None,
    ) -> None:
        self._files = files
        self._layout = layout
        self._base = base
        self._sealed_lsn = 0 if seal is None else seal[0]
        self._known = [(base.lsn, base.head_hash), *known] + ([] if seal is None else [seal])
        self._outer_visit = visit
        self._mismatch: Frame | None = None
        self._reached: tuple[int, str] | None = None
        self.result = JournalSurvey(Condition.OK)

    def _visit(self, frame: Frame) -> None:
        if not (self._agrees(frame.lsn, frame.hash) and self._agrees(frame.lsn - 1, frame.previous_hash)):
            self._mismatch = self._mismatch or frame
        if self._outer_visit is not None and self._mismatch is None:
            self._outer_visit(frame)
        if frame.lsn > self._base.lsn:
            self.result.replay_bytes += frame.end - frame.position.offset

    def _agrees(self, lsn: int, head_hash: str) -> bool:
        return all(head_hash == known for at, known in self._known if at == lsn)

    def _fail(self, path: Path, offset: int, detail: str, condition: Condition = Condition.DAMAGED) -> None:
        self.result.condition = condition
        self.result.damage = Damage(path, offset, detail)

    def run(self, segments: list[tuple[int, Path]]) -> None:
        for index, (first, path) in enumerate(segments):
            if not self._step(first, path, is_last=index == len(segments) - 1):
                break
        if self.result.condition is Condition.OK:
            self._finish(segments[-1][1])

    def _step(self, first: int, path: Path, *, is_last: bool) -> bool:
        """Walk over one segment. Returns false when the walk ends with it."""
        result, reached = self.result, self._reached
        if reached is not None and result.last is not None and first != reached[0] + 1:
            self._fail(result.last.path, result.last.end, f"frames {reached[0] + 1} to {first - 1} are missing")
            return False
        resume_max_lsn = max(self._base.lsn + 1, first)
        scan = scan_segment(self._files, path, first, resume_max_lsn=resume_max_lsn, visit=self._visit)
        if scan.header in _FOREIGN:
            condition = _FOREIGN[scan.header]
            self._fail(
                path,
                0,
                f"the journal is of {'a newer' if condition is Condition.NEWER else 'an older'} version",
                condition,
            )
            return False
        if is_last and scan.header is HeaderKind.TORN and self._may_be_unfinished(first, scan.size):
            result.torn_segment = (first, path)
            result.torn_segment_unfinished = scan.unfinished
            return False
        if scan.header is not HeaderKind.OK and scan.skipped is None:
            self._fail(path, 0, scan.detail)
        elif not self._agrees(first - 1, scan.previous_hash) or (
            reached is not None and scan.previous_hash != reached[1]
        ):
            self._fail(path, 0, "it does not continue the frame before it")
        elif self._mismatch is not None:
            frame = self._mismatch
            self._fail(path, frame.position.offset, f"frame {frame.lsn} is not the one that the checkpoint knows")
        elif scan.tail is TailKind.DAMAGED or (scan.tail is TailKind.TORN and not is_last):
            self._fail(path, scan.end, scan.detail)
        else:
            if scan.skipped is not None:
                result.covered.append(Damage(path, scan.skipped[0], "damaged bytes, none of them needed"))
            result.last = scan
            self._reached = (scan.last_lsn, scan.head_hash)
            return True
        return False

    def _may_be_unfinished(self, first: int, size: int) -> bool:
        """True if a segment without a sound header contains no acknowledged frames.

        A segment of full header length has no frames: only its header is damaged. A shorter one may come from a crash
        while it was made. It cannot when the base or the seal shows that it was durable before, because a checkpoint is
        put in place only after the segment that follows it.
        """
        if size >= HEADER_BYTES:
            return True
        if first == 1:
            return self._sealed_lsn == 0 and (self._base.finding is None or self._base.finding.header is None)
        previous = self.result.last
        return previous is not None and self._base.lsn < previous.first_lsn

    def _finish(self, last_path: Path) -> None:
        result = self.result
        if self._reached is not None:
            result.last_lsn, result.head_hash = self._reached
        elif result.torn_segment is not None:
            result.last_lsn, result.head_hash = self._base.lsn, self._base.head_hash
            if self._base.finding is None or self._base.finding.header is None:
                result.condition = Condition.ABSENT
        needed = max(self._base.lsn, self._sealed_lsn)
        if result.last_lsn < needed:
            offset = 0 if result.last is None else result.last.end
            self._fail(last_path, offset, f"it ends with frame {result.last_lsn}, but had reached frame {needed}")
        elif last_path.parent != self._layout.journal:
            self._fail(self._layout.journal, 0, "its last segment is missing")
