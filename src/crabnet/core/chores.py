"""The facts that a node states by itself: results of interrupted runs, acknowledgements, and steps at deadlines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from crabnet import limits
from crabnet.core.commands import Acknowledge, FinishRun, Operation
from crabnet.core.effects import Effects, FieldValue, Notice
from crabnet.core.mending import Containment, Mending
from crabnet.core.moves import Move
from crabnet.core.notices import refused_notice
from crabnet.core.soft_parts import SoftParts
from crabnet.domain.model import FactKind, Failure, SeedStatus, Termination, TerminationCause
from crabnet.domain.record import EMPTY, Record
from crabnet.domain.state import State
from crabnet.errors import CrabnetError, Reason

_EMPTY_OUTPUT_HASH: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_SETTLED: Final = frozenset({SeedStatus.ACCEPTED, SeedStatus.REJECTED})


class Chores:
    """Does this work. ``operate`` carries an operation out. Settlements are acknowledged only if ``talk`` is true."""

    def __init__(
        self,
        node_id: str,
        state: State,
        parts: SoftParts,
        mending: Mending,
        operate: Callable[[Operation, int, Effects], None],
        *,
        talk: bool,
    ) -> None:
        self._node_id = node_id
        self._state = state
        self._parts = parts
        self._mending = mending
        self._operate = operate
        self._talk = talk
        self._interrupted: list[str] = []
        self._unacknowledged: dict[str, None] = {}

    def found(self, seed_id: str, record: Record) -> None:
        """Call this at the start for every loaded seed. It finds interrupted runs and missing acknowledgements."""
        progress = record.progress
        if progress.status is SeedStatus.RUNNING and progress.claimed_by == self._node_id:
            self._interrupted.append(seed_id)
        self.changed(seed_id, record)

    def changed(self, seed_id: str, record: Record) -> None:
        """Call this for every seed that has changed."""
        if self._is_to_be_acknowledged(record):
            self._unacknowledged[seed_id] = None

    def _is_to_be_acknowledged(self, record: Record) -> bool:
        """True if another node has settled this node's work in a signed envelope that is not yet acknowledged."""
        progress, me = record.progress, self._node_id
        if progress.claimed_by != me or progress.status not in _SETTLED or not self._talk:
            return False
        if record.seed is None or record.seed.author == me:
            return False  # publisher and worker are the same node
        kinds = {fact.kind for fact in record.others if fact.signed}
        return FactKind.SETTLE in kinds and FactKind.ACKNOWLEDGED not in kinds

    def do(self, now_ms: int, effects: Effects) -> None:
        """State all facts that are due. Call this only while the node may write into its own feed."""
        self.record_interrupted(now_ms, effects)
        self._take(self._parts.sweeps(now_ms), now_ms, effects)
        self.trade(now_ms, effects)

    @property
    def acknowledges(self) -> bool:
        """True if settlements wait for their acknowledgements."""
        return bool(self._unacknowledged)

    def trade(self, now_ms: int, effects: Effects) -> None:
        """Acknowledge settlements, and take the steps that policies ask for.

        Call this only while the node may write into its own feed.
        """
        self._acknowledge(now_ms, effects)
        self._take(self._parts.trading.moves(now_ms), now_ms, effects)

    def _take(self, moves: Sequence[Move], now_ms: int, effects: Effects) -> None:
        for move in moves:
            if move.wish is not None and not self._try(move.wish, now_ms, effects):
                self._parts.again(move, now_ms)
                continue
            if move.notice is not None:
                effects.notices.append(move.notice)
            if move.check is not None:
                effects.checks.append(move.check)

    def record_interrupted(self, now_ms: int, effects: Effects) -> None:
        """Publish results for the runs that were interrupted when the node stopped."""
        interrupted, self._interrupted = self._interrupted, []
        for seed_id in interrupted:
            progress = self._state.records.get(seed_id, EMPTY).progress
            if progress.status is not SeedStatus.RUNNING:
                continue
            fields: dict[str, FieldValue] = {
                "seed_id": seed_id,
                "claim_id": progress.claim_id,
                "run_id": progress.run_id,
                "reason": Reason.RUN_INTERRUPTED.value,
            }
            effects.notices.append(Notice("run_interrupted", fields))
            result = FinishRun(
                seed_id=seed_id,
                exit_code=limits.EXIT_CODE_INTERRUPTED,
                timed_out=False,
                stdout="",
                stderr="run interrupted: the worker's node stopped while the command ran; it was not run again",
                output_hash=_EMPTY_OUTPUT_HASH,
                duration_ms=0,
                termination=Termination(cause=TerminationCause.INTERRUPTED),
                failed=Failure.WORKER,
            )
            self._try(result, now_ms, effects)

    def _acknowledge(self, now_ms: int, effects: Effects) -> None:
        waiting, self._unacknowledged = self._unacknowledged, {}
        for seed_id in waiting:
            if self._is_to_be_acknowledged(self._state.records.get(seed_id, EMPTY)):
                self._try(Acknowledge(seed_id=seed_id), now_ms, effects)

    def _try(self, wish: Operation, now_ms: int, effects: Effects) -> bool:
        """Do an operation. Returns False if it is refused, and adds a notice about that."""
        try:
            with Containment(self._mending, type(wish).__name__):
                self._operate(wish, now_ms, effects)
        except CrabnetError as error:
            effects.notices.append(refused_notice(type(wish).__name__, error))
            return False
        finally:
            effects.reply = None
        return True
