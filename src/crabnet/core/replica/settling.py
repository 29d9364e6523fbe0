"""The consequences of the end of a feed: the seeds that it concerns are folded anew, a few at a time (ADR 26)."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Raw

from crabnet import limits
from crabnet.core.mending import JUDGING, Mending
from crabnet.core.replica.applied import Applied, apply_all
from crabnet.core.replica.archived import ArchivedSeeds
from crabnet.core.replica.rebuilding import Rebuilder
from crabnet.core.replica.records import RefoldRecord, SettledRecord, encode_record, event_rows
from crabnet.domain.model import Fact
from crabnet.domain.record import EMPTY
from crabnet.domain.state import Outcome, SeedEvent, State
from crabnet.errors import CrabnetError
from crabnet.protocol.feed import Feeds


class Fold(NamedTuple):
    """The outcome of folding a seed anew. ``event`` is None if nothing changes.

    ``readmitted`` holds the row of the seed if it came out of the archive.
    """

    seed_id: str
    event: SeedEvent | None
    readmitted: tuple[Raw, ...] = ()

    @property
    def counts(self) -> bool:
        """True if the fact that was added to the fold counts."""
        return self.event is not None and self.event.fact is not None


class Settling:
    """Processes the consequences of ended feeds. It changes the state and makes journal records of the changes."""

    def __init__(
        self, state: State, feeds: Feeds, archived: ArchivedSeeds, rebuilder: Rebuilder, mending: Mending
    ) -> None:
        self._state = state
        self._feeds = feeds
        self._archived = archived
        self._rebuilder = rebuilder
        self._mending = mending
        self._from_seq: dict[str, int] = {}
        """author -> the seq from which on the consequences of its feed's end are unprocessed"""
        self.unfolded: dict[str, None] = {}
        """Seeds with an incomplete fold after a replay: the journal has an envelope that pins, or a part of its
        consequences, but not all of them."""

    @property
    def pending(self) -> bool:
        """True if ``settle_some`` would have something to do."""
        return bool(self._from_seq)

    def begin(self, author: str, seq: int) -> None:
        """Begin to process the consequences of a feed that ends at ``seq``."""
        self._from_seq[author] = seq

    def settle_some(self, seeds_max: int, now_s: int) -> list[Applied]:
        """Process some of the consequences of ended feeds: those for about ``seeds_max`` facts.

        Raises CrabnetError if stored data cannot be read, and any error of a fold. The next call retries then.
        """
        boundary = self._mending.boundary
        applied: list[Applied] = []
        for author in list(self._from_seq):
            feed = self._feeds.get(author)
            crossings = boundary.crossings
            try:
                seeds, last = self._behind(author, max(self._from_seq[author], feed.end), feed.settled, seeds_max)
                for seed_id, seq in seeds.items():
                    self._from_seq[author] = seq
                    crossings = boundary.crossings
                    applied += self._resettle(author, seed_id, now_s)
            except Exception:  # usually because stored data cannot be read at the moment: other feeds go on
                if boundary.crossings != crossings:
                    raise
                self._from_seq[author] = self._from_seq.pop(author)
                if not applied:
                    raise
                return applied
            if last:
                self._from_seq[author] = last
                return applied
            del self._from_seq[author]
            boundary.cross()
            self._feeds.settle(author, feed.end)
            record = encode_record(SettledRecord(now_s, author, feed.end))
            applied.append(Applied(Outcome.ACCEPTED, record=record, quiet=True))
            seeds_max -= len(seeds)
            if seeds_max <= 0:
                break
        return applied

    def settle_all(self, now_s: int) -> list[Applied]:
        """Process all consequences at once."""
        applied: list[Applied] = []
        while self.pending:
            applied += self.settle_some(limits.SETTLED_AT_ONCE_MAX, now_s)
        return applied

    def _behind(self, author: str, first: int, below: int, most: int) -> tuple[dict[str, int], int]:
        """The seeds of facts of an author from place ``first`` on, and below place ``below`` if that is not 0.

        Each seed has the place of the first of these facts. It reads ``most`` facts, or more to cover the first place
        completely. The second value is the last place that was read, or 0 if no facts are left.
        """
        rows = self._rebuilder.held.seeds_from(author, first, most)
        while len(rows) == most and rows[0][0] == rows[-1][0]:
            most *= 2
            rows = self._rebuilder.held.seeds_from(author, first, most)
        seeds: dict[str, int] = {}
        for seq, seed_id in rows:
            if not below or seq < below:
                seeds.setdefault(seed_id, seq)
        more = len(rows) == most and (not below or rows[-1][0] < below)
        return seeds, rows[-1][0] if more else 0

    def resume(self, now_s: int) -> list[Applied]:
        """Call this once after the replica was loaded. It resumes work that was not completely journalled.

        Raises CrabnetError if stored data cannot be read. If the fold of a seed fails otherwise, the seed stays as it
        is.
        """
        self._from_seq = {feed.author: feed.end for feed in self._feeds.unsettled()}
        unfolded, self.unfolded = self.unfolded, {}
        applied: list[Applied] = []
        for seed_id in unfolded:
            try:
                fold = self.fold(seed_id, torn=True)
            except CrabnetError:
                raise
            except Exception as error:  # noqa: BLE001 - an error in one seed must not prevent the start
                self._mending.fault(JUDGING, error, b"")
            else:
                applied += self.refolded(fold, now_s)
        return applied

    def _resettle(self, author: str, seed_id: str, now_s: int) -> list[Applied]:
        record = self._state.records.get(seed_id, EMPTY)
        event = self._rebuilder.loses_bids(seed_id, record, author)
        fold = self.fold(seed_id) if event is None else Fold(seed_id, event)
        return self.refolded(fold, now_s)

    def fold(self, seed_id: str, fact: Fact | None = None, *, torn: bool = False) -> Fold:
        """Fold a seed anew, with ``fact`` added if it is given. ``torn`` is as in ``Rebuilder.event``.

        The only change is that an archived seed comes back into memory if the fold changes it. If this raises, it
        changes nothing.
        """
        readmitted = () if seed_id in self._state.records else self._archived.readmit((seed_id,))
        try:
            event = self._rebuilder.event(seed_id, self._state.records.get(seed_id, EMPTY), fact, torn=torn)
        except BaseException:
            self._archived.undo(seed_id, readmitted)
            raise
        if event is None:
            self._archived.undo(seed_id, readmitted)
            readmitted = ()
        return Fold(seed_id, event, readmitted)

    def refolded(self, fold: Fold, now_s: int) -> list[Applied]:
        seed_id, event, readmitted = fold
        if event is None:
            return [Applied(Outcome.ACCEPTED, record=encode_record(RefoldRecord(now_s, (seed_id,), ())), quiet=True)]
        self._mending.boundary.cross()
        changes = apply_all(self._state, (event,))
        rows = event_rows(event)
        applied = []
        for at, row in enumerate(rows):
            last = at == len(rows) - 1
            record = RefoldRecord(now_s, (event.seed_id,) if last else (), (row,), readmitted if at == 0 else ())
            applied.append(
                Applied(
                    Outcome.ACCEPTED,
                    record=encode_record(record),
                    seed_id=event.seed_id,
                    changes=changes if last else (),
                    quiet=True,
                )
            )
        return applied
