"""Judging commands: ``decide(state, command, now_s)`` reads the state and returns the events that make a command so.

Without clock or I/O. What may follow what, and who may do it, stands in ``lifecycle``.
"""

from __future__ import annotations

import bisect
from typing import Final

import msgspec

from crabnet import limits
from crabnet.domain.fold import judge_last, rebuild, refold
from crabnet.domain.lifecycle import (
    EMPTY,
    RULES,
    Case,
    Entry,
    Record,
    bid_order,
    check_local,
    counting_bids,
    judge_bid,
    other_order,
)
from crabnet.domain.model import (
    EFFECTIVE,
    Fact,
    FactKind,
    Judgement,
    Progress,
    Run,
    Seed,
    SeedStatus,
    TaskResult,
    Verdict,
)
from crabnet.domain.state import (
    Command,
    Decision,
    Observe,
    Outcome,
    Propose,
    Retract,
    SeedEvent,
    State,
    insert_bid,
    insert_other,
)
from crabnet.errors import Reason

_HARMLESS: Final = frozenset({FactKind.STARTED, FactKind.RESULT})
_STEPS: Final = frozenset({FactKind.CLAIM, FactKind.SETTLE, FactKind.FORFEIT, FactKind.CLOSE})


def decide(state: State, command: Command, now_s: int) -> Decision:
    """Judge a command. Reads ``state`` only; ``now_s`` matters to ``Propose`` alone."""
    if isinstance(command, Retract):
        return _decide_retract(state, command)
    fact = command.fact
    before = state.records.get(fact.seed_id, EMPTY)
    if _known(before, fact):
        return Decision(Outcome.IGNORED, Reason.DUPLICATE)
    refused = _check_definition(fact) if fact.kind is FactKind.SEED else None
    if refused is not None:
        return refused
    excess, capped = _check_caps(state, before, fact) if fact.signed else (None, None)
    if capped is not None:
        return capped
    if isinstance(command, Propose):
        if before.seed is None and fact.kind is not FactKind.SEED:
            return Decision(Outcome.REJECTED, Reason.UNKNOWN_SEED, detail=f"no seed {fact.seed_id} is known here")
        rule = check_local(before, fact, now_s, command.shunned)
        if rule is not None:
            return Decision(Outcome.REJECTED, rule.reason, detail=f"refused unless {rule.text}")
    elif before.seed is None and fact.kind is not FactKind.SEED and _orphans_full(state, before, fact.author):
        return _no_room(fact, Reason.UNKNOWN_SEED, fact.seed_id)
    if excess is not None:
        return _in_its_place(before, fact, excess)
    after, judgements = _with(before, fact)
    body = fact.body
    if before.seed is not None and isinstance(body, Run | TaskResult) and body.claim_id:
        dozing = isinstance(command, Observe) and command.dozing
        if _waits(fact, judgements) and (dozing or _waiting_full(before)):
            return _no_room(fact, Reason.UNKNOWN_CLAIM, body.claim_id)
    return _decision(fact, before, after, judgements, proposed=isinstance(command, Propose))


def _no_room(fact: Fact, reason: Reason, waits_for: str) -> Decision:
    """The fact is left out of memory: it sleeps in the journal, or, having no place in a feed, must come again."""
    if not fact.signed:
        return Decision(Outcome.IGNORED, Reason.PARKING_FULL)
    return Decision(Outcome.IGNORED, reason, asleep=waits_for)


def _in_its_place(before: Record, fact: Fact, excess: Fact) -> Decision:
    """A fact that had slept, and comes before one of those that its author may have: the last of them goes."""
    after = rebuild((*(each for each in before.facts() if each is not excess), fact))
    judgements = _changed(before, after)
    event = SeedEvent(fact.seed_id, fact, (excess.key,), judgements, after.progress, (before, after))
    return msgspec.structs.replace(
        _decision(fact, before, after, judgements, proposed=False), events=(event,), detail="it had slept"
    )


