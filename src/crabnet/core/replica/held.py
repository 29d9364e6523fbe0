"""Access of a replica to held envelopes that are not in memory: by place, by id, and by seed."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from enum import IntEnum
from typing import Protocol

from msgspec import Struct

from crabnet.domain.model import FactKind


class Role(IntEnum):
    """Whether a fact may ever count.

    - NEVER: it can never count, because it breaks a rule by itself.
    - CAPPED: it exceeds a cap and does not count while it lies before the end of its feed.
    - MAY: it may count.
    - NOTHING: the envelope states no fact, for example because it rests on an envelope of a wrong kind. Otherwise
      chains could have any length.
    """

    NOTHING = -1
    NEVER = 0
    CAPPED = 1
    MAY = 2


class HeldRow(Struct, frozen=True, gc=False):
    """A held envelope. ``parent`` is the id of the envelope that it rests on.

    ``seed_id`` and ``kind`` are "" and None for an envelope that states no fact, and for mere evidence of a fork.
    """

    author: str
    seq: int
    envelope_id: str
    seed_id: str = ""
    kind: FactKind | None = None
    parent: str = ""
    role: Role = Role.NEVER


class Held(Protocol):
    """All held envelopes, however old. Methods may read the disk. They raise CrabnetError if they cannot read it."""

    def id_at(self, author: str, seq: int, /) -> str | None:
        """The id of the envelope at a place before the end of its feed."""
        ...

    def envelope(self, seed_id: str, envelope_id: str, /) -> tuple[HeldRow, bytes] | None:
        """An envelope about a seed, by its id."""
        ...

    def about(self, seed_id: str, /, *, bids: bool) -> list[HeldRow]:
        """The facts about a seed that MAY count: its bids, or all facts but the bids."""
        ...

    def seeds_from(self, author: str, seq: int, limit: int, /) -> list[tuple[int, str]]:
        """(seq, seed) of the facts of an author from a place on, in order, at most ``limit``, without role NEVER."""
        ...

    def add(self, row: HeldRow, raw: bytes, /) -> None:
        """Add an envelope. It must be found from now on, even before it is durable."""
        ...


class MemoryHeld:
    """``Held`` in memory, for replicas without a journal."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[HeldRow, bytes]] = {}
        self._places: defaultdict[str, dict[int, str]] = defaultdict(dict)
        self._facts: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        self._about: defaultdict[str, dict[str, HeldRow]] = defaultdict(dict)

    def id_at(self, author: str, seq: int) -> str | None:
        """See ``Held``."""
        return self._places[author].get(seq)

    def envelope(self, seed_id: str, envelope_id: str) -> tuple[HeldRow, bytes] | None:
        """See ``Held``."""
        found = self._rows.get(envelope_id)
        return found if found is not None and found[0].seed_id == seed_id else None

    def about(self, seed_id: str, *, bids: bool) -> list[HeldRow]:
        """See ``Held``."""
        rows = self._about[seed_id].values()
        return [row for row in rows if (row.kind is FactKind.BID) is bids and row.role is Role.MAY]

    def seeds_from(self, author: str, seq: int, limit: int) -> list[tuple[int, str]]:
        """See ``Held``."""
        facts = self._facts[author]
        first = bisect_left(facts, (seq, ""))
        return facts[first : first + limit]

    def add(self, row: HeldRow, raw: bytes) -> None:
        """See ``Held``."""
        known = self._rows.get(row.envelope_id)
        if row.role and (known is None or not known[0].role):
            insort(self._facts[row.author], (row.seq, row.seed_id))
        self._rows[row.envelope_id] = (row, raw)
        self._places[row.author].setdefault(row.seq, row.envelope_id)
        if row.seed_id:
            self._about[row.seed_id][row.envelope_id] = row


class NothingHeld:
    """``Held`` for a replay. A replay decides nothing, so it needs no answers."""

    def id_at(self, _author: str, _seq: int, /) -> str | None:
        """See ``Held``."""
        return None

    def envelope(self, _seed_id: str, _envelope_id: str, /) -> tuple[HeldRow, bytes] | None:
        """See ``Held``."""
        return None

    def about(self, _seed_id: str, /, **_: bool) -> list[HeldRow]:
        """See ``Held``."""
        return []

    def seeds_from(self, _author: str, _seq: int, _limit: int, /) -> list[tuple[int, str]]:
        """See ``Held``."""
        return []

    def add(self, _row: HeldRow, _raw: bytes, /) -> None:
        """See ``Held``."""
