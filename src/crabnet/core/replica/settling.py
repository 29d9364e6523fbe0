"""What follows from the end of a feed: the seeds that it concerns are folded anew, a few at a time (ADR 26)."""

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
    """What is to change about a seed that was folded anew, None if nothing; its row if it came out of the archive."""

    seed_id: str
    event: SeedEvent | None
    readmitted: tuple[Raw, ...] = ()

    @property
    def counts(self) -> bool:
        """True if the fact counts with which the seed was folded."""
        return self.event is not None and self.event.fact is not None


class Settling:
    """Feeds whose end is not worked off. Changes the state, and says in journal records what it has changed."""

    def __init__(
        self, state: State, feeds: Feeds, archived: ArchivedSeeds, rebuilder: Rebuilder, mending: Mending
    ) -> None:
        self._state = state
        self._feeds = feeds
        self._archived = archived
        self._rebuilder = rebuilder
        self._mending = mending
        self._from_seq: dict[str, int] = {}
        """author -> the seq from which on the consequences of its feed's end are still to be drawn"""
        self.unfolded: dict[str, None] = {}
        """Seeds that a replay has left between an envelope that pins and what follows from it, or in the midst of
        that."""

    @property
    def pending(self) -> bool:
        """True if ``settle_some`` would have something to do."""
        return bool(self._from_seq)

    def begin(self, author: str, seq: int) -> None:
        """A feed ends at ``seq``."""
        self._from_seq[author] = seq

    def settle_some(self, seeds_max: int, now_s: int) -> list[Applied]:
        """Draw some of the consequences of feeds that have ended: those for at most ``seeds_max`` facts.

        Raises CrabnetError when what is held cannot be read, and whatever a fold raises; nothing is lost by that.
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
            except Exception:  # mostly, what is held cannot be read now: others go on
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
        """Draw all consequences at once."""
        applied: list[Applied] = []
        while self.pending:
            applied += self.settle_some(limits.SETTLED_AT_ONCE_MAX, now_s)
        return applied

    def _behind(self, author: str, first: int, below: int, most: int) -> tuple[dict[str, int], int]:
        """Seeds that facts of an author are about, with the place of the first of these, from ``first`` on, ``below`` a
        place if that is not 0. Mostly those of ``most`` facts, but all of a place; then the last place, 0 if these are
        all.
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
        """To be called once after the replica was loaded: what was not all journalled is taken up again.

        Raises CrabnetError when what is held cannot be read. A seed whose fold fails otherwise stays as it is.
        """
        self._from_seq = {feed.author: feed.end for feed in self._feeds.unsettled()}
        unfolded, self.unfolded = self.unfolded, {}
        applied: list[Applied] = []
        for seed_id in unfolded:
            try:
                fold = self.fold(seed_id, torn=True)
            except CrabnetError:
                raise
            except Exception as error:  # noqa: BLE001 - one seed is no reason not to start
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
        """Fold a seed anew, with ``fact`` if that is not counted yet; ``torn`` as in ``Rebuilder.event``.

        Changes nothing but that an archived seed comes back into memory, and not even that when it raises.
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
