"""The fold of the facts of a seed to what became of each, and to the seed's progress.

``refold`` makes progress a function of the set of facts, whatever the order of their arrival: the creator's facts count
in the order of its feed, a worker's facts count towards the claim that they name, and a fact whose parent is unknown
waits. ``judge_last`` is the short cut for what mostly comes: a fact behind which nothing waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import structs

from crabnet.domain.lifecycle import (
    BY_CREATOR,
    TRANSITIONS,
    Case,
    Entry,
    Record,
    as_seed,
    bid_order,
    claimed_bid,
    judge,
    judge_bid,
    other_order,
)
from crabnet.domain.model import (
    FINAL,
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


def _void(reason: Reason) -> Judgement:
    return Judgement(Verdict.VOID, reason)


def _waits_for(case: Case) -> Judgement | None:
    """The parent that a creator's fact lacks, when it would be in order otherwise."""
    body = case.fact.body
    if isinstance(body, Claim) and claimed_bid(case) is None:
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
    if not BY_CREATOR.holds(case):
        return _void(BY_CREATOR.reason)
    waits = _waits_for(case) if case.progress.status not in FINAL else None
    if waits is not None and (case.fact.kind is _K.SETTLE or (case.progress.status, case.fact.kind) in TRANSITIONS):
        return waits
    if (case.progress.status, case.fact.kind) not in TRANSITIONS:
        return _void(Reason.WRONG_STATE)
    return judge(case)


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
        attempt=progress.attempt + (closed and progress.status is not _S.OPEN),
        claim_id=None if closed else progress.claim_id,
        claimed_by=None if closed else progress.claimed_by,
        claimed_at=None if closed else progress.claimed_at,
        run_id=None if closed else progress.run_id,
        result_id=None if closed or body.outcome is _S.FORFEITED else progress.result_id,
        settled_at=body.created_at,
        note=body.note,
    )


def _judge_work(case: Case) -> Judgement:
    judgement = judge(case)
    if judgement.verdict is Verdict.EFFECTIVE and (case.progress.status, case.fact.kind) not in TRANSITIONS:
        return _void(Reason.WRONG_STATE)
    return judgement


def _after_work(progress: Progress, fact: Fact) -> Progress:
    done = isinstance(fact.body, TaskResult)
    if progress.status is _S.RUNNING and not done:
        return structs.replace(progress, renewals=progress.renewals + 1, renewed_at=fact.body.created_at)
    return Progress(
        status=_S.DONE if done else _S.RUNNING,
        attempt=progress.attempt,
        claim_id=progress.claim_id,
        claimed_by=progress.claimed_by,
        claimed_at=progress.claimed_at,
        run_id=progress.run_id if done else fact.key,
        result_id=fact.key if done else None,
    )


_STEPS: Final = frozenset({_K.CLAIM, _K.SETTLE, _K.FORFEIT, _K.CLOSE})
_VOIDS_RESULT: Final = frozenset({_K.FORFEIT, _K.CLOSE})
"""A result that crosses one of these on its way is void, in whichever order the two arrive."""


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
            if fact.kind in _VOIDS_RESULT and self.progress.result_id is not None:
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
            judgement = _judge_work(Case(fact, self.seed, self.progress, claim))
            self.judged[fact.key] = judgement
            if judgement.verdict is Verdict.EFFECTIVE:
                self.progress = _after_work(self.progress, fact)

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


def judge_last(record: Record, fact: Fact) -> tuple[Judgement, Progress] | None:
    """The judgement of one more fact, no bid, and the progress with it, without judging the others anew.

    None if the fact may change how others are judged, or does not come last in the order of the fold: then ``refold``.
    """
    seed = record.definition
    if seed is None:
        return None
    idle = _judge_idle(record, fact, seed)
    if idle is not None:
        return idle, record.progress
    for entry in record.others:
        if entry.judgement.verdict is Verdict.WAITING:
            return None
    if fact.kind in _STEPS:
        return _last_step(record, fact, seed)
    return _last_work(record, fact, seed)


def _judge_idle(record: Record, fact: Fact, seed: Seed) -> Judgement | None:
    """The judgement of what strangers can say in any number and nothing waits for: cheap, wherever it comes."""
    body = fact.body
    if isinstance(body, Run | TaskResult):
        for entry in record.others:
            if entry.fact.body.id == body.claim_id:
                return None
        return Judgement(Verdict.WAITING, Reason.UNKNOWN_CLAIM)
    if isinstance(body, Settlement) and fact.author != seed.created_by:
        return _void(Reason.UNAUTHORISED)
    return None


def _last_step(record: Record, fact: Fact, seed: Seed) -> tuple[Judgement, Progress] | None:
    progress = record.progress
    if fact.author != seed.created_by:
        return _void(Reason.UNAUTHORISED), progress
    for entry in record.others:
        if entry.fact.seq >= fact.seq and entry.fact.kind in _STEPS:
            return None
    judgement = _judge_step(Case(fact, seed, progress, None, record))
    if judgement.verdict is not Verdict.EFFECTIVE:
        return judgement, progress
    if fact.kind in _VOIDS_RESULT and progress.result_id is not None:
        return None
    return judgement, _after_step(progress, fact)


def _last_work(record: Record, fact: Fact, seed: Seed) -> tuple[Judgement, Progress] | None:
    progress = record.progress
    body = fact.body
    if not isinstance(body, Run | TaskResult) or progress.claim_id is None or body.claim_id != progress.claim_id:
        return None
    claimed = next((entry.fact for entry in record.others if entry.fact.body.id == progress.claim_id), None)
    if claimed is None or not isinstance(claimed.body, Claim):
        return None
    for entry in record.others:
        other = entry.fact
        if other.kind in _STEPS:
            if other.seq > claimed.seq:
                return None
        elif other.seq >= fact.seq:
            return None
    judgement = _judge_work(Case(fact, seed, progress, claimed.body))
    return judgement, _after_work(progress, fact) if judgement.verdict is Verdict.EFFECTIVE else progress


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
    definition = None if seed is None else as_seed(seed)
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
