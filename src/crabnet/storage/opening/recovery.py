"""The decision table of recovery over {state.json, state.json.bak, journal}.

docs/STORAGE.md prints the same table, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Final

from crabnet.storage.checkpoint.format import Condition

OK: Final = frozenset({Condition.OK})
DAMAGED: Final = frozenset({Condition.DAMAGED})
ABSENT: Final = frozenset({Condition.ABSENT})
OLDER: Final = frozenset({Condition.OLDER})
NEWER: Final = frozenset({Condition.NEWER})
ANY: Final = frozenset(Condition)


class Action(StrEnum):
    """The actions of recovery."""

    START_FRESH = "start fresh"
    LOAD_STATE = "load state.json, replay the journal after it"
    LOAD_BAK = "load state.json.bak, replay the journal after it"
    REPLAY_ALL = "replay the whole journal"
    IMPORT_BASELINE = "import the baseline's state.json"
    REFUSE_DAMAGED = "refuse: damaged"
    REFUSE_NEWER = "refuse: newer version"

    @property
    def refuses(self) -> bool:
        return self in {Action.REFUSE_DAMAGED, Action.REFUSE_NEWER}


class NoticeCode(StrEnum):
    """The findings and actions of recovery. All but the last six are alerts: an operator should check the disk.

    ``*_unfinished`` means that a process died during a write that had not returned. Nothing that was acknowledged or
    sent can be missing because of it.
    """

    STATE_DAMAGED = "state_damaged"
    STATE_ABSENT = "state_absent"
    BAK_DAMAGED = "bak_damaged"
    JOURNAL_TORN = "journal_torn"
    JOURNAL_SEGMENT_TORN = "journal_segment_torn"
    JOURNAL_DAMAGE_COVERED = "journal_damage_covered"
    SEAL_DAMAGED = "seal_damaged"
    REPAIRED = "repaired"
    HISTORY_MISSING = "history_missing"
    NO_CHECKPOINT_YET = "no_checkpoint_yet"
    BASELINE_IMPORTED = "baseline_imported"
    UNCLEAN_SHUTDOWN = "unclean_shutdown"
    CHECKPOINT_UNFINISHED = "checkpoint_unfinished"
    JOURNAL_UNFINISHED = "journal_unfinished"
    JOURNAL_SEGMENT_UNFINISHED = "journal_segment_unfinished"

    @property
    def is_alert(self) -> bool:
        return self not in {
            NoticeCode.NO_CHECKPOINT_YET,
            NoticeCode.BASELINE_IMPORTED,
            NoticeCode.UNCLEAN_SHUTDOWN,
            NoticeCode.CHECKPOINT_UNFINISHED,
            NoticeCode.JOURNAL_UNFINISHED,
            NoticeCode.JOURNAL_SEGMENT_UNFINISHED,
        }

    @property
    def may_lack_frames(self) -> bool:
        """True if acknowledged frames may be missing. Damaged checkpoints do not count: a whole journal suffices."""
        return self in {NoticeCode.JOURNAL_TORN, NoticeCode.JOURNAL_SEGMENT_TORN, NoticeCode.REPAIRED}


@dataclass(frozen=True, slots=True)
class Notice:
    """One finding of recovery, for an event and for the operator."""

    code: NoticeCode
    message: str
    path: Path
    offset: int = 0

    @property
    def is_alert(self) -> bool:
        return self.code.is_alert


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table: it applies when each part is in one of the named conditions."""

    state: frozenset[Condition]
    bak: frozenset[Condition]
    journal: frozenset[Condition]
    action: Action
    operator_sees: str

    def matches(self, state: Condition, bak: Condition, journal: Condition) -> bool:
        return state in self.state and bak in self.bak and journal in self.journal


RULES: Final[tuple[Rule, ...]] = (
    Rule(NEWER, ANY, ANY, Action.REFUSE_NEWER, "exit 5, `data_dir_newer`: upgrade Crabnet"),
    Rule(ANY, NEWER, ANY, Action.REFUSE_NEWER, "exit 5, `data_dir_newer`: upgrade Crabnet"),
    Rule(ANY, ANY, NEWER, Action.REFUSE_NEWER, "exit 5, `data_dir_newer`: upgrade Crabnet"),
    Rule(ANY, ANY, OLDER, Action.REFUSE_DAMAGED, "exit 5: no journal older than version 1 was ever written"),
    Rule(ANY, ANY, DAMAGED, Action.REFUSE_DAMAGED, "exit 5, naming file and offset: run `crabnet fsck`"),
    Rule(ABSENT, ABSENT, ABSENT, Action.START_FRESH, "nothing: a new data dir"),
    Rule(OLDER, ABSENT | OLDER, ABSENT, Action.IMPORT_BASELINE, "notice `baseline_imported`"),
    Rule(ANY, ANY, ABSENT, Action.REFUSE_DAMAGED, "exit 5: the journal is missing"),
    Rule(OK | OLDER, OK | ABSENT | OLDER, OK, Action.LOAD_STATE, "nothing: the clean start"),
    Rule(OK | OLDER, DAMAGED, OK, Action.LOAD_STATE, "alert `bak_damaged`; the file is kept in damaged/"),
    Rule(DAMAGED, OK | OLDER, OK, Action.LOAD_BAK, "alert `state_damaged`; the file is kept in damaged/"),
    Rule(ABSENT, OK | OLDER, OK, Action.LOAD_BAK, "alert `state_absent`, or notice `checkpoint_unfinished`"),
    Rule(DAMAGED, DAMAGED, OK, Action.REPLAY_ALL, "alerts `state_damaged`, `bak_damaged`; both are kept in damaged/"),
    Rule(DAMAGED, ABSENT, OK, Action.REPLAY_ALL, "alert `state_damaged`; the file is kept in damaged/"),
    Rule(ABSENT, DAMAGED, OK, Action.REPLAY_ALL, "alerts `state_absent`, `bak_damaged`; kept in damaged/"),
    Rule(
        ABSENT, ABSENT, OK, Action.REPLAY_ALL, "notice `no_checkpoint_yet`, or alert `state_absent` when there was one"
    ),
)
"""The first row that matches applies. Together the rows match every case."""


def decide(state: Condition, bak: Condition, journal: Condition) -> Rule:
    """Return the row of the table that applies to these conditions."""
    return next(rule for rule in RULES if rule.matches(state, bak, journal))


def cells() -> Iterator[tuple[Condition, Condition, Condition]]:
    """Yield every combination of conditions."""
    return product(Condition, Condition, Condition)


def render_table() -> str:
    """Return the table in Markdown, as docs/STORAGE.md shows it."""

    def words(conditions: frozenset[Condition]) -> str:
        return "any" if conditions == ANY else ", ".join(each.value for each in Condition if each in conditions)

    lines = ["| state.json | .bak | journal | action | what the operator sees |", "|---|---|---|---|---|"]
    lines += [
        f"| {words(rule.state)} | {words(rule.bak)} | {words(rule.journal)} | {rule.action.value} "
        f"| {rule.operator_sees} |"
        for rule in RULES
    ]
    return "\n".join(lines) + "\n"
