"""The lifecycle of a seed: one table of transitions, one table of rules, and the fold of facts to progress.

Who may do what, and when, stands in ``TRANSITIONS`` and ``RULES`` and nowhere else. ``LOCAL_RULES`` holds what a node
demands of its own operator on top: things that depend on the clock or on what this node happens to know, and that other
nodes therefore cannot check alike.

``refold`` makes progress a function of the set of facts, whatever the order of their arrival: the creator's facts count
in the order of its feed, a worker's facts count towards the claim that they name, and a fact whose parent is unknown
waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from msgspec import Struct

from crabnet.domain.model import (
    EFFECTIVE,
    FINAL,
    Bid,
    Claim,
    Fact,
    FactKind,
    Judgement,
    Progress,
    Run,
    Seed,
    SeedStatus,
    Settlement,
    TaskResult,
    Verdict,
)
from crabnet.errors import Reason

_S = SeedStatus
_K = FactKind

TRANSITIONS: Final[dict[tuple[SeedStatus, FactKind], frozenset[SeedStatus]]] = {
    (_S.OPEN, _K.CLAIM): frozenset({_S.CLAIMED}),
    (_S.OPEN, _K.CLOSE): frozenset({_S.EXPIRED}),
    (_S.CLAIMED, _K.STARTED): frozenset({_S.RUNNING}),
    (_S.CLAIMED, _K.RESULT): frozenset({_S.DONE}),
    (_S.CLAIMED, _K.FORFEIT): frozenset({_S.FORFEITED}),
    (_S.RUNNING, _K.RESULT): frozenset({_S.DONE}),
    (_S.RUNNING, _K.FORFEIT): frozenset({_S.FORFEITED}),
    (_S.DONE, _K.SETTLE): frozenset({_S.ACCEPTED, _S.REJECTED}),
    (_S.DONE, _K.FORFEIT): frozenset({_S.FORFEITED}),
    (_S.FORFEITED, _K.CLAIM): frozenset({_S.CLAIMED}),
    (_S.FORFEITED, _K.CLOSE): frozenset({_S.EXPIRED}),
}
"""(status, fact) -> what the status may become. Whatever is absent is refused with ``wrong_state``."""


class Entry(Struct, frozen=True, gc=False):
    """A fact and what became of it."""

    fact: Fact
    judgement: Judgement

    @property
    def effective(self) -> bool:
        """True if the fact counts."""
        return self.judgement.verdict is Verdict.EFFECTIVE


class Record(Struct, frozen=True, gc=False):
    """Everything known about one seed. ``bids`` are sorted by (created_at, id), ``others`` by (author, seq, id)."""

    seed: Fact | None = None
    bids: tuple[Entry, ...] = ()
    others: tuple[Entry, ...] = ()
    progress: Progress = Progress()

    @property
    def definition(self) -> Seed | None:
        """The seed's definition, once it is known."""
        return None if self.seed is None else _as_seed(self.seed)

    def facts(self) -> Iterable[Fact]:
        """Every fact, effective or not."""
        if self.seed is not None:
            yield self.seed
        for entry in self.bids:
            yield entry.fact
        for entry in self.others:
            yield entry.fact


EMPTY: Final = Record()


class Case(NamedTuple):
    """What a rule may look at."""

    fact: Fact
    seed: Seed
    progress: Progress
    claim: Claim | None = None
    record: Record = EMPTY
    now_s: int = 0


class Rule(NamedTuple):
    """A condition, and the Reason of the refusal when it does not hold."""

    reason: Reason
    text: str
    holds: Callable[[Case], bool]


def _as_seed(fact: Fact) -> Seed:
    if not isinstance(fact.body, Seed):
        raise TypeError(f"{fact.kind} is not a seed definition")
    return fact.body


def _bid(case: Case) -> Bid:
    if not isinstance(case.fact.body, Bid):
        raise TypeError(f"{case.fact.kind} is not a bid")
    return case.fact.body


def _claim_of(case: Case) -> Claim:
    if not isinstance(case.fact.body, Claim):
        raise TypeError(f"{case.fact.kind} is not a claim")
    return case.fact.body


def _settlement(case: Case) -> Settlement:
    if not isinstance(case.fact.body, Settlement):
        raise TypeError(f"{case.fact.kind} is not a settlement")
    return case.fact.body


def execution_deadline_ms(seed: Seed, claimed_at_s: int) -> int:
    """When a claim made at ``claimed_at_s`` (seconds) is overdue, in milliseconds since the epoch."""
    return claimed_at_s * 1000 + max(seed.exec_deadline_ms, seed.timeout_ms)


