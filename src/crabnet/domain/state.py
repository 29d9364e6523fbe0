"""The seeds a node knows, and how events change them, without clock or I/O; ``decision`` says which events there are.

``apply(state, event)`` is total and does what the event says without judging again, so that a replay of journalled
events yields the same state under any later version of the rules.
"""

from __future__ import annotations

import bisect
from collections import Counter
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from crabnet import limits
from crabnet.domain.accumulator import Accumulator
from crabnet.domain.lifecycle import (
    EMPTY,
    Entry,
    Record,
    bid_order,
    other_order,
)
from crabnet.domain.model import EFFECTIVE, Fact, FactKind, Judgement, Progress, SeedStatus
from crabnet.errors import Reason


class Outcome(StrEnum):
    """What became of an input, in the three words of gossipsub."""

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    REJECTED = "rejected"


class Observe(Struct, frozen=True):
    """A verified fact of another node, or one's own on its way into the ledger.

    ``dozing``: earlier facts of its author may sleep, so that it must not wait in memory.
    """

    fact: Fact
    dozing: bool = False


class Propose(Struct, frozen=True):
    """A fact that this node's operator wants to state: ``LOCAL_RULES`` apply, and it must take effect at once.

    ``shunned`` are authors with whom this node's policy makes no new deals.
    """

    fact: Fact
    shunned: frozenset[str] = frozenset()


class Retract(Struct, frozen=True):
    """All facts of ``author`` from ``from_seq`` on are void: its feed was found forked there."""

    author: str
    from_seq: int
    seed_ids: frozenset[str]


Command = Observe | Propose | Retract


class SeedEvent(Struct, frozen=True, gc=False):
    """A decided change of one seed: a fact added or facts removed, new judgements by fact id, and the progress."""

    seed_id: str
    fact: Fact | None
    removed: tuple[str, ...]
    judgements: tuple[tuple[str, Judgement], ...]
    progress: Progress
    decided: tuple[Record, Record] | None = None
    """The record that was decided on and what becomes of it, so that ``apply`` need not do it again. Not stored."""


class Decision(Struct, frozen=True, gc=False):
    """The answer to a command. ``events`` is empty when nothing is to be changed."""

    outcome: Outcome
    reason: Reason | None
    events: tuple[SeedEvent, ...] = ()
    detail: str = ""
    asleep: str = ""
    """The object without which the fact means nothing: there is no room to wait for it in memory."""


_CLOSING: Final = frozenset({FactKind.SETTLE, FactKind.CLOSE})
"""What the creator of a seed says last about it. A forfeit may be followed by another claim."""


class Caps(Struct, frozen=True):
    """How much one author may state. Functions of its own feed up to there, so that all nodes with the same caps agree.

    What is beyond keeps its place in the feed and has no effect, for good.
    """

    open_seeds_max: int = limits.OPEN_SEEDS_PER_AUTHOR_MAX_DEFAULT
    bids_per_seed_max: int = limits.BIDS_PER_AUTHOR_PER_SEED_MAX_DEFAULT


DEFAULT_CAPS: Final = Caps()
_encode_leaf = msgspec.json.Encoder(order="deterministic").encode


