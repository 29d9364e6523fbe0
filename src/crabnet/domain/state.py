"""The seeds that a node knows, and the events that change them. ``decision`` makes the events.

This module has no clock and no I/O. ``apply(state, event)`` is total and does not decide anything again. So a replay of
journalled events yields the same state under any later version of the rules (ADR 3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from crabnet import limits
from crabnet.domain.accumulator import Accumulator
from crabnet.domain.model import Fact, FactKind, Progress, SeedStatus
from crabnet.domain.prefixes import resolved
from crabnet.domain.record import EMPTY, Record, bid_order, claimed_bids, other_order
from crabnet.errors import Reason


class Outcome(StrEnum):
    """The verdict on an input, in the three terms of gossipsub."""

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    REJECTED = "rejected"


class Observe(Struct, frozen=True):
    """A verified fact from the front of a feed. ``parent`` is the fact that it rests on, if that is in a feed.

    ``open_seeds`` and ``bids`` count what its author's feed holds up to there: open seeds, and bids on this seed.
    """

    fact: Fact
    parent: Fact | None = None
    open_seeds: int = 0
    bids: int = 0


class Propose(Struct, frozen=True):
    """A fact that this node's operator wants to state. ``LOCAL_RULES`` apply, and the fact must count at once.

    ``denied`` are authors with whom this node makes no new deals, by its policy. ``open_seeds`` is as in ``Observe``.
    """

    fact: Fact
    denied: frozenset[str] = frozenset()
    open_seeds: int = 0


Command = Observe | Propose


class SeedEvent(Struct, frozen=True, gc=False):
    """A decided change of one seed: the facts that start or stop to count, and the new progress.

    ``fact`` is that of the current envelope. ``added`` are other facts that the end of a feed made count. ``returned``
    are fallen facts that count again. ``removed`` are facts that stop to count. ``removed`` and ``returned`` name facts
    by ``Fact.ref`` or by its short form from ``prefixes.shortened``.
    """

    seed_id: str
    fact: Fact | None
    removed: tuple[str, ...]
    progress: Progress
    added: tuple[Fact, ...] = ()
    returned: tuple[str, ...] = ()
    decided: tuple[Record, Record] | None = None
    """The records before and after, so that ``apply`` need not compute the change again. They are not stored."""


class Decision(Struct, frozen=True, gc=False):
    """The answer to a command. ``events`` is empty if nothing changes."""

    outcome: Outcome
    reason: Reason | None
    events: tuple[SeedEvent, ...] = ()
    detail: str = ""
    idle: bool = False
    """True if the fact can never count, because it breaks a rule by itself or exceeds a cap."""


class Caps(Struct, frozen=True):
    """How much one author may state (ADR 17).

    The caps depend only on the author's feed up to the fact, so all nodes with the same caps agree. A fact beyond a cap
    keeps its place in the feed and has no effect.
    """

    open_seeds_max: int = limits.OPEN_SEEDS_PER_AUTHOR_MAX_DEFAULT
    bids_per_seed_max: int = limits.BIDS_PER_AUTHOR_PER_SEED_MAX_DEFAULT


DEFAULT_CAPS: Final = Caps()
_encode_leaf = msgspec.json.Encoder(order="deterministic").encode


class State:
    """All seeds of one namespace. ``records`` are immutable values, so a shallow copy is a consistent snapshot.

    ``outdated`` are seeds in memory of which the archive holds an earlier state. ``erased`` are seeds in the archive
    whose record has been removed.
    """

    def __init__(self, caps: Caps = DEFAULT_CAPS) -> None:
        self.caps = caps
        self.records: dict[str, Record] = {}
        self.counts: Counter[SeedStatus] = Counter()
        self.totals: Counter[FactKind] = Counter()
        self.archived: Counter[SeedStatus] = Counter()
        self.outdated: set[str] = set()
        self.erased: set[str] = set()
        self._accumulator = Accumulator()
        self._dirty: dict[str, Record | None] = {}

    def replace(self, seed_id: str, record: Record | None) -> None:
        """Replace the record of a seed. None removes it."""
        before = self.records.get(seed_id)
        self._dirty.setdefault(seed_id, before)
        if before is not None and record is not None and before.seed is not None and record.seed is not None:
            self._recount(before, record)
        else:
            if before is not None:
                self._count(before, -1)
            if record is not None:
                self._count(record, 1)
        if record is None:
            self.records.pop(seed_id, None)
            _move(seed_id, self.outdated, self.erased)
        else:
            self.records[seed_id] = record
            _move(seed_id, self.erased, self.outdated)

    def evict(self, seed_id: str) -> None:
        """Remove an archived seed from memory. The state hash still covers it."""
        record = self.records.get(seed_id)
        if record is None:
            return
        if seed_id in self._dirty:
            self._rehash(seed_id, self._dirty.pop(seed_id))
        del self.records[seed_id]
        self.outdated.discard(seed_id)
        self._count(record, -1)
        self.archived[record.progress.status] += record.seed is not None

    def readmit(self, seed_id: str, record: Record) -> None:
        """Put a seed from the archive back into memory, unchanged."""
        if seed_id not in self.records:
            self.records[seed_id] = record
            self.outdated.add(seed_id)
            self._count(record, 1)
            self.archived[record.progress.status] -= record.seed is not None

    def _count(self, record: Record, sign: int) -> None:
        if record.seed is None:
            return
        self.counts[record.progress.status] += sign
        self.totals[FactKind.BID] += sign * len(record.bids)
        for fact in record.others:
            self.totals[fact.kind] += sign

    def _recount(self, before: Record, after: Record) -> None:
        """Update the counts by the difference between two records of a seed."""
        if before.progress.status is not after.progress.status:
            self.counts[before.progress.status] -= 1
            self.counts[after.progress.status] += 1
        self.totals[FactKind.BID] += len(after.bids) - len(before.bids)
        if before.others is not after.others:
            start, end = _differing(before.others, after.others)
            for fact in before.others[start : len(before.others) - end]:
                self.totals[fact.kind] -= 1
            for fact in after.others[start : len(after.others) - end]:
                self.totals[fact.kind] += 1

    def hash_pending(self) -> int:
        """The number of seeds that have changed since they were last hashed."""
        return len(self._dirty)

    def hash_some(self, seeds_max: int) -> None:
        """Bring the hash of at most ``seeds_max`` changed seeds up to date. Takes about 20 µs for each."""
        for _ in range(min(seeds_max, len(self._dirty))):
            self._rehash(*self._dirty.popitem())

    def _rehash(self, seed_id: str, before: Record | None) -> None:
        rehash(self._accumulator, seed_id, before, self.records.get(seed_id))

    def unhashed(self) -> tuple[Accumulator, dict[str, Record | None]]:
        """Copies of the accumulator and of the outdated records in it, by seed. A snapshot gives them to ``rehash``."""
        return self._accumulator.copy(), self._dirty.copy()

    def digest(self) -> bytes:
        """SHA-256, 32 bytes, over the records of all seeds (see ``leaf``). It first brings all hashes up to date."""
        self.hash_some(len(self._dirty))
        return self._accumulator.digest()

    def load(self, records: dict[str, Record], accumulated: int | None) -> None:
        """Load the given records. ``accumulated`` is the accumulator's number from a verified checkpoint.

        If it is None, the number is computed anew from the records, as if nothing were archived.
        """
        self.records = records
        self.counts.clear()
        self.totals.clear()
        for record in records.values():
            self._count(record, 1)
        self._dirty = {}
        self._accumulator = Accumulator(1 if accumulated is None else accumulated)
        if accumulated is None:
            self._dirty = dict.fromkeys(records)

    def accumulated(self) -> int:
        """The accumulator's number, for a checkpoint."""
        self.hash_some(len(self._dirty))
        return self._accumulator.value()


