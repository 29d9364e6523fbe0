"""Folds a seed anew from all held facts about it (ADR 26, section 7).

This is needed when a feed with facts about the seed ends, and when a fact rests on an envelope behind an end. All other
facts are decided on as they arrive.
"""

from __future__ import annotations

from collections.abc import Iterable

from crabnet.core.replica.held import Held, HeldRow, Role
from crabnet.core.replica.records import stated_by, stored_envelope
from crabnet.domain.fold import refold
from crabnet.domain.model import FINAL, Fact, FactKind, SeedStatus
from crabnet.domain.record import EMPTY, Record
from crabnet.domain.state import SeedEvent, assembled
from crabnet.protocol.feed import Feeds


class Rebuilder:
    """Reads feeds and held envelopes and changes neither. Methods raise what ``held`` raises."""

    def __init__(self, feeds: Feeds, held: Held) -> None:
        self._feeds = feeds
        self.held = held

    def is_front(self, fact: Fact) -> bool:
        """True if a fact lies before the end of its author's feed."""
        return self._feeds.is_front(fact.author, fact.seq)

    def fact(self, seed_id: str, envelope_id: str) -> tuple[Fact, Role] | None:
        """A held fact and its role, by its envelope. None if it is not held or states no fact."""
        found = self.held.envelope(seed_id, envelope_id)
        if found is None:
            return None
        fact = stated_by(stored_envelope(found[1]))
        return None if fact is None else (fact, found[0].role)

    def event(self, seed_id: str, before: Record, fact: Fact | None = None, *, torn: bool = False) -> SeedEvent | None:
        """The change of a seed by a new fold, with ``fact`` added if it is given. None if nothing changes.

        ``torn``: ``before`` does not reflect all held facts, because a change of it was journalled only in part.
        """
        after = self._folded(seed_id, before, fact, torn=torn)
        old = {each.ref for each in before.facts()}
        fallen = {each.ref for each in before.fallen}
        new = {each.ref: each for each in after.facts()}
        removed = tuple(sorted(old - new.keys()))
        returned = tuple(sorted(fallen & new.keys()))
        own = None if fact is None or fact.ref in fallen else new.get(fact.ref)
        added = tuple(each for ref, each in new.items() if ref not in old and ref not in fallen and each is not own)
        if not removed and not added and not returned and own is None and after.progress == before.progress:
            return None
        known = {each.ref: each for each in (*before.facts(), *before.fallen)}
        after = assembled(new.values(), after.progress, [each for ref, each in known.items() if ref not in new])
        return SeedEvent(seed_id, own, removed, after.progress, added, returned, (before, after))

    def loses_bids(self, seed_id: str, before: Record, author: str) -> SeedEvent | None:
        """A faster ``event`` for the end of the feed of an author that has only bid on a seed. None in other cases.

        The seed must be another author's, lie before the end of its feed, and have no claim.
        """
        if before.seed is None or before.seed.author == author or not self.is_front(before.seed):
            return None
        if any(row.kind is not FactKind.SEED for row in self.held.about(seed_id, bids=False)):
            return None
        lost = [bid for bid in before.bids if bid.author == author and bid.signed and not self.is_front(bid)]
        if not lost:
            return None
        kept = [fact for fact in before.facts() if fact not in lost]
        after = assembled(kept, before.progress, (*before.fallen, *lost))
        return SeedEvent(seed_id, None, tuple(bid.ref for bid in lost), after.progress, decided=(before, after))

    def _folded(self, seed_id: str, before: Record, fact: Fact | None, *, torn: bool) -> Record:
        known = {each.ref: each for each in (*before.facts(), *before.fallen)}
        if fact is not None:
            known[fact.ref] = fact
        self._load(known, seed_id, self.held.about(seed_id, bids=False))
        after = self._closed(known, seed_id)
        reopened = before.progress.status in FINAL and after.progress.status not in FINAL
        if torn or after is EMPTY or reopened or SeedStatus.DISPUTED in {before.progress.status, after.progress.status}:
            self._load(known, seed_id, self.held.about(seed_id, bids=True))
            after = self._closed(known, seed_id)
        return after

    def _load(self, known: dict[str, Fact], seed_id: str, rows: Iterable[HeldRow]) -> None:
        """Add the facts before the end of their feed. A fact behind an end counts only if another names it."""
        for row in rows:
            if row.envelope_id not in known and self._feeds.is_front(row.author, row.seq):
                found = self.fact(seed_id, row.envelope_id)
                if found is not None:
                    known[row.envelope_id] = found[0]

    def _closed(self, known: dict[str, Fact], seed_id: str) -> Record:
        """Fold the known facts and all facts that they rest on."""
        waiting = [fact.rests_on for fact in known.values()]
        while waiting:
            envelope_id = waiting.pop()
            if not envelope_id or envelope_id in known:
                continue
            found = self.fact(seed_id, envelope_id)
            if found is None or (found[1] is not Role.MAY and self.is_front(found[0])):
                continue  # a fact beyond a cap does not count, like one that is not held
            known[envelope_id] = found[0]
            waiting.append(found[0].rests_on)
        return refold(known.values(), self.is_front)