def _known(record: Record, fact: Fact) -> bool:
    """True if a fact with this id is held. The id of a signed one follows from its author and seq."""
    if fact.kind is FactKind.SEED:
        return record.seed is not None
    key = fact.key
    if fact.signed:
        entries, order = (record.bids, bid_order) if fact.kind is FactKind.BID else (record.others, other_order)
        at = bisect.bisect_left(entries, order(fact), key=lambda entry: order(entry.fact))
        return at < len(entries) and entries[at].fact.key == key
    return any(entry.fact.key == key for entry in (*record.bids, *record.others))


def _check_caps(state: State, before: Record, fact: Fact) -> tuple[Fact | None, Decision | None]:
    """(What goes, refusal): the first of an author's feed are kept, in every node, whatever has slept meanwhile."""
    caps = state.caps
    if fact.kind is FactKind.SEED:
        if state.open_seeds[fact.author] >= caps.open_seeds_max:
            detail = f"{caps.open_seeds_max} seeds of this author are open; settle or close some"
            return None, Decision(Outcome.REJECTED, Reason.TOO_MANY_OPEN_SEEDS, detail=detail)
    elif fact.kind is FactKind.BID:
        if len(before.bids) >= caps.bids_per_seed_max:
            own = [entry.fact for entry in before.bids if entry.fact.author == fact.author]
            return _beyond(own, fact, caps.bids_per_seed_max, Reason.TOO_MANY_OWN_BIDS)
    elif fact.kind in _STEPS and len(before.others) >= limits.STEPS_PER_AUTHOR_PER_SEED_MAX:
        own = [each.fact for each in before.others if each.fact.author == fact.author and each.fact.kind in _STEPS]
        return _beyond(own, fact, limits.STEPS_PER_AUTHOR_PER_SEED_MAX, Reason.TOO_MANY_OWN_STEPS)
    return None, None


def _beyond(own: list[Fact], fact: Fact, most: int, reason: Reason) -> tuple[Fact | None, Decision | None]:
    if len(own) < most:
        return None, None
    last = max(own, key=lambda each: each.seq)
    if fact.seq < last.seq:
        return last, None
    what = "bids" if fact.kind is FactKind.BID else "claims and settlements"
    return None, Decision(Outcome.REJECTED, reason, detail=f"{len(own)} {what} of this author on this seed are held")


def _orphans_full(state: State, before: Record, author: str) -> bool:
    return (
        state.orphans_total >= limits.ORPHAN_FACTS_MAX
        or state.orphans[author] >= limits.ORPHAN_FACTS_PER_AUTHOR_MAX
        or len(before.bids) + len(before.others) >= limits.WAITING_FACTS_PER_SEED_MAX
    )


def _waits(fact: Fact, judgements: tuple[tuple[str, Judgement], ...]) -> bool:
    return any(key == fact.key and judgement.verdict is Verdict.WAITING for key, judgement in judgements)


def _waiting_full(record: Record) -> bool:
    """True if as many as may wait for parents within one seed do so already."""
    if len(record.others) < limits.WAITING_FACTS_PER_SEED_MAX:
        return False
    waiting = sum(entry.judgement.verdict is Verdict.WAITING for entry in record.others)
    return waiting >= limits.WAITING_FACTS_PER_SEED_MAX


def _check_definition(fact: Fact) -> Decision | None:
    if not isinstance(fact.body, Seed):
        raise TypeError(f"{fact.kind} without a seed")
    for rule in RULES[FactKind.SEED]:
        if not rule.holds(Case(fact, fact.body, Progress())):
            return Decision(Outcome.REJECTED, rule.reason, detail=rule.text)
    return None