def _claimed_bid(case: Case) -> Entry | None:
    bid_id = _claim_of(case).bid_id
    return next((entry for entry in case.record.bids if entry.fact.body.id == bid_id), None)


def _bid_fits_claim(case: Case) -> bool:
    entry = _claimed_bid(case)
    return entry is not None and entry.effective and entry.fact.author == _claim_of(case).worker


_BY_CREATOR = Rule(
    Reason.UNAUTHORISED, "only the seed's creator may do this", lambda c: c.fact.author == c.seed.created_by
)
_BY_WORKER = Rule(
    Reason.UNAUTHORISED,
    "only the worker of the claim may do this",
    lambda c: c.claim is not None and c.fact.author == c.claim.worker,
)
_THIS_ATTEMPT = Rule(
    Reason.WRONG_STATE,
    "it must name the current attempt",
    lambda c: _settlement(c).attempt == c.progress.attempt and _settlement(c).claim_id == c.progress.claim_id,
)

RULES: Final[dict[FactKind, tuple[Rule, ...]]] = {
    _K.SEED: (Rule(Reason.UNAUTHORISED, "a seed names its author", lambda c: c.fact.author == c.seed.created_by),),
    _K.BID: (
        Rule(Reason.UNAUTHORISED, "a bidder bids for itself", lambda c: c.fact.author == _bid(c).bidder),
        Rule(Reason.PRICE_TOO_LOW, "price is at least min_price", lambda c: _bid(c).price >= c.seed.min_price),
        Rule(
            Reason.DEADLINE_PASSED,
            "made before the bid deadline",
            lambda c: _bid(c).created_at <= c.seed.bid_deadline_ts,
        ),
    ),
    _K.CLAIM: (
        _BY_CREATOR,
        Rule(
            Reason.DEADLINE_PASSED,
            "made before the claim deadline",
            lambda c: _claim_of(c).created_at <= c.seed.claim_deadline_s,
        ),
        Rule(
            Reason.WRONG_STATE,
            "the attempt follows the one before",
            lambda c: _claim_of(c).attempt == c.progress.attempt + (c.progress.status is _S.FORFEITED),
        ),
        Rule(Reason.UNKNOWN_BID, "it names an eligible bid and its bidder", _bid_fits_claim),
    ),
    _K.STARTED: (_BY_WORKER,),
    _K.RESULT: (_BY_WORKER,),
    _K.SETTLE: (
        _BY_CREATOR,
        _THIS_ATTEMPT,
        Rule(
            Reason.UNKNOWN_RESULT,
            "it names the result that counts",
            lambda c: _settlement(c).result_id == c.progress.result_id,
        ),
    ),
    _K.FORFEIT: (
        _BY_CREATOR,
        _THIS_ATTEMPT,
        Rule(
            Reason.NOT_DUE,
            "the execution deadline has passed",
            lambda c: (
                c.progress.claimed_at is not None
                and _settlement(c).created_at * 1000 >= execution_deadline_ms(c.seed, c.progress.claimed_at)
            ),
        ),
    ),
    _K.CLOSE: (_BY_CREATOR,),
}
"""What every node demands of a fact, in this order: functions of facts alone, so that all nodes agree."""


def _bid_has_room(case: Case) -> bool:
    return case.seed.max_bids == 0 or len(counting_bids(case.record)) < case.seed.max_bids


_WORK_IS_DUE = Rule(
    Reason.WRONG_STATE,
    "the claim awaits this",
    lambda c: (c.progress.status, c.fact.kind) in TRANSITIONS,
)

LOCAL_RULES: Final[dict[FactKind, tuple[Rule, ...]]] = {
    _K.BID: (
        Rule(Reason.WRONG_STATE, "the seed is open", lambda c: c.progress.status in {_S.OPEN, _S.FORFEITED}),
        Rule(Reason.DEADLINE_PASSED, "the bid window is open", lambda c: c.now_s <= c.seed.bid_deadline_ts),
        Rule(Reason.TOO_MANY_BIDS, "there is room for one more bid", _bid_has_room),
    ),
    _K.CLAIM: (
        Rule(
            Reason.TOO_MANY_BIDS,
            "the bid is among the max_bids first by (created_at, id)",
            lambda c: _claim_of(c).bid_id in {fact.key for fact in counting_bids(c.record)},
        ),
    ),
    _K.STARTED: (_WORK_IS_DUE,),
    _K.RESULT: (_WORK_IS_DUE,),
    _K.FORFEIT: (
        Rule(
            Reason.WRONG_STATE,
            "no result has come: accept or reject it instead",
            lambda c: c.progress.status is not _S.DONE,
        ),
    ),
}
"""What a node demands of its own operator, on top of ``RULES``."""


