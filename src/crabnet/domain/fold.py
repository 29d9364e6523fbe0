"""Computes the progress of a seed from facts (ADR 26).

``judge`` and ``after`` add one fact to the record in constant time. They are for facts that come in the order of feeds.
``refold`` computes the record again from a set of facts in any order. It is for seeds that the end of a feed concerns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from msgspec import structs

from crabnet.domain.lifecycle import BY_CREATOR, TRANSITIONS, Case, broken_rule
from crabnet.domain.model import (
    FINAL,
    Claim,
    Fact,
    FactKind,
    Progress,
    Run,
    SeedStatus,
    Settlement,
    TaskResult,
)
from crabnet.domain.record import EMPTY, Record, bid_order, names, other_order
from crabnet.domain.standing import STEPS, Standing
from crabnet.errors import Reason

_S = SeedStatus
_K = FactKind

_WORK: Final = frozenset({_K.STARTED, _K.RESULT})
_ON_RESULT: Final = frozenset({_K.SETTLE, _K.FORFEIT})
"""Steps that may rest on a result, and say which result counts if there are several."""
_ENDS_WORK: Final = frozenset({_K.CLAIM, _K.FORFEIT, _K.CLOSE})
"""Facts after which the work on the current claim no longer counts, in whichever order they arrive. A claim is one of
them only behind the end of its creator's feed: the forfeit before it may not count there."""


def judge_bid(record: Record, fact: Fact) -> Reason | None:
    """Why a bid does not count, or None if it does. Depends only on the bid and the definition that it rests on."""
    seed = record.definition
    if seed is None or not names(fact, record.seed, fact.seed_id):
        return Reason.UNKNOWN_SEED
    rule = broken_rule(Case(fact, seed, Progress()))
    return None if rule is None else rule.reason


def judge(record: Record, fact: Fact) -> Reason | None:
    """Why a step or a piece of work does not count after the facts that count already, or None if it does."""
    seed = record.definition
    if seed is None:
        return Reason.UNKNOWN_SEED
    case = Case(fact, seed, record.progress, record)
    progress = record.progress
    if fact.kind in STEPS and not BY_CREATOR.holds(case):
        return BY_CREATOR.reason
    if fact.kind in _WORK:
        body = fact.body
        claim_id = body.claim_id if isinstance(body, Run | TaskResult) else None
        if claim_id is None or not any(each.kind is _K.CLAIM and each.key == claim_id for each in record.others):
            return Reason.UNKNOWN_CLAIM
        if claim_id != progress.claim_id:
            return Reason.WRONG_STATE
    if (progress.status, fact.kind) not in TRANSITIONS:
        return Reason.WRONG_STATE
    rule = broken_rule(case)
    return None if rule is None else rule.reason


def after(record: Record, fact: Fact) -> Record:
    """The record with one more fact that counts."""
    fallen = tuple(each for each in record.fallen if each.ref != fact.ref) if record.fallen else ()
    if fact.kind is _K.SEED:
        return Record(fact, record.bids, record.others, record.progress, fallen)
    if fact.kind is _K.BID:
        bids = record.bids
        bids = (*bids, fact) if not bids or bid_order(bids[-1]) < bid_order(fact) else _sorted((*bids, fact), bid_order)
        return Record(record.seed, bids, record.others, record.progress, fallen)
    others, progress = record.others, record.progress
    if fact.kind in _ENDS_WORK and progress.claim_id is not None:
        ended = tuple(each for each in others if _is_work_on(each, progress.claim_id))
        if ended:
            others = tuple(each for each in others if not _is_work_on(each, progress.claim_id))
            fallen = _sorted((*fallen, *ended), other_order)
    last = not others or other_order(others[-1]) < other_order(fact)
    others = (*others, fact) if last else _sorted((*others, fact), other_order)
    return Record(record.seed, record.bids, others, _progressed(progress, fact), fallen)


def _sorted(facts: tuple[Fact, ...], order: Callable[[Fact], tuple[str | int, ...]]) -> tuple[Fact, ...]:
    return tuple(sorted(facts, key=order))


def _is_work_on(fact: Fact, claim_id: str) -> bool:
    return isinstance(fact.body, Run | TaskResult) and fact.body.claim_id == claim_id


def ended_work(record: Record, fact: Fact) -> tuple[str, ...]:
    """The work, by ``Fact.ref``, that no longer counts once ``fact`` counts."""
    claim_id = record.progress.claim_id
    if fact.kind not in _ENDS_WORK or claim_id is None:
        return ()
    return tuple(each.ref for each in record.others if _is_work_on(each, claim_id))


