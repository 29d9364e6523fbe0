"""Replicas that keep what they journal, for tests of forks, replays and checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from crabnet.core.replica.applied import Applied
from crabnet.core.replica.records import decode_frame, frame_of
from crabnet.core.replica.replica import Replica
from crabnet.core.replica.snapshot import Snapshot, restore
from crabnet.domain.record import EMPTY, Record
from crabnet.domain.state import DEFAULT_CAPS, Caps
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.protocol.envelope import Envelope
from tests.support.envelopes import NOW_S, seed_id_of


def new_replica(caps: Caps = DEFAULT_CAPS) -> Replica:
    """An empty one."""
    return Replica(AdmissionPolicy(), seen_ttl_s=86_400, seen_capacity=100_000, parked_ttl_s=60, caps=caps)


class Journal:
    """A replica and its journal."""

    def __init__(self, caps: Caps = DEFAULT_CAPS) -> None:
        self.caps = caps
        self.replica = new_replica(caps)
        self.records: list[bytes] = []

    def keep(self, applied: Iterable[Applied]) -> list[Applied]:
        """Journal what is to be journalled."""
        kept = list(applied)
        self.records += [each.record for each in kept if each.record is not None]
        return kept

    def tell(self, *envelopes: Envelope) -> list[Applied]:
        """Envelopes come, one by one. What became of each of them, without those that had waited."""
        return [self.keep(self.replica.receive(envelope.raw, NOW_S))[0] for envelope in envelopes]

    def settle(self) -> Journal:
        """Draw all consequences of forks."""
        self.keep(self.replica.settling.settle_all(NOW_S))
        return self

    @property
    def hash(self) -> str:
        """The state hash, once all consequences are drawn."""
        return self.settle().replica.state_hash()

    @property
    def standing(self) -> tuple[str, int, frozenset[str]]:
        """Where it stands: the state hash as it is, how many envelopes wait, and what is lacked."""
        parking = self.replica.parking
        lacking = frozenset(named.envelope_id for named, _ in parking.lacking())
        return self.replica.state_hash(), len(parking), lacking

    def record(self, envelope: Envelope) -> Record:
        """What counts of the seed that an envelope is about."""
        return self.settle().replica.state.records.get(seed_id_of(envelope), EMPTY)

    def status(self, envelope: Envelope) -> str:
        """The status of the seed that an envelope is about; "" if no definition of it stands."""
        record = self.record(envelope)
        return "" if record.seed is None else record.progress.status.value

    def written(self) -> int:
        """Bytes of all records."""
        return sum(map(len, self.records))

    def replayed(self, records: int | None = None) -> Journal:
        """Another one, from the first ``records`` of this journal, with what a start does after that."""
        other = Journal(self.caps)
        other.records = self.records[:records]
        for record in decode_frame(frame_of(other.records)):
            other.replica.replay(record)
        other.keep(other.replica.settling.resume(NOW_S))
        return other

    def restored(self) -> Journal:
        """Another one, from a checkpoint of the present state and the index of the journal."""
        other = Journal(self.caps)
        restore(other.replica, list(Snapshot(self.replica).rows()))
        other.replica.held = copy.deepcopy(self.replica.held)
        other.keep(other.replica.settling.resume(NOW_S))
        return other