class State:
    """All seeds of one namespace. ``records`` are immutable values, so a shallow copy is a consistent snapshot.

    ``outdated`` are seeds in memory of which the archive holds an earlier state; ``erased`` are those of them of which
    nothing is left.
    """

    def __init__(self, caps: Caps = DEFAULT_CAPS) -> None:
        self.caps = caps
        self.records: dict[str, Record] = {}
        self.open_seeds: Counter[str] = Counter()
        self.counts: Counter[SeedStatus] = Counter()
        self.totals: Counter[FactKind] = Counter()
        self.orphans: Counter[str] = Counter()
        self.orphans_total = 0
        self.archived: Counter[SeedStatus] = Counter()
        self.outdated: set[str] = set()
        self.erased: set[str] = set()
        self._accumulator = Accumulator()
        self._dirty: dict[str, Record | None] = {}

    def replace(self, seed_id: str, record: Record | None) -> None:
        """Put a record in the place of the present one; None removes it."""
        before = self.records.get(seed_id)
        self._dirty.setdefault(seed_id, before)
        if before is not None and record is not None and before.seed is not None and record.seed is not None:
            self._recount(before, record)
        else:
            if before is not None:
                self._count(before, -1)
                self._count_open(before, -1)
            if record is not None:
                self._count(record, 1)
                self._count_open(record, 1)
        if record is None:
            self.records.pop(seed_id, None)
            _move(seed_id, self.outdated, self.erased)
        else:
            self.records[seed_id] = record
            _move(seed_id, self.erased, self.outdated)

    def evict(self, seed_id: str) -> None:
        """Let a seed leave memory for the archive. The state hash goes on covering it."""
        record = self.records.get(seed_id)
        if record is None:
            return
        if seed_id in self._dirty:
            self._rehash(seed_id, self._dirty.pop(seed_id))
        del self.records[seed_id]
        self.outdated.discard(seed_id)
        self._count(record, -1)
        self.archived[record.progress.status] += 1

    def readmit(self, seed_id: str, record: Record) -> None:
        """Take a seed back from the archive, as it left."""
        if seed_id not in self.records:
            self.records[seed_id] = record
            self.outdated.add(seed_id)
            self._count(record, 1)
            self.archived[record.progress.status] -= 1

    def _count(self, record: Record, sign: int) -> None:
        if record.seed is None:
            for fact in record.facts():
                self.orphans[fact.author] += sign
                self.orphans_total += sign
                if not self.orphans[fact.author]:
                    del self.orphans[fact.author]
        else:
            self.counts[record.progress.status] += sign
            self.totals[FactKind.BID] += sign * len(record.bids)
            for entry in record.others:
                self.totals[entry.fact.kind] += sign

    def _count_open(self, record: Record, sign: int) -> None:
        """Archived seeds count as well: whether one is open is a matter of what was said, not of where it is kept."""
        creator = _creator_of_open(record)
        if creator is not None:
            self.open_seeds[creator] += sign
            if not self.open_seeds[creator]:
                del self.open_seeds[creator]

    def _recount(self, before: Record, after: Record) -> None:
        """The same as counting one out and the other in, by what differs."""
        if before.progress.status is not after.progress.status:
            self.counts[before.progress.status] -= 1
            self.counts[after.progress.status] += 1
        if before.bids is not after.bids:
            self.totals[FactKind.BID] += len(after.bids) - len(before.bids)
        if before.others is not after.others:
            start, end = _differing(before.others, after.others)
            for entry in before.others[start : len(before.others) - end]:
                self.totals[entry.fact.kind] -= 1
            closing = False
            for entry in after.others[start : len(after.others) - end]:
                self.totals[entry.fact.kind] += 1
                closing = closing or entry.fact.kind in _CLOSING
            if closing or len(after.others) <= len(before.others):
                self._count_open(before, -1)
                self._count_open(after, 1)

    def hash_pending(self) -> int:
        """How many seeds have changed since their last hashing."""
        return len(self._dirty)

    def hash_some(self, seeds_max: int) -> None:
        """Bring the hash of at most ``seeds_max`` changed seeds up to date: some 20 µs each."""
        for _ in range(min(seeds_max, len(self._dirty))):
            self._rehash(*self._dirty.popitem())

    def _rehash(self, seed_id: str, before: Record | None) -> None:
        rehash(self._accumulator, seed_id, before, self.records.get(seed_id))

    def unhashed(self) -> tuple[Accumulator, dict[str, Record | None]]:
        """Copies of the accumulator and of what it lacks, by seed as it was hashed: for a snapshot to ``rehash``."""
        return self._accumulator.copy(), self._dirty.copy()

    def digest(self) -> bytes:
        """SHA-256 over all facts of all seeds and what became of them, 32 bytes. Brings all hashes up to date first."""
        self.hash_some(len(self._dirty))
        return self._accumulator.digest()

    def load(self, records: dict[str, Record], accumulated: int | None) -> None:
        """Become the given records. ``accumulated`` is the accumulator's number from a verified checkpoint.

        Without it that is computed anew from the records, as if nothing were archived.
        """
        self.records = records
        self.counts.clear()
        self.totals.clear()
        self.open_seeds.clear()
        self.orphans.clear()
        self.orphans_total = 0
        for record in records.values():
            self._count(record, 1)
            self._count_open(record, 1)
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


