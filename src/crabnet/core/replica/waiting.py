"""Access to parked envelopes. An error in the parking place loses only the parked envelopes (ADR 27)."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from crabnet.core.mending import Mending
from crabnet.core.replica.applied import Applied
from crabnet.core.replica.parking import Parked, Parking
from crabnet.core.replica.records import Via
from crabnet.domain.model import Fact
from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.admission import Admitted
from crabnet.protocol.envelope import EnvelopeMeta
from crabnet.protocol.feed import Feeds
from crabnet.protocol.sync import Named


def _knows_everybody(_: str) -> bool:
    return True


class Arrival(Struct, frozen=True, gc=False):
    """An envelope on its way into its feed: when (in seconds), how and from where it arrived."""

    admitted: Admitted
    now_s: int
    via: Via
    source: str


def parked_arrival(admitted: Admitted, arrival: Arrival, source: str) -> Arrival:
    """The arrival of an envelope that was parked and is handled together with ``arrival``."""
    return Arrival(admitted, arrival.now_s, arrival.via, source)


class Waiting:
    """The parking place of a replica. ``knows`` is false for newcomers, which have a shelf of their own."""

    def __init__(self, feeds: Feeds, mending: Mending, *, parked_ttl_s: int) -> None:
        self.parking = Parking(parked_ttl_s)
        self.knows: Callable[[str], bool] = _knows_everybody
        self._feeds = feeds
        self._soft = mending.soft

    def __len__(self) -> int:
        return len(self.parking)

    def park(self, arrival: Arrival, reason: Reason, lacks: Named | None = None) -> Applied:
        meta = arrival.admitted.envelope.meta
        known, parked = self.knows(meta.from_), False
        with self._soft:
            known = known or self.parking.voucher(meta.from_, meta.seq, meta.id, self.knows) is not None
            parked = self.parking.put(arrival.admitted, arrival.now_s, arrival.source, known=known, lacks=lacks)
        detail = f"it is seq {meta.seq}, but this node holds the feed up to {self._feeds.get(meta.from_).head_seq}"
        if lacks is not None:
            detail = (
                f"it rests on envelope {lacks.envelope_id} about seed {lacks.seed_id}, which this node does not hold"
            )
        reason = reason if parked else Reason.PARKING_FULL
        return Applied(Outcome.IGNORED, reason, detail, meta, parked=parked, lacks=lacks)

    def followed(self, meta: EnvelopeMeta) -> bool:
        """True if a later envelope of the same feed is parked."""
        with self._soft:
            return any(seq > meta.seq for seq in self.parking.seqs(meta.from_))
        return False

    def holds(self, envelope_id: str) -> bool:
        with self._soft:
            return self.parking.holds(envelope_id)
        return False

    def lacks(self, envelope_id: str) -> Named | None:
        """The envelope for which a parked envelope waits because it rests on it, or None."""
        with self._soft:
            return self.parking.lacks(envelope_id)
        return None

    def is_named(self, envelope_id: str) -> bool:
        """True if a parked envelope rests on this envelope."""
        with self._soft:
            return self.parking.names(envelope_id)
        return False

    def rival(self, meta: EnvelopeMeta) -> Parked | None:
        with self._soft:
            return self.parking.rival(meta.from_, meta.seq, meta.id)
        return None

    def is_lacking(self, named: Named) -> bool:
        """True if a parked envelope rests on this envelope about this seed."""
        with self._soft:
            return self.parking.lacks_named(named)
        return False

    def freed_by(self, meta: EnvelopeMeta, fact: Fact | None, *, behind: bool) -> list[Parked]:
        """Remove and return the parked envelopes that need not wait any more after this envelope."""
        freed: list[Parked] = []
        if not len(self.parking):
            return freed
        with self._soft:
            if fact is not None:
                freed += self.parking.take_lacking(Named(fact.seed_id, meta.id))
            if not behind:
                freed += self.parking.take_next(meta.from_, meta.seq + 1)
        return freed

    def named_behind(self, evidence: list[Arrival], author: str, seq: int) -> list[Arrival]:
        """The envelopes behind the end of a feed on which parked envelopes rest.

        They come from ``evidence`` and from the parked envelopes of the author from ``seq`` on. All of these parked
        envelopes leave the parking place.
        """
        behind: list[Arrival] = []
        with self._soft:
            for parked in self.parking.take_behind(author, seq):
                behind.append(parked_arrival(parked.admitted, evidence[0], parked.source))
        return [each for each in (*evidence, *behind) if self.is_named(each.admitted.envelope.meta.id)]
