"""One seed in any status, and what may follow."""

from __future__ import annotations

from collections.abc import Callable

from crabnet.domain.fold import refold
from crabnet.domain.lifecycle import CLAIM_HOLDS
from crabnet.domain.model import Fact, FactKind, Progress, SeedStatus
from crabnet.domain.state import Decision, Outcome, State
from crabnet.errors import Reason
from tests.support.facts import CREATOR, RIVAL, WORKER, Scribe, Witness, fronts

S = SeedStatus
K = FactKind


class Story:
    """One seed, its facts, and the state they lead to."""

    def __init__(self, status: SeedStatus = S.OPEN, *, max_bids: int = 0) -> None:
        self.scribe = Scribe()
        self.witness = Witness()
        self.seed = self.tell(self.scribe.seed(max_bids=max_bids)).key
        self.bid = self.tell(self.scribe.bid(self.seed)).key
        self.claim = self.result = ""
        self.settlement: Fact | None = None
        path: dict[SeedStatus, list[Callable[[], object]]] = {
            S.OPEN: [],
            S.EXPIRED: [self.closes],
            S.CLAIMED: [self.claims],
            S.RUNNING: [self.claims, self.starts],
            S.DONE: [self.claims, self.starts, self.returns],
            S.ACCEPTED: [self.claims, self.returns, self.accepts],
            S.REJECTED: [self.claims, self.starts, self.returns, self.rejects],
            S.FORFEITED: [self.claims, self.forfeits],
            S.DISPUTED: [self.claims, self.starts, self.returns, self.forks],
        }
        for step in path[status]:
            step()
        assert self.progress.status is status

    @property
    def state(self) -> State:
        return self.witness.state

    @property
    def progress(self) -> Progress:
        return self.state.records[self.seed].progress

    def observe(self, fact: Fact) -> Decision:
        return self.witness.observe(fact)

    def tell(self, fact: Fact) -> Fact:
        decision = self.observe(fact)
        assert decision.outcome is Outcome.ACCEPTED, decision
        return fact

    def claims(self) -> None:
        self.claim = self.tell(self.fact(K.CLAIM)).key

    def starts(self) -> None:
        self.tell(self.fact(K.STARTED))

    def returns(self) -> None:
        self.result = self.tell(self.fact(K.RESULT)).key

    def accepts(self) -> None:
        self.settlement = self.tell(self.fact(K.SETTLE))

    def rejects(self) -> None:
        self.settlement = self.tell(self.scribe.settle(self.seed, S.REJECTED, self.claim, self.result))

    def forfeits(self) -> None:
        self.tell(self.fact(K.FORFEIT))

    def closes(self) -> None:
        self.tell(self.fact(K.CLOSE))

    def forks(self) -> None:
        """The creator claims another bid in the same place of its feed, and that worker starts as well."""
        self.scribe.fork(CREATOR, 2)
        bid = self.scribe.bid(self.seed, RIVAL)
        claim = self.scribe.claim(self.seed, bid.key, RIVAL)
        self.scribe.started(self.seed, claim.key, RIVAL)
        facts = list(self.scribe.facts)
        self.state.replace(self.seed, refold(facts, fronts(facts)))

    def fact(self, kind: FactKind, author: str | None = None) -> Fact:
        """A fact of this kind that is right in every respect but, perhaps, the status of the seed."""
        scribe, seed, attempt = self.scribe, self.seed, self.progress.attempt
        if kind is K.BID:
            return scribe.bid(seed, author or RIVAL)
        if kind is K.CLAIM:
            attempt += self.progress.status is S.FORFEITED
            return scribe.claim(seed, self.bid, author=author or CREATOR, attempt=attempt)
        if kind is K.STARTED:
            renews = self.progress.run_id if self.progress.status is S.RUNNING else None
            return scribe.started(seed, self.claim or seed, author or WORKER, renews=renews)
        if kind is K.RESULT:
            return scribe.result(seed, self.claim or seed, author or WORKER)
        if kind is K.SETTLE:
            return scribe.settle(seed, S.ACCEPTED, self.claim, self.result, author or CREATOR, attempt=attempt)
        if kind is K.FORFEIT:
            scribe.now_s += 11
            return scribe.settle(seed, S.FORFEITED, self.claim, None, author or CREATOR, attempt=attempt)
        if kind is K.ACKNOWLEDGED:
            about = self.settlement or next(fact for fact in scribe.facts if fact.key == (self.claim or seed))
            return scribe.acknowledges(about, author or WORKER)
        withdrawn = self.progress.claim_id if self.progress.status in CLAIM_HOLDS else None
        return scribe.settle(seed, S.EXPIRED, withdrawn, author=author or CREATOR, attempt=attempt)

    def lacks_parent(self, kind: FactKind) -> bool:
        """True if what such a fact rests on has not been said."""
        if kind in {K.STARTED, K.RESULT, K.FORFEIT}:
            return not self.claim
        return {K.SETTLE: not self.result, K.ACKNOWLEDGED: self.settlement is None}.get(kind, False)

    def refused(self, fact: Fact) -> Reason | None:
        """Why a fact is void; it leaves no trace."""
        before = self.state.records[self.seed]
        decision = self.observe(fact)
        assert decision.outcome is not Outcome.ACCEPTED
        assert decision.events == ()
        assert self.state.records[self.seed] is before
        return decision.reason


ALLOWED = {
    (S.OPEN, K.CLAIM): S.CLAIMED,
    (S.OPEN, K.CLOSE): S.EXPIRED,
    (S.CLAIMED, K.STARTED): S.RUNNING,
    (S.CLAIMED, K.RESULT): S.DONE,
    (S.CLAIMED, K.FORFEIT): S.FORFEITED,
    (S.CLAIMED, K.CLOSE): S.EXPIRED,
    (S.RUNNING, K.STARTED): S.RUNNING,
    (S.RUNNING, K.RESULT): S.DONE,
    (S.RUNNING, K.FORFEIT): S.FORFEITED,
    (S.RUNNING, K.CLOSE): S.EXPIRED,
    (S.DONE, K.SETTLE): S.ACCEPTED,
    (S.DONE, K.FORFEIT): S.FORFEITED,
    (S.DONE, K.CLOSE): S.EXPIRED,
    (S.FORFEITED, K.CLAIM): S.CLAIMED,
    (S.FORFEITED, K.CLOSE): S.EXPIRED,
    (S.ACCEPTED, K.ACKNOWLEDGED): S.ACCEPTED,
    (S.REJECTED, K.ACKNOWLEDGED): S.REJECTED,
}
NO_PROGRESS = {(S.RUNNING, K.STARTED), (S.ACCEPTED, K.ACKNOWLEDGED), (S.REJECTED, K.ACKNOWLEDGED)}
"""What counts and leaves the status as it is."""
STEPS = [kind for kind in K if kind not in {K.SEED, K.BID}]
