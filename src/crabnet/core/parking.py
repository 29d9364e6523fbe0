"""Verified envelopes that are ahead of what is held of their feed: bounded, with a time to live."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from crabnet import limits
from crabnet.protocol.admission import Admitted

_Place = tuple[int, str]
"""``seq`` and ``prev``: where an envelope wants to stand. Two envelopes with the same place are a fork."""


class Parked(NamedTuple):
    """An envelope that waits, since when, and where it came from."""

    admitted: Admitted
    parked_at_s: int
    source: str


class Parking:
    """Parked envelopes by author and place. When full, the newest is not taken: it will be asked for again."""

    def __init__(self, ttl_s: int) -> None:
        self._ttl_s = ttl_s
        self._by_author: dict[str, dict[_Place, list[Parked]]] = {}
        self._waiting: OrderedDict[str, Parked] = OrderedDict()
        self._per_author: dict[str, int] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def holds(self, envelope_id: str) -> bool:
        """True if this very envelope waits here."""
        return envelope_id in self._waiting

    def put(self, admitted: Admitted, now_s: int, source: str) -> bool:
        """Park an envelope; False if there is no room."""
        meta = admitted.envelope.meta
        size = len(admitted.envelope.raw)
        number = self._per_author.get(meta.from_, 0)
        if (
            len(self._waiting) >= limits.PARKED_ENVELOPES_MAX
            or number >= limits.PARKED_ENVELOPES_PER_FEED_MAX
            or self._bytes + size > limits.PARKED_BYTES_MAX
        ):
            return False
        parked = Parked(admitted, now_s, source)
        self._by_author.setdefault(meta.from_, {}).setdefault((meta.seq, meta.prev), []).append(parked)
        self._waiting[meta.id] = parked
        self._per_author[meta.from_] = number + 1
        self._bytes += size
        return True

    def take(self, author: str, seq: int, prev: str) -> list[Parked]:
        """Take out what wants to stand at ``seq`` behind ``prev``: one envelope, or the branches of a fork by id."""
        places = self._by_author.get(author, {})
        taken = places.pop((seq, prev), [])
        for parked in taken:
            self._forget(parked)
        if not places:
            self._by_author.pop(author, None)
        return sorted(taken, key=lambda parked: parked.admitted.envelope.meta.id)

    def drop_branch(self, author: str, seq: int, prev: str) -> None:
        """Take out everything that waits behind ``prev``, which will never stand."""
        behind = [(seq, prev)]
        while behind:
            at, before = behind.pop()
            behind.extend((at + 1, parked.admitted.envelope.meta.id) for parked in self.take(author, at, before))

    def _forget(self, parked: Parked) -> None:
        envelope = parked.admitted.envelope
        del self._waiting[envelope.meta.id]
        self._bytes -= len(envelope.raw)
        left = self._per_author[envelope.meta.from_] - 1
        if left:
            self._per_author[envelope.meta.from_] = left
        else:
            del self._per_author[envelope.meta.from_]

    def lowest_seq(self, author: str, above: int) -> int | None:
        """The lowest seq above ``above`` that waits."""
        return min((seq for seq, _ in self._by_author.get(author, {}) if seq > above), default=None)

    def expire(self, now_s: int) -> list[Parked]:
        """Take out what has waited longer than the time to live."""
        expired = []
        while self._waiting:
            parked = next(iter(self._waiting.values()))
            if parked.parked_at_s >= now_s - self._ttl_s:
                break
            meta = parked.admitted.envelope.meta
            places = self._by_author[meta.from_]
            places[(meta.seq, meta.prev)].remove(parked)
            if not places[(meta.seq, meta.prev)]:
                del places[(meta.seq, meta.prev)]
            if not places:
                del self._by_author[meta.from_]
            self._forget(parked)
            expired.append(parked)
        return expired