def counting_bids(record: Record) -> list[Fact]:
    """The bids that count: of the eligible ones the ``max_bids`` lowest by (created_at, id), and every claimed one."""
    seed = record.definition
    if seed is None:
        return []
    claimed = {
        entry.fact.body.bid_id for entry in record.others if isinstance(entry.fact.body, Claim) and entry.effective
    }
    eligible = [entry.fact for entry in record.bids if entry.effective]
    if seed.max_bids == 0 or len(eligible) <= seed.max_bids:
        return eligible
    return eligible[: seed.max_bids] + [fact for fact in eligible[seed.max_bids :] if fact.key in claimed]


def status_at(record: Record, now_s: int) -> SeedStatus:
    """The status shown at ``now_s``: an open seed past its claim deadline is expired before its creator says so."""
    seed = record.definition
    status = record.progress.status
    if status is _S.OPEN and seed is not None and now_s > seed.claim_deadline_s:
        return _S.EXPIRED
    return status


def check_local(record: Record, fact: Fact, now_s: int) -> Rule | None:
    """The first of ``LOCAL_RULES`` that this node's own fact breaks."""
    seed = record.definition
    if seed is None:
        return None
    case = Case(fact, seed, record.progress, None, record, now_s)
    return next((rule for rule in LOCAL_RULES.get(fact.kind, ()) if not rule.holds(case)), None)


def _broken(case: Case) -> Judgement:
    for rule in RULES[case.fact.kind]:
        if not rule.holds(case):
            return Judgement(Verdict.VOID, rule.reason)
    return EFFECTIVE


def judge_bid(seed: Seed | None, fact: Fact) -> Judgement:
    """The verdict on a bid: a function of the bid and the seed's definition alone."""
    if seed is None:
        return Judgement(Verdict.WAITING, Reason.UNKNOWN_SEED)
    return _broken(Case(fact, seed, Progress()))


def _void(reason: Reason) -> Judgement:
    return Judgement(Verdict.VOID, reason)


def _waits_for(case: Case) -> Judgement | None:
    """The parent that a creator's fact lacks, when it would be in order otherwise."""
    body = case.fact.body
    if isinstance(body, Claim) and _claimed_bid(case) is None:
        return Judgement(Verdict.WAITING, Reason.UNKNOWN_BID)
    if (
        case.fact.kind is _K.SETTLE
        and case.progress.status in {_S.CLAIMED, _S.RUNNING}
        and isinstance(body, Settlement)
        and body.claim_id == case.progress.claim_id
    ):
        return Judgement(Verdict.WAITING, Reason.UNKNOWN_RESULT)
    return None


def _judge_step(case: Case) -> Judgement:
    if not _BY_CREATOR.holds(case):
        return _void(_BY_CREATOR.reason)
    waits = _waits_for(case) if case.progress.status not in FINAL else None
    if waits is not None and (case.fact.kind is _K.SETTLE or (case.progress.status, case.fact.kind) in TRANSITIONS):
        return waits
    if (case.progress.status, case.fact.kind) not in TRANSITIONS:
        return _void(Reason.WRONG_STATE)
    return _broken(case)


def _after_step(progress: Progress, fact: Fact) -> Progress:
    body = fact.body
    if isinstance(body, Claim):
        return Progress(
            status=_S.CLAIMED,
            attempt=body.attempt,
            claim_id=body.id,
            claimed_by=body.worker,
            claimed_at=body.created_at,
        )
    if not isinstance(body, Settlement):
        raise TypeError(f"{fact.kind} is not a step of the creator")
    closed = body.outcome is _S.EXPIRED
    return Progress(
        status=body.outcome,
        attempt=progress.attempt + (closed and progress.status is _S.FORFEITED),
        claim_id=None if closed else progress.claim_id,
        claimed_by=None if closed else progress.claimed_by,
        claimed_at=None if closed else progress.claimed_at,
        run_id=None if closed else progress.run_id,
        result_id=None if closed or body.outcome is _S.FORFEITED else progress.result_id,
        settled_at=body.created_at,
        note=body.note,
    )


_STEPS: Final = frozenset({_K.CLAIM, _K.SETTLE, _K.FORFEIT, _K.CLOSE})