def _progressed(progress: Progress, fact: Fact) -> Progress:
    body = fact.body
    if isinstance(body, Claim):
        return Progress(
            status=_S.CLAIMED,
            attempt=body.attempt,
            claim_id=body.id,
            claimed_by=body.worker,
            claimed_at=body.created_at,
        )
    if isinstance(body, Settlement):
        return _settled(progress, body)
    if isinstance(body, Run) and progress.status is _S.RUNNING:
        return structs.replace(progress, renewals=progress.renewals + 1, renewed_at=body.created_at)
    if isinstance(body, Run | TaskResult):
        done = isinstance(body, TaskResult)
        return Progress(
            status=_S.DONE if done else _S.RUNNING,
            attempt=progress.attempt,
            claim_id=progress.claim_id,
            claimed_by=progress.claimed_by,
            claimed_at=progress.claimed_at,
            run_id=progress.run_id if done else fact.key,
            result_id=fact.key if done else None,
        )
    return progress


def _settled(progress: Progress, body: Settlement) -> Progress:
    closed = body.outcome is _S.EXPIRED
    settled = body.outcome in {_S.ACCEPTED, _S.REJECTED}
    return Progress(
        status=body.outcome,
        attempt=progress.attempt + (closed and progress.status is not _S.OPEN),
        claim_id=None if closed else progress.claim_id,
        claimed_by=None if closed else progress.claimed_by,
        claimed_at=None if closed else progress.claimed_at,
        run_id=progress.run_id if settled else None,
        result_id=progress.result_id if settled else None,
        settled_at=body.created_at,
        note=body.note,
    )


def refold(facts: Iterable[Fact], is_front: Callable[[Fact], bool]) -> Record:
    """The record of a set of facts about one seed, whatever their order. ``EMPTY`` if no definition stands.

    ``is_front`` returns whether a fact lies before the end of its author's feed. The caller must leave out facts of the
    front that are beyond a cap.
    """
    return _Fold(Standing(facts, is_front)).run()