def _creator_of_open(record: Record) -> str | None:
    """The author of a signed seed about which it has not said its last word yet."""
    seed = record.seed
    if seed is None or not seed.signed:
        return None
    for entry in record.others:
        if entry.fact.kind in _CLOSING and entry.fact.author == seed.author:
            return None
    return seed.author


def _differing(one: tuple[Entry, ...], other: tuple[Entry, ...]) -> tuple[int, int]:
    """How many entries at the beginning, and of the others at the end, state the same facts."""
    shorter = min(len(one), len(other))
    start = end = 0
    while start < shorter and one[start].fact is other[start].fact:
        start += 1
    while end < shorter - start and one[-1 - end].fact is other[-1 - end].fact:
        end += 1
    return start, end


def rehash(accumulator: Accumulator, seed_id: str, before: Record | None, after: Record | None) -> None:
    """Put a seed as it is in the place of the seed as it was: some 50 µs."""
    if before is after:
        return
    if before is not None and before.seed is not None:
        accumulator.remove(leaf(seed_id, before))
    if after is not None and after.seed is not None:
        accumulator.add(leaf(seed_id, after))


def leaf(seed_id: str, record: Record) -> bytes:
    """What the state hash covers of one seed: the seed, its bids, the other facts that count, and the progress.

    Not what waits or is void: how much of that is in memory depends on what came when. The heads of the feeds say that
    the same was heard.
    """
    others = record.others
    if not all(entry.effective for entry in others):
        others = tuple(entry for entry in others if entry.effective)
        record = Record(record.seed, record.bids, others, record.progress)
    return seed_id.encode() + b"\0" + _encode_leaf(record)


def insert_bid(entries: tuple[Entry, ...], entry: Entry) -> tuple[Entry, ...]:
    """The bids of a record with one more, in their order."""
    order = bid_order(entry.fact)
    if not entries or bid_order(entries[-1].fact) <= order:
        return (*entries, entry)
    at = bisect.bisect(entries, order, key=lambda known: bid_order(known.fact))
    return (*entries[:at], entry, *entries[at:])


def insert_other(entries: tuple[Entry, ...], entry: Entry) -> tuple[Entry, ...]:
    """The other facts of a record with one more, in their order."""
    order = other_order(entry.fact)
    if not entries or other_order(entries[-1].fact) <= order:
        return (*entries, entry)
    at = bisect.bisect(entries, order, key=lambda known: other_order(known.fact))
    return (*entries[:at], entry, *entries[at:])


def apply(state: State, event: SeedEvent) -> None:
    """Make an event so. Total: an event that does not fit the state changes what fits and raises nothing."""
    before = state.records.get(event.seed_id, EMPTY)
    if event.decided is not None and event.decided[0] is before:
        state.replace(event.seed_id, event.decided[1])
        return
    judgements = dict(event.judgements)
    seed, bids, others = before.seed, before.bids, before.others
    if event.removed:
        removed = frozenset(event.removed)
        seed = None if seed is not None and seed.key in removed else seed
        bids = tuple(entry for entry in bids if entry.fact.key not in removed)
        others = tuple(entry for entry in others if entry.fact.key not in removed)
    fact = event.fact
    if fact is not None:
        judgement = judgements.pop(fact.key, EFFECTIVE)
        if fact.kind is FactKind.SEED:
            seed = fact
        elif fact.kind is FactKind.BID:
            bids = insert_bid(bids, Entry(fact, judgement))
        else:
            others = insert_other(others, Entry(fact, judgement))
    if judgements:
        bids = _judged(bids, judgements)
        others = _judged(others, judgements)
    empty = seed is None and not bids and not others
    state.replace(event.seed_id, None if empty else Record(seed, bids, others, event.progress))


def _judged(entries: tuple[Entry, ...], judgements: dict[str, Judgement]) -> tuple[Entry, ...]:
    return tuple(
        Entry(entry.fact, judgements[entry.fact.key]) if entry.fact.key in judgements else entry for entry in entries
    )