def _move(seed_id: str, from_: set[str], to: set[str]) -> None:
    if seed_id in from_:
        from_.remove(seed_id)
        to.add(seed_id)


def _differing(one: tuple[Fact, ...], other: tuple[Fact, ...]) -> tuple[int, int]:
    """The lengths of the common prefix and, in the rest, of the common suffix."""
    shorter = min(len(one), len(other))
    start = end = 0
    while start < shorter and one[start] is other[start]:
        start += 1
    while end < shorter - start and one[-1 - end] is other[-1 - end]:
        end += 1
    return start, end


def rehash(accumulator: Accumulator, seed_id: str, before: Record | None, after: Record | None) -> None:
    """Replace the earlier record of a seed in the accumulator with the present one. Takes about 50 µs."""
    if before is after:
        return
    if before is not None and before.seed is not None:
        accumulator.remove(leaf(seed_id, before))
    if after is not None and after.seed is not None:
        accumulator.add(leaf(seed_id, after))


def leaf(seed_id: str, record: Record) -> bytes:
    """The bytes that the state hash covers of one seed: the seed, its claimed bids, steps, work, and the progress.

    They leave out the other bids, because a node does not keep bids that arrive in a final status. For a disputed seed
    they hold only its id and that status. See docs/PROTOCOL.md, section 16.
    """
    if record.progress.status is SeedStatus.DISPUTED:
        return seed_id.encode() + b"\0disputed"
    covered = Record(record.seed, tuple(claimed_bids(record)), record.others, record.progress)
    return seed_id.encode() + b"\0" + _encode_leaf(covered)


def apply(state: State, event: SeedEvent) -> None:
    """Apply an event. Total: of an event that does not fit the state it applies the part that fits. Raises nothing."""
    before = state.records.get(event.seed_id, EMPTY)
    if event.decided is not None and event.decided[0] is before:
        after = event.decided[1]
    else:
        added = event.added if event.fact is None else (*event.added, event.fact)
        after = _changed(before, event.removed, added, event.returned, event.progress)
    state.replace(event.seed_id, None if after.seed is None and not after.fallen else after)


def _changed(
    before: Record, removed: tuple[str, ...], added: tuple[Fact, ...], returned: tuple[str, ...], progress: Progress
) -> Record:
    known = {fact.ref: fact for fact in (*before.facts(), *before.fallen)}
    counting = {fact.ref: fact for fact in before.facts()}
    for ref in resolved(removed, known) if removed else ():
        counting.pop(ref, None)
    counting.update((ref, known[ref]) for ref in (resolved(returned, known) if returned else ()))
    counting.update((fact.ref, fact) for fact in added)
    fallen = [fact for ref, fact in known.items() if ref not in counting]
    return assembled(counting.values(), progress, fallen)


def assembled(facts: Iterable[Fact], progress: Progress, fallen: Iterable[Fact] = ()) -> Record:
    """The record in which ``facts`` count and ``fallen`` do not."""
    seeds: list[Fact] = []
    bids: list[Fact] = []
    others: list[Fact] = []
    for fact in facts:
        kind = fact.kind
        (seeds if kind is FactKind.SEED else bids if kind is FactKind.BID else others).append(fact)
    seeds.sort(key=other_order)
    bids.sort(key=bid_order)
    others = sorted((*others, *seeds[1:]), key=other_order)
    shelf = tuple(sorted(fallen, key=other_order))
    return Record(seeds[0] if seeds else None, tuple(bids), tuple(others), progress, shelf)
