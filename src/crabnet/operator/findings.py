"""The report of an audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from crabnet.limits import AUDIT_FINDINGS_MAX
from crabnet.operator.chains import ChainReport
from crabnet.operator.envelopes import FeedChain

GENESIS: Final = "genesis"
"""The start before the first frame."""


class LivePoint(NamedTuple):
    """The answer of a running node: its state hash after frame ``lsn``, which is durable."""

    state_hash: str
    lsn: int


AskNode = Callable[[], LivePoint | None]
"""Returns the answer of the running node; None without a node."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, and where."""

    path: Path
    detail: str
    offset: int = 0
    lsn: int | None = None
    envelope_id: str = ""

    def __str__(self) -> str:
        where = [str(self.path), f"offset {self.offset}"]
        where += [] if self.lsn is None else [f"lsn {self.lsn}"]
        where += [f"envelope {self.envelope_id}"] if self.envelope_id else []
        return f"{', '.join(where)}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The recomputed state hash compared with a known one."""

    name: str
    lsn: int
    expected: str
    computed: str

    @property
    def equal(self) -> bool:
        return self.expected == self.computed


@dataclass
class AuditReport:
    """The checks and their findings. ``findings`` contains the first of ``findings_total`` findings."""

    start: str = GENESIS
    first_lsn: int = 0
    last_lsn: int = 0
    frames: int = 0
    envelopes: int = 0
    unsigned: int = 0
    facts: int = 0
    """Facts of an imported baseline state, which have no envelope."""
    state_hash: str = ""
    comparisons: list[Comparison] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    findings_total: int = 0
    otherwise: int = 0
    """Decisions that the rules of this version would not make."""
    feeds: list[FeedChain] = field(default_factory=list)
    """The feed of each author up to its head. The id, signature and link of every envelope are verified."""
    chains: ChainReport = field(default_factory=ChainReport)
    """The chains of each task; empty if the state was not replayed."""
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there are no findings."""
        return not self.findings_total

    def add(self, finding: Finding) -> None:
        """Add a finding. At most ``AUDIT_FINDINGS_MAX`` are kept."""
        self.findings_total += 1
        if len(self.findings) < AUDIT_FINDINGS_MAX:
            self.findings.append(finding)
