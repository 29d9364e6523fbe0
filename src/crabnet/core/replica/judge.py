"""Decides on an arriving fact: whether it counts, can never count, or may count later, and whether this needs a fold.

Caps depend on the earlier envelopes of the author's feed (ADR 26, section 3), so the judge uses the index.
"""

from __future__ import annotations

from typing import Final

from msgspec import Raw

from crabnet import limits
from crabnet.core.replica.archived import ArchivedSeeds
from crabnet.core.replica.held import Role
from crabnet.core.replica.rebuilding import Rebuilder
from crabnet.domain.decision import decide, refused_alone
from crabnet.domain.model import FINAL, Fact, FactKind, SeedStatus
from crabnet.domain.record import EMPTY, Record
from crabnet.domain.standing import STEPS
from crabnet.domain.state import Decision, Observe, Outcome, Propose, State
from crabnet.errors import Reason
from crabnet.protocol.admission import Admitted
from crabnet.protocol.envelope import Kind
from crabnet.protocol.feed import Feeds
from crabnet.protocol.payloads import PayloadRefusedError, fact_of


class Judge:
    """Reads the state, the feeds and held envelopes. Its only change is that a seed may come back from the archive."""

    def __init__(self, state: State, feeds: Feeds, archived: ArchivedSeeds, rebuilder: Rebuilder) -> None:
        self._state = state
        self._feeds = feeds
        self._archived = archived
        self._rebuilder = rebuilder

    def needs_fold(self, fact: Fact, parent: Fact) -> bool:
        """True if a fact cannot simply be added after the counting facts, so that its seed must be folded anew.

        It rests on a fact behind an end that does not count yet, or facts held behind an end may belong after it.
        """
        if not self._feeds.any_ended:
            return False
        front = self._rebuilder.is_front(parent)
        if front and fact.kind is FactKind.BID:
            return False
        record = self._state.records.get(fact.seed_id) or self._archived.peek(fact.seed_id) or EMPTY
        if not front and record.find(parent.ref) is None:
            return True
        if fact.kind is FactKind.BID or (fact.kind in STEPS and not _is_by_creator(fact, record)):
            return False
        if any(each.signed and not self._rebuilder.is_front(each) for each in record.others):
            return True
        end = self._feeds.get(fact.author).end
        rows = self._rebuilder.held.about(fact.seed_id, bids=False) if end else []
        return any(row.author == fact.author and row.seq >= end for row in rows)

    def find(self, seed_id: str, envelope_id: str) -> Fact | None:
        """A held fact about a seed, whether or not it counts. None if it is not held."""
        found = self._state.records.get(seed_id, EMPTY).find(envelope_id)
        if found is not None:
            return found
        stored = self._rebuilder.fact(seed_id, envelope_id)
        return None if stored is None else stored[0]

    def judge(self, fact: Fact, parent: Fact | None, now_s: int, *, pins: bool) -> tuple[Decision, tuple[Raw, ...]]:
        """The decision on a fact from the front of a feed, and the rows of archived seeds that come back for it."""
        seed_id = fact.seed_id
        readmitted: tuple[Raw, ...] = ()
        if fact.kind is not FactKind.SEED and seed_id not in self._state.records and not pins:
            readmitted = self._archived.readmit((seed_id,))
        try:
            decision = self._decide(fact, parent, now_s, pins=pins)
        except BaseException:
            self._archived.undo(seed_id, readmitted)
            raise
        if readmitted and not decision.events:
            self._archived.undo(seed_id, readmitted)
            readmitted = ()
        return decision, readmitted

    def propose(self, fact: Fact, denied: frozenset[str], now_s: int) -> Decision:
        """The decision on a fact that this node wants to state."""
        open_seeds = len(self._feeds.get(fact.author).open_seeds)
        decision = decide(self._state, Propose(fact, denied, open_seeds), now_s)
        parent = self._state.records.get(fact.seed_id, EMPTY).find(fact.rests_on)
        if decision.outcome is not Outcome.ACCEPTED or not self._is_excessive(fact, parent):
            return decision
        detail = f"this node has stated all the facts of this kind about seed {fact.seed_id} that one author may state"
        return Decision(Outcome.REJECTED, Reason.TOO_MANY_OWN_STEPS, detail=detail)

    def _decide(self, fact: Fact, parent: Fact | None, now_s: int, *, pins: bool) -> Decision:
        kind = fact.kind
        open_seeds = len(self._feeds.get(fact.author).open_seeds) if kind is FactKind.SEED and fact.signed else 0
        own_bids = self._bids_so_far(fact, parent) if kind is FactKind.BID else 0
        observed = Observe(fact, parent, open_seeds, own_bids)
        decision = refused_alone(self._state.caps, observed) if pins else decide(self._state, observed, now_s)
        if decision is not None and decision.idle:
            return decision
        if fact.signed and self._is_excessive(fact, parent):
            detail = "its author has stated too many facts of this kind about the seed"
            return Decision(Outcome.REJECTED, Reason.TOO_MANY_OWN_STEPS, detail=detail, idle=True)
        return decision or Decision(Outcome.ACCEPTED, None)

    def _bids_so_far(self, fact: Fact, parent: Fact | None) -> int:
        """How many valid bids the author of a bid has made on its seed before.

        The record has all of them if it has only the seed that they rest on, and while bids are still kept.
        """
        record = self._state.records.get(fact.seed_id, EMPTY)
        sole = parent is None or (record.seed is parent and self._rebuilder.is_front(parent))
        if sole and record.progress.status not in FINAL:
            return sum(bid.author == fact.author and bid.seq < fact.seq for bid in record.bids)
        rows = self._rebuilder.held.about(fact.seed_id, bids=True)
        return sum(row.author == fact.author and row.seq < fact.seq for row in rows)

    def _is_excessive(self, fact: Fact, parent: Fact | None) -> bool:
        """True if a step or work exceeds its cap.

        The cap includes all earlier facts of the author, even those that do not count.
        """
        if parent is None or fact.kind in {FactKind.SEED, FactKind.BID}:
            return False
        record = self._state.records.get(fact.seed_id, EMPTY)
        if _is_first(fact, parent, record):
            return False
        kinds, most = _cap_of(fact.kind)
        if fact.seq - _first_said(fact, parent, record) <= most:
            return False  # too few places lie between for that many facts, so the index need not be read
        rows = self._rebuilder.held.about(fact.seed_id, bids=False)
        same = [row for row in rows if row.author == fact.author and row.seq < fact.seq and row.kind in kinds]
        return sum(fact.kind in STEPS or row.parent == fact.rests_on for row in same) >= most


