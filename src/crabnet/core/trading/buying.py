"""The steps of a publisher that its policies take: claim a bid, settle a result, try again."""

from __future__ import annotations

from crabnet import limits
from crabnet.core.commands import Checked
from crabnet.core.config import CoreConfig
from crabnet.core.deadlines import Agenda
from crabnet.core.moves import Move
from crabnet.core.replica.replica import Replica
from crabnet.domain.record import EMPTY, Record


class Buyer:
    """The open purchases of ``node_id``. It only proposes steps, and ``Core`` does them."""

    def __init__(self, config: CoreConfig, node_id: str, replica: Replica) -> None:
        self._config = config
        self._node_id = node_id
        self._replica = replica
        self._due = Agenda()

    def watch(self, seed_id: str, record: Record, now_ms: int) -> None:
        """Look at a seed that has changed, soon."""
        definition = record.definition
        if definition is not None and definition.created_by == self._node_id:
            self._due.add(now_ms, seed_id)

    def next_ms(self) -> int | None:
        """When the next step may be due, in milliseconds since the epoch. None if nothing is."""
        return self._due.next_ms()

    def moves(self, now_ms: int) -> list[Move]:
        """The steps that are due, at most ``TURN_MOVES_MAX``."""
        moves: list[Move] = []
        for seed_id in self._due.due(now_ms, limits.TURN_MOVES_MAX):
            record = self._replica.state.records.get(seed_id, EMPTY)
            move = self._move(seed_id, record, now_ms)
            if move is not None:
                moves.append(move)
        return moves

    def _move(self, seed_id: str, record: Record, now_ms: int) -> Move | None:  # noqa: ARG002
        return None

    def checked(self, given: Checked, now_ms: int) -> None:
        """Take the outcome of a check that this part has asked for."""
        self._due.add(now_ms, given.seed_id)

    def again(self, move: Move, now_ms: int) -> None:
        """A step was refused. Look at its seed again after SWEEP_RETRY_MS."""
        self._due.add(now_ms + limits.SWEEP_RETRY_MS, move.seed_id)
