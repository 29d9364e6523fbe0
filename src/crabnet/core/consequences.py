"""The consequences of applied envelopes: journal records first, then notices, deadlines and requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from crabnet.core.chores import Chores
from crabnet.core.effects import Effects, EndedClaim, FeedPlace
from crabnet.core.notices import applied_notice, change_notice, ended_notice, fork_notice
from crabnet.core.replica.applied import Applied, Change
from crabnet.core.replica.replica import Replica
from crabnet.core.soft_parts import SoftParts
from crabnet.domain.model import SeedStatus
from crabnet.domain.record import EMPTY
from crabnet.domain.state import Outcome
from crabnet.errors import Reason

IMPORTED: Final = "import"
"""The source of envelopes that did not come from a neighbour."""


class Consequences:
    """Passes changes of ``replica`` on to the soft parts and the chores of the node ``node_id``."""

    def __init__(self, node_id: str, replica: Replica, parts: SoftParts, chores: Chores) -> None:
        self._node_id = node_id
        self._replica = replica
        self._parts = parts
        self._chores = chores
        self._soft = replica.mending.soft

    def hand_over(self, applied: Sequence[Applied], effects: Effects) -> None:
        """Add the journal records of applied envelopes. Call this before anything else is done with them."""
        for item in applied:
            if item.record is not None:
                self.persist(item, item.record, effects)
        self._replica.mending.boundary.close()

    def report(self, item: Applied, source: str, now_ms: int, effects: Effects, *, fetched: bool = False) -> None:
        """Add notices and consequences of one applied envelope. It gives no notice if a ``fetched`` one is parked."""
        meta = item.meta
        with self._soft:
            if not (item.quiet or (fetched and item.parked)):
                effects.notices.append(applied_notice(item, source))
            if item.fork is not None:
                effects.notices.append(fork_notice(item.fork, source))
                if item.fork.author == self._node_id:
                    effects.notices.append(ended_notice(item.fork))
            if item.lacks is not None and meta is not None and item.reason is not Reason.PARKING_FULL:
                self._parts.neighbours.lacks(item.lacks, meta, source, now_ms)
            if meta is not None and meta.v is not None:
                self._parts.neighbours.applied(item, source, now_ms, effects)
        self.follow(item, now_ms, effects)

    def persist(self, item: Applied, record: bytes, effects: Effects) -> None:
        """Journal the record of one envelope, and its place in the batch for the index."""
        if item.row is not None:
            effects.places.append(FeedPlace(item.row, len(effects.records)))
        effects.records.append(record)

    def follow(self, item: Applied, now_ms: int, effects: Effects) -> None:
        """Add the consequences for the seeds that an applied envelope has changed."""
        envelope_id = "" if item.meta is None else item.meta.id
        for change in item.changes:
            self.changed(change, envelope_id, now_ms, effects)
        if item.outcome is Outcome.ACCEPTED and item.seed_id and not item.changes:  # a bid, which changes no progress
            record = self._replica.state.records.get(item.seed_id, EMPTY)
            self._parts.trading.watch(item.seed_id, record, now_ms)

    def changed(self, change: Change, envelope_id: str, now_ms: int, effects: Effects) -> None:
        """Add the consequences of a changed seed."""
        record = self._replica.state.records.get(change.seed_id, EMPTY)
        before, after = change.before, change.after
        self._parts.watch(change.seed_id, record, now_ms)
        if before is not None and before.claim_id is not None and before.claimed_by == self._node_id:
            over = after.claim_id != before.claim_id or after.status not in {SeedStatus.CLAIMED, SeedStatus.RUNNING}
            if over:
                effects.ended_claims.append(EndedClaim(change.seed_id, before.claim_id, after.status))
        self._chores.changed(change.seed_id, record)
        auto = self._parts.trading.goes_on(change.seed_id, record)
        effects.notices.append(change_notice(change, record, envelope_id, self._node_id, auto=auto))