class _Fold:
    """One walk over the facts of a seed, in the order of ADR 26 section 5."""

    def __init__(self, held: Standing) -> None:
        self._set = held
        self._standing = [fact for fact in held.facts if held.stands(fact)]
        self._record = EMPTY

    def run(self) -> Record:
        seeds = [fact for fact in self._standing if fact.kind is _K.SEED]
        if not seeds:
            return EMPTY
        seeds.sort(key=other_order)
        if len(seeds) == 1:
            return self._followed(seeds[0])
        chains = [self._followed(seed) for seed in seeds]
        self._record = Record(seeds[0])
        facts = [fact for chain in chains for fact in (*chain.bids, *chain.others)]
        return self._disputed("the creator signed two definitions, and others have bid on both", (*facts, *seeds[1:]))

    def _followed(self, seed: Fact) -> Record:
        """The record that follows from one definition."""
        self._record = Record(seed)
        bids = [fact for fact in self._standing if fact.kind is _K.BID and judge_bid(self._record, fact) is None]
        self._record = Record(seed, _sorted(tuple(bids), bid_order))
        steps = [fact for fact in self._standing if fact.kind in STEPS]
        front = [fact for fact in steps if self._set.in_front(fact)]
        behind = [fact for fact in steps if not self._set.in_front(fact) and fact.author == seed.author]
        for fact in sorted(front, key=lambda fact: (fact.seq, fact.envelope)):
            if not self._add(fact) and fact.kind in _ON_RESULT:
                self._settle_behind(fact)
        if behind and self._record.progress.status not in FINAL:
            self._take_behind(behind)
        for fact in sorted(self._standing, key=other_order):
            if fact.kind is _K.ACKNOWLEDGED:
                self._add(fact)
        return self._record

    def _add(self, fact: Fact) -> bool:
        """Add a step if it counts. Add the work on a claim together with the claim."""
        if judge(self._record, fact) is not None:
            return False
        self._claimed(fact)
        return True

    def _claimed(self, fact: Fact) -> None:
        self._record = after(self._record, fact)
        if fact.kind is not _K.CLAIM:
            return
        work = [
            each
            for each in self._standing
            if isinstance(each.body, Run | TaskResult)
            and self._set.in_front(each)
            and (self._set.claim_of(each) is fact or (not each.rests_on and each.body.claim_id == fact.key))
        ]
        for each in sorted(work, key=lambda each: (each.seq, each.envelope)):
            if judge(self._record, each) is None:
                self._record = after(self._record, each)

    def _settle_behind(self, fact: Fact) -> None:
        """Add a settlement or forfeit of a result behind the end of its worker's feed, and the result that it names."""
        result = self._set.parent(fact)
        if result is None or result not in self._standing or result.kind is not _K.RESULT or self._set.in_front(result):
            return
        before = self._record
        started = self._set.parent(result)
        fresh = started is not None and started.kind is _K.STARTED and before.progress.run_id is None
        if started is not None and fresh and judge(before, started) is None:
            self._record = after(before, started)
        for each in (result, fact):
            if judge(self._record, each) is not None:
                self._record = before
                return
            self._record = after(self._record, each)

    def _take_behind(self, behind: list[Fact]) -> None:
        """Add steps behind the end of the creator's feed, each pinned by its worker. No rule chooses between two."""
        claims = [fact for fact in behind if fact.kind is _K.CLAIM]
        settlements = [fact for fact in behind if fact.kind is _K.SETTLE]
        why = _exclusive(claims, settlements)
        for fact in () if why else sorted(claims, key=_by_attempt):
            if self._claim_counts(fact):
                self._claimed(fact)
        for fact in () if why else settlements:
            if self._set.claim_of(fact) is not self._record.claim:
                why = "the creator settled one claim and made another, and both were followed"
            elif not self._add(fact):
                self._settle_behind(fact)
        if why:
            self._record = self._disputed(why, self._chains((*claims, *settlements)))

    def _claim_counts(self, fact: Fact) -> bool:
        claim, progress = fact.body, self._record.progress
        if not isinstance(claim, Claim) or progress.status in FINAL:
            return False
        bid = next((bid for bid in self._record.bids if names(fact, bid, claim.bid_id)), None)
        later = claim.attempt > progress.attempt or (progress.status is _S.OPEN and claim.attempt == progress.attempt)
        return later and bid is not None and bid.author == claim.worker

    def _disputed(self, why: str, chains: Iterable[Fact]) -> Record:
        """The record of a disputed seed: the facts that count without the dispute, and the facts of its chains."""
        record = self._record
        held = {fact.ref: fact for fact in (*record.bids, *record.others, *chains)}
        bids = [fact for fact in held.values() if fact.kind is _K.BID]
        others = [fact for fact in held.values() if fact.kind is not _K.BID and fact is not record.seed]
        seeds = [] if record.seed is None else [record.seed]
        progress = Progress(
            status=_S.DISPUTED,
            attempt=max((fact.body.attempt for fact in others if isinstance(fact.body, Claim | Settlement)), default=1),
            settled_at=max(fact.ts for fact in (*seeds, *held.values())),
            note=why,
        )
        return Record(record.seed, _sorted(tuple(bids), bid_order), _sorted(tuple(others), other_order), progress)

    def _chains(self, steps: Iterable[Fact]) -> Iterable[Fact]:
        """Steps that exclude each other, one fact of the worker that rests on each, and all that these rest on.

        It is only one fact for each step, because an accomplice may make the dispute appear and disappear with each of
        its facts, and each time the node journals the whole result.
        """
        chains: dict[str, Fact] = {}
        for step in steps:
            children = [fact for fact in self._set.children(step) if fact.author == self._worker(step)]
            pins = [fact for fact in children if self._set.stands(fact)]
            link: Fact | None = min(pins, key=other_order, default=step)
            while link is not None and link.ref not in chains:
                chains[link.ref] = link
                link = self._set.parent(link)
        return chains.values()

    def _worker(self, step: Fact) -> str:
        claim = self._set.claim_of(step)
        return claim.body.worker if claim is not None and isinstance(claim.body, Claim) else ""


def _exclusive(claims: list[Fact], settlements: list[Fact]) -> str:
    """Why these steps contradict each other, or "" if they do not."""
    steps = [*claims, *settlements]
    attempts = {fact.body.attempt for fact in claims if isinstance(fact.body, Claim)}
    if len({fact.seq for fact in steps}) < len(steps):
        return "the creator signed two steps for one place of its feed, and both were followed"
    if len(attempts) < len(claims):
        return "the creator claimed two bids in one attempt, and both were followed"
    return "the creator settled twice, and both were acknowledged" if len(settlements) > 1 else ""


def _by_attempt(fact: Fact) -> tuple[int, str]:
    return (fact.body.attempt if isinstance(fact.body, Claim) else 0, fact.envelope)
