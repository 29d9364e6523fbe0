"""Verified envelopes that are ahead of what is held of their feed: bounded, with a time to live."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from crabnet import limits
from crabnet.protocol.admission import Admitted


class Parked(NamedTuple):
    """An envelope that waits, since when, and where it came from."""

    admitted: Admitted
    parked_at_s: int
    source: str


class Parking:
    """Parked envelopes by author and predecessor. When full, the newest is not taken: it will be asked for again."""

    def __init__(self, ttl_s: int) -> None:
        self._ttl_s = ttl_s
        self._by_author: dict[str, dict[str, Parked]] = {}
        self._order: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._order)

    def holds(self, envelope_id: str) -> bool:
        """True if this very envelope waits here."""
        return envelope_id in self._order

    def put(self, admitted: Admitted, now_s: int, source: str) -> bool:
        """Park an envelope; False if there is no room, or another with the same predecessor waits already."""
        meta = admitted.envelope.meta
        waiting = self._by_author.get(meta.from_, {})
        size = len(admitted.envelope.raw)
        if (
            meta.prev in waiting
            or len(self._order) >= limits.PARKED_ENVELOPES_MAX
            or len(waiting) >= limits.PARKED_ENVELOPES_PER_FEED_MAX
            or self._bytes + size > limits.PARKED_BYTES_MAX
        ):
            return False
        self._by_author.setdefault(meta.from_, {})[meta.prev] = Parked(admitted, now_s, source)
        self._order[meta.id] = (meta.from_, meta.prev)
        self._bytes += size
        return True

    def take(self, author: str, prev: str) -> Parked | None:
        """Take out the envelope that follows ``prev`` in the author's feed."""
        waiting = self._by_author.get(author)
        parked = waiting.pop(prev, None) if waiting is not None else None
        if parked is None:
            return None
        if not waiting:
            del self._by_author[author]
        meta = parked.admitted.envelope.meta
        del self._order[meta.id]
        self._bytes -= len(parked.admitted.envelope.raw)
        return parked

    def lowest_seq(self, author: str, above: int) -> int | None:
        """The lowest seq above ``above`` that waits."""
        waiting = self._by_author.get(author, {})
        return min(
            (seq for parked in waiting.values() if (seq := parked.admitted.envelope.meta.seq) > above), default=None
        )

    def expire(self, now_s: int) -> list[Parked]:
        """Take out what has waited longer than the time to live."""
        expired = []
        while self._order:
            author, prev = next(iter(self._order.values()))
            if self._by_author[author][prev].parked_at_s >= now_s - self._ttl_s:
                break
            parked = self.take(author, prev)
            if parked is not None:
                expired.append(parked)
        return expired