def _with(before: Record, fact: Fact) -> tuple[Record, tuple[tuple[str, Judgement], ...]]:
    """The record with one more fact, judged, and all judgements that are new."""
    if fact.kind is FactKind.SEED:
        after = Record(fact) if not before.bids and not before.others else rebuild((fact, *before.facts()))
        return after, _changed(before, after)
    if fact.kind is FactKind.BID:
        judgement = judge_bid(before.definition, fact)
        after = Record(before.seed, insert_bid(before.bids, Entry(fact, judgement)), before.others, before.progress)
        for entry in before.others:
            if entry.judgement.verdict is Verdict.WAITING:
                after = refold(after)
                return after, _changed(before, after)
        return after, ((fact.key, judgement),)
    last = judge_last(before, fact)
    if last is None:
        unjudged = Entry(fact, Judgement(Verdict.WAITING, Reason.UNKNOWN_PARENT))
        after = refold(Record(before.seed, before.bids, insert_other(before.others, unjudged), before.progress))
        return after, _changed(before, after)
    judgement, progress = last
    others = insert_other(before.others, Entry(fact, judgement))
    return Record(before.seed, before.bids, others, progress), ((fact.key, judgement),)


def _changed(before: Record, after: Record) -> tuple[tuple[str, Judgement], ...]:
    if before.bids is after.bids and len(before.others) == len(after.others):
        old: dict[str, Judgement] = {entry.fact.key: entry.judgement for entry in before.others}
        entries: tuple[Entry, ...] = after.others
    else:
        old = {entry.fact.key: entry.judgement for entry in (*before.bids, *before.others)}
        entries = (*after.bids, *after.others)
    return tuple((entry.fact.key, entry.judgement) for entry in entries if old.get(entry.fact.key) != entry.judgement)


def _decision(
    fact: Fact, before: Record, after: Record, judgements: tuple[tuple[str, Judgement], ...], *, proposed: bool
) -> Decision:
    judgement = EFFECTIVE
    for key, new in judgements:
        if key == fact.body.id:
            judgement = new
    if proposed and judgement.verdict is not Verdict.EFFECTIVE:
        status = after.progress.status
        return Decision(Outcome.REJECTED, judgement.reason, detail=_why(fact, judgement, status))
    event = SeedEvent(fact.seed_id, fact, (), judgements, after.progress, (before, after))
    if judgement.verdict is Verdict.WAITING:
        return Decision(Outcome.IGNORED, judgement.reason, (event,))
    if judgement.verdict is Verdict.VOID:
        late = fact.kind in _HARMLESS and judgement.reason is not Reason.UNAUTHORISED
        detail = _why(fact, judgement, after.progress.status)
        return Decision(Outcome.IGNORED if late else Outcome.REJECTED, judgement.reason, (event,), detail)
    if fact.kind is FactKind.BID and not _counts(fact, after):
        return Decision(Outcome.IGNORED, Reason.TOO_MANY_BIDS, (event,))
    return Decision(Outcome.ACCEPTED, None, (event,))


def _counts(bid: Fact, record: Record) -> bool:
    seed = record.definition
    if seed is None or seed.max_bids == 0 or len(record.bids) <= seed.max_bids:
        return True
    return any(known.key == bid.key for known in counting_bids(record))


def _why(fact: Fact, judgement: Judgement, status: SeedStatus) -> str:
    rule = next((rule for rule in RULES[fact.kind] if rule.reason is judgement.reason), None)
    if judgement.reason is Reason.WRONG_STATE:
        return f"seed {fact.seed_id} is {status.value}"
    return "" if rule is None else f"refused unless {rule.text}"


def _decide_retract(state: State, command: Retract) -> Decision:
    events = []
    for seed_id in sorted(command.seed_ids):
        before = state.records.get(seed_id)
        if before is None:
            continue
        kept: list[Fact] = []
        removed: list[Fact] = []
        for fact in before.facts():
            gone = fact.signed and fact.author == command.author and fact.seq >= command.from_seq
            (removed if gone else kept).append(fact)
        if removed:
            after = rebuild(kept)
            keys = tuple(fact.key for fact in removed)
            events.append(SeedEvent(seed_id, None, keys, _changed(before, after), after.progress))
    return Decision(Outcome.ACCEPTED, None, tuple(events))