_CAPPED: Final = frozenset({Reason.TOO_MANY_OPEN_SEEDS, Reason.TOO_MANY_OWN_BIDS, Reason.TOO_MANY_OWN_STEPS})
_AT_WORK: Final = frozenset({SeedStatus.CLAIMED, SeedStatus.RUNNING})
"""Statuses in which a result is awaited."""


def _is_first(fact: Fact, parent: Fact, record: Record) -> bool:
    """True for an awaited result or acknowledgement by the worker, so that the index need not be read.

    It is the first one, because an earlier one would count, and none counts. This is the usual case.
    """
    progress = record.progress
    if fact.author != progress.claimed_by:
        return False
    if fact.kind is FactKind.RESULT:
        awaited = record.run or record.claim
        return progress.status in _AT_WORK and awaited is not None and awaited.ref == parent.ref
    if fact.kind is not FactKind.ACKNOWLEDGED or record.find(parent.ref) is None:
        return False
    return all(each.kind is not FactKind.ACKNOWLEDGED for each in record.others)


def _first_said(fact: Fact, parent: Fact, record: Record) -> int:
    """A place of the author's feed after which all facts lie that its cap counts.

    It is the place of its definition, or of its last own step in the chain. It is 0 if that is not in memory.
    """
    step: Fact | None = parent
    while step is not None:
        if step.author == fact.author and (fact.kind not in STEPS or step.kind is FactKind.SEED):
            return step.seq
        step = record.find(step.rests_on) if step.rests_on else None
    return 0


def _cap_of(kind: FactKind) -> tuple[frozenset[FactKind], int]:
    """The kinds that count together towards a cap, and the cap: per seed for steps, per parent envelope for others."""
    if kind in STEPS:
        return STEPS, limits.STEPS_PER_AUTHOR_PER_SEED_MAX
    if kind is FactKind.STARTED:
        return frozenset({kind}), limits.STARTS_PER_AUTHOR_PER_STEP_MAX
    return frozenset({kind}), limits.RESULTS_PER_AUTHOR_PER_STEP_MAX


def _is_by_creator(fact: Fact, record: Record) -> bool:
    return record.seed is None or record.seed.author == fact.author


def stated(admitted: Admitted) -> tuple[Fact | None, Decision | None]:
    """The fact that an envelope states, or the decision on an envelope that states none."""
    if admitted.kind is Kind.UNKNOWN:
        detail = f"kind {admitted.envelope.meta.kind}"
        return None, Decision(Outcome.IGNORED, Reason.UNKNOWN_KIND, detail=detail)
    try:
        return fact_of(admitted.envelope, admitted.kind), None
    except PayloadRefusedError as error:
        return None, Decision(Outcome.REJECTED, error.reason, detail=error.detail)


def role_of(fact: Fact | None, decision: Decision) -> Role:
    """The role of a fact, from the decision on it when it arrived."""
    if fact is None:
        return Role.NOTHING
    if not decision.idle:
        return Role.MAY
    return Role.CAPPED if decision.reason in _CAPPED else Role.NEVER
