"""Finds the facts of a seed that stand: before the end of their feed, or signed by both sides (ADR 26)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from crabnet.domain.lifecycle import Case, broken_rule
from crabnet.domain.model import Bid, Claim, Fact, FactKind, Progress, Run, Seed, TaskResult
from crabnet.domain.record import as_seed
from crabnet.errors import Reason

_K = FactKind
STEPS: Final = frozenset({_K.CLAIM, _K.SETTLE, _K.FORFEIT, _K.CLOSE})
"""Kinds of facts that only the creator of a seed may state."""
_PARENTS: Final = {
    _K.BID: frozenset({_K.SEED}),
    _K.CLAIM: frozenset({_K.BID}),
    _K.STARTED: frozenset({_K.CLAIM}),
    _K.RESULT: frozenset({_K.CLAIM, _K.STARTED}),
    _K.SETTLE: frozenset({_K.RESULT}),
    _K.FORFEIT: frozenset({_K.CLAIM, _K.RESULT}),
    _K.CLOSE: frozenset({_K.CLAIM, _K.SEED}),
    _K.ACKNOWLEDGED: frozenset({_K.SETTLE}),
}


def may_rest_on(fact: Fact, parent: Fact) -> bool:
    """True if a fact may rest on a fact of the parent's kind. These kinds allow only short chains."""
    return parent.kind in _PARENTS.get(fact.kind, frozenset())


def misfit(fact: Fact, parent: Fact) -> Reason | None:
    """Why a fact can never count with this parent, or None if it might count. Depends only on these two facts."""
    if not may_rest_on(fact, parent):
        return Reason.WRONG_PARENT
    body, named = fact.body, parent.body
    if isinstance(body, Bid) and isinstance(named, Seed):
        rule = broken_rule(Case(fact, named, Progress()))
        return None if rule is None else rule.reason
    if isinstance(body, Claim) and isinstance(named, Bid):
        return None if (body.bid_id, body.worker) == (named.id, named.bidder) else Reason.WRONG_PARENT
    if isinstance(body, Run | TaskResult):
        if isinstance(named, Claim):
            worker, claim_id = named.worker, named.id
        elif isinstance(named, Run) and named.renews is None:
            worker, claim_id = parent.author, named.claim_id
        else:
            return Reason.WRONG_PARENT
        if fact.author != worker:
            return Reason.UNAUTHORISED
        return None if body.claim_id == claim_id else Reason.WRONG_PARENT
    if isinstance(named, TaskResult):
        return None if named.worker_failed is (fact.kind is _K.FORFEIT) else Reason.WRONG_PARENT
    return None


def judge_seed(fact: Fact) -> Reason | None:
    """Why a definition is refused, or None if it is not. It must name its author as the seed's creator."""
    rule = broken_rule(Case(fact, as_seed(fact), Progress()))
    return None if rule is None else rule.reason


def _fits(fact: Fact, known: dict[str, Fact]) -> bool:
    """True if a fact and all facts below it in its chain might count. Kinds that fit make short chains."""
    if fact.kind is _K.SEED:
        return judge_seed(fact) is None
    if not fact.rests_on:
        return True
    parent = known.get(fact.rests_on)
    if parent is None or misfit(fact, parent) is not None or not _fits(parent, known):
        return False
    return fact.kind not in STEPS or fact.author == _creator(parent, known)


def _creator(fact: Fact, known: dict[str, Fact]) -> str:
    """The author of the definition at the beginning of a chain."""
    while fact.rests_on:
        fact = known[fact.rests_on]
    return fact.author


class Standing:
    """A set of facts about one seed. It knows which facts rest on which, and which of them stand (ADR 26, section 4).

    A fact that does not fit its parent neither stands nor pins. The same holds for every fact that rests on it.
    """

    def __init__(self, facts: Iterable[Fact], is_front: Callable[[Fact], bool]) -> None:
        known = {fact.ref: fact for fact in facts}
        self.facts = [fact for fact in known.values() if _fits(fact, known)]
        self._is_front = is_front
        self._by_envelope = {fact.envelope: fact for fact in self.facts if fact.envelope}
        self._children: defaultdict[str, list[Fact]] = defaultdict(list)
        for fact in self.facts:
            if fact.rests_on:
                self._children[fact.rests_on].append(fact)
        self._stands: dict[str, bool] = {}

    def in_front(self, fact: Fact) -> bool:
        """True if no known fork concerns a fact, because it lies before the end of its feed, or in no feed."""
        return not fact.signed or not fact.envelope or self._is_front(fact)

    def parent(self, fact: Fact) -> Fact | None:
        """The fact that a fact rests on, or None if that is not in the set or has no envelope."""
        return self._by_envelope.get(fact.rests_on)

    def children(self, fact: Fact) -> list[Fact]:
        """The facts that rest on a fact."""
        return list(self._children[fact.envelope])

    def root(self, fact: Fact) -> Fact:
        """The first fact of the chain of a fact. It is the definition if nothing is missing."""
        parent = self.parent(fact)
        while parent is not None:
            fact, parent = parent, self.parent(parent)
        return fact

    def claim_of(self, fact: Fact) -> Fact | None:
        """The claim that work, or a settlement of work, rests on. None if it is missing."""
        found: Fact | None = fact
        while found is not None and found.kind is not _K.CLAIM:
            found = self.parent(found)
        return found

    def stands(self, fact: Fact) -> bool:
        """True if a fact stands: it is in the front of its feed, or pinned.

        The recursion ends, because facts name each other by hash and so cannot form a cycle.
        """
        known = self._stands.get(fact.ref)
        if known is None:
            known = self.in_front(fact) or any(
                self._pins(child, fact) and self.stands(child) for child in self._children[fact.envelope]
            )
            self._stands[fact.ref] = known
        return known

    def _pins(self, child: Fact, fact: Fact) -> bool:
        """True if the author of ``child``, which rests on ``fact``, has the role for this step in the chain."""
        match fact.kind, child.kind:
            case _K.SEED, _K.BID:
                return child.author != fact.author
            case (_K.BID, _K.CLAIM) | (_K.RESULT, _K.SETTLE | _K.FORFEIT):
                root = self.root(fact)
                return root.kind is _K.SEED and child.author == root.author
            case (_K.CLAIM, _K.STARTED | _K.RESULT) | (_K.STARTED, _K.RESULT):
                return True  # ``misfit`` refuses work by any author but the claim's worker
            case _K.SETTLE, _K.ACKNOWLEDGED:
                claim = self.claim_of(fact)
                return claim is not None and isinstance(claim.body, Claim) and child.author == claim.body.worker
        return False