class _Fold:
    """One walk over the facts of a seed whose definition is known."""

    def __init__(self, record: Record, seed: Seed) -> None:
        self.record = record
        self.seed = seed
        self.progress = Progress()
        self.judged: dict[str, Judgement] = {}
        self.void_claims: frozenset[str] = frozenset()

    def run(self) -> Record:
        others = self.record.others
        blocked = False
        steps = [entry.fact for entry in others if entry.fact.kind in _STEPS]
        steps.sort(key=lambda fact: fact.seq)
        for fact in steps:
            if fact.author != self.seed.created_by:
                self.judged[fact.key] = _void(Reason.UNAUTHORISED)
            elif blocked:
                self.judged[fact.key] = Judgement(Verdict.WAITING, Reason.UNKNOWN_PARENT)
            else:
                blocked = self._step(fact)
        self.void_claims = frozenset(
            fact.key for fact in steps if fact.kind is _K.CLAIM and self.judged[fact.key].verdict is Verdict.VOID
        )
        for entry in others:
            if entry.fact.key not in self.judged:
                self.judged[entry.fact.key] = self._unclaimed(entry.fact)
        judged = self.judged
        return Record(
            self.record.seed,
            self.record.bids,
            tuple(
                entry if entry.judgement == judged[entry.fact.key] else Entry(entry.fact, judged[entry.fact.key])
                for entry in others
            ),
            self.progress,
        )

    def _step(self, fact: Fact) -> bool:
        """Judge one fact of the creator; True if it waits, and so all behind it must."""
        judgement = _judge_step(Case(fact, self.seed, self.progress, None, self.record))
        self.judged[fact.key] = judgement
        if judgement.verdict is Verdict.EFFECTIVE:
            if fact.kind is _K.FORFEIT and self.progress.result_id is not None:
                self.judged[self.progress.result_id] = _void(Reason.WRONG_STATE)
            self.progress = _after_step(self.progress, fact)
            if isinstance(fact.body, Claim):
                self._work(fact.body)
        return judgement.verdict is Verdict.WAITING

    def _work(self, claim: Claim) -> None:
        """Apply what the worker of a claim said about it, in the order of its feed."""
        facts = [
            entry.fact
            for entry in self.record.others
            if isinstance(entry.fact.body, Run | TaskResult) and entry.fact.body.claim_id == claim.id
        ]
        facts.sort(key=lambda fact: fact.seq)
        for fact in facts:
            judgement = _broken(Case(fact, self.seed, self.progress, claim))
            if judgement.verdict is Verdict.EFFECTIVE and (self.progress.status, fact.kind) not in TRANSITIONS:
                judgement = _void(Reason.WRONG_STATE)
            self.judged[fact.key] = judgement
            if judgement.verdict is Verdict.EFFECTIVE:
                done = isinstance(fact.body, TaskResult)
                self.progress = Progress(
                    status=_S.DONE if done else _S.RUNNING,
                    attempt=self.progress.attempt,
                    claim_id=self.progress.claim_id,
                    claimed_by=self.progress.claimed_by,
                    claimed_at=self.progress.claimed_at,
                    run_id=self.progress.run_id if done else fact.key,
                    result_id=fact.key if done else None,
                )

    def _unclaimed(self, fact: Fact) -> Judgement:
        body = fact.body
        if isinstance(body, Run | TaskResult) and body.claim_id in self.void_claims:
            return _void(Reason.UNKNOWN_CLAIM)
        return Judgement(Verdict.WAITING, Reason.UNKNOWN_CLAIM)


def refold(record: Record) -> Record:
    """Judge all facts but the bids anew and derive progress from them."""
    seed = record.definition
    if seed is None:
        waiting = Judgement(Verdict.WAITING, Reason.UNKNOWN_SEED)
        return Record(None, record.bids, tuple(Entry(entry.fact, waiting) for entry in record.others), Progress())
    return _Fold(record, seed).run()


def rebuild(facts: Iterable[Fact]) -> Record:
    """The record of a set of facts about one seed, in any order."""
    seed: Fact | None = None
    bids: list[Fact] = []
    others: list[Fact] = []
    for fact in facts:
        if fact.kind is _K.SEED:
            seed = fact
        elif fact.kind is _K.BID:
            bids.append(fact)
        else:
            others.append(fact)
    definition = None if seed is None else _as_seed(seed)
    bids.sort(key=bid_order)
    others.sort(key=other_order)
    unjudged = Judgement(Verdict.WAITING, Reason.UNKNOWN_PARENT)
    return refold(
        Record(
            seed,
            tuple(Entry(fact, judge_bid(definition, fact)) for fact in bids),
            tuple(Entry(fact, unjudged) for fact in others),
        )
    )


def bid_order(fact: Fact) -> tuple[int, str]:
    """Order in which bids count."""
    return (fact.body.created_at or 0, fact.key)


def other_order(fact: Fact) -> tuple[str, int, str]:
    """Order in which the other facts are kept, the same in every node."""
    return (fact.author, fact.seq, fact.key)
