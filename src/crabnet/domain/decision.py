"""Decides commands. ``decide(state, command, now_s)`` reads the state and returns the events that carry a command out.

This module has no clock and no I/O. The rules (allowed transitions, and the roles that may make them) are in
``lifecycle`` (docs/PROTOCOL.md, section 10).
"""

from __future__ import annotations

from typing import Final

from crabnet.domain.fold import after, ended_work, judge, judge_bid
from crabnet.domain.lifecycle import RULES, TRANSITIONS, Case
from crabnet.domain.local_rules import check_local
from crabnet.domain.model import FINAL, Fact, FactKind, Progress, Run, Seed, TaskResult
from crabnet.domain.record import EMPTY, Record, counting_bids
from crabnet.domain.standing import STEPS, judge_seed, misfit
from crabnet.domain.state import Caps, Command, Decision, Observe, Outcome, Propose, SeedEvent, State
from crabnet.domain.wording import NEEDS, standing_of
from crabnet.errors import Reason

_TOO_LATE: Final = frozenset({Reason.WRONG_STATE, Reason.UNKNOWN_CLAIM, Reason.LIMIT_EXCEEDED})
"""Reasons for which bids and work of an honest author may be void: the author may not have known the present state."""
_WORK: Final = frozenset({FactKind.STARTED, FactKind.RESULT})
_TOO_EARLY: Final = frozenset({Reason.UNKNOWN_BID, Reason.UNKNOWN_RESULT, Reason.WRONG_STATE})
"""Reasons for which an unsigned fact is refused if it arrives before the fact that it rests on. No feed orders it."""


def decide(state: State, command: Command, now_s: int) -> Decision:
    """Decide a command. It only reads ``state``. ``now_s``, in seconds, matters only for ``Propose``."""
    fact = command.fact
    before = state.records.get(fact.seed_id, EMPTY)
    if isinstance(command, Propose):
        refused = _refused_here(before, command, now_s)
        if refused is not None:
            return refused
    else:
        refused = refused_alone(state.caps, command)
        if refused is not None:
            return refused
    match fact.kind:
        case FactKind.SEED:
            return _decide_seed(state.caps, before, command)
        case FactKind.BID:
            return _decide_bid(state.caps, before, command)
    if _is_known(before, fact):
        return Decision(Outcome.IGNORED, Reason.DUPLICATE)
    reason = judge(before, fact)
    if reason is not None:
        return _void(fact, before, reason, idle=reason is Reason.UNAUTHORISED and fact.kind in STEPS)
    return _counts(before, fact)


def refused_alone(caps: Caps, observed: Observe) -> Decision | None:
    """The refusal of a fact that can never count, whatever else the node holds.

    It depends only on the fact, the fact that it rests on, and its author's feed up to there. The answer is None if the
    fact may count, or if the fact that it rests on is not in a feed.
    """
    fact, parent = observed.fact, observed.parent
    if parent is None:
        return None
    reason = misfit(fact, parent)
    if reason is not None:
        return _void(fact, Record(parent) if parent.kind is FactKind.SEED else EMPTY, reason, idle=True)
    return _too_many_bids(caps, fact, observed.bids) if fact.kind is FactKind.BID else None


def _too_many_bids(caps: Caps, fact: Fact, own: int) -> Decision | None:
    if not fact.signed or own < caps.bids_per_seed_max:
        return None
    detail = f"this author already has {own} bids on this seed, at most {caps.bids_per_seed_max} are allowed"
    return Decision(Outcome.REJECTED, Reason.TOO_MANY_OWN_BIDS, detail=detail, idle=True)


def _refused_here(before: Record, command: Propose, now_s: int) -> Decision | None:
    fact = command.fact
    if before.seed is None and fact.kind is not FactKind.SEED:
        return Decision(Outcome.REJECTED, Reason.UNKNOWN_SEED, detail=f"this node knows no task {fact.seed_id}")
    broken = check_local(before, fact, now_s, command.denied)
    return None if broken is None else Decision(Outcome.REJECTED, broken.reason, detail=broken.detail)


def _decide_seed(caps: Caps, before: Record, command: Command) -> Decision:
    fact = command.fact
    if not isinstance(fact.body, Seed):
        raise TypeError(f"{fact.kind} without a seed")
    if before.seed is not None:
        return Decision(Outcome.IGNORED, Reason.DUPLICATE)
    reason = judge_seed(fact)
    if reason is not None:
        return _void(fact, before, reason, idle=True)
    if fact.signed and command.open_seeds >= caps.open_seeds_max:
        detail = f"an author may have at most {caps.open_seeds_max} open seeds; settle or close some"
        return Decision(Outcome.REJECTED, Reason.TOO_MANY_OPEN_SEEDS, detail=detail, idle=True)
    return _counts(before, fact)


def _decide_bid(caps: Caps, before: Record, command: Command) -> Decision:
    """Decide a bid by itself. A bid for a seed in a final status changes nothing and is not kept."""
    fact = command.fact
    parent = command.parent if isinstance(command, Observe) else None
    in_feed = parent is not None
    fits = in_feed and parent is before.seed  # then ``misfit`` has checked everything
    reason = None if fits else judge_bid(before, fact)
    if reason is not None:
        return _void(fact, before, reason, idle=before.seed is not None and not in_feed)
    own = command.bids if isinstance(command, Observe) else sum(bid.author == fact.author for bid in before.bids)
    refused = _too_many_bids(caps, fact, own)
    if refused is not None:
        return refused
    if _is_known(before, fact):
        return Decision(Outcome.IGNORED, Reason.DUPLICATE)
    if before.progress.status in FINAL:
        return _void(fact, before, Reason.WRONG_STATE)
    decision = _counts(before, fact)
    event = decision.events[0]
    if event.decided is not None and not _is_chosen(fact, event.decided[1]):
        return Decision(Outcome.IGNORED, Reason.TOO_MANY_BIDS, decision.events)
    return decision


def _is_known(record: Record, fact: Fact) -> bool:
    """True if the fact counts already, or if it has no envelope and another fact with its id counts."""
    if fact.envelope:
        return record.find(fact.envelope) is not None
    return any(known.ref == fact.ref for known in record.facts())


def _counts(before: Record, fact: Fact) -> Decision:
    record = after(before, fact)
    event = SeedEvent(fact.seed_id, fact, ended_work(before, fact), record.progress, decided=(before, record))
    return Decision(Outcome.ACCEPTED, None, (event,))


def _void(fact: Fact, record: Record, reason: Reason, *, idle: bool = False) -> Decision:
    late = (fact.kind in _WORK or fact.kind is FactKind.BID) and reason in _TOO_LATE
    unknown = reason is Reason.UNKNOWN_SEED or (not fact.signed and reason in _TOO_EARLY)
    detail = _why(fact, reason, record)
    return Decision(Outcome.IGNORED if late or unknown else Outcome.REJECTED, reason, detail=detail, idle=idle)


def _is_chosen(bid: Fact, record: Record) -> bool:
    seed = record.definition
    if seed is None or seed.max_bids == 0 or len(record.bids) <= seed.max_bids:
        return True
    return any(known.ref == bid.ref for known in counting_bids(record))


def _why(fact: Fact, reason: Reason, record: Record) -> str:
    """What was wrong with a fact that does not count. It names the first rule of this Reason that does not hold."""
    seed = fact.body if isinstance(fact.body, Seed) else record.definition
    if seed is None:
        return ""
    case = Case(fact, seed, record.progress if fact.kind is not FactKind.BID else Progress(), record)
    if reason is Reason.WRONG_STATE and (record.progress.status, fact.kind) not in TRANSITIONS:
        needs = NEEDS.get(fact.kind)
        return standing_of(fact.seed_id, record.progress) + ("" if needs is None else f": {needs}")
    if reason is Reason.UNKNOWN_CLAIM:
        return f"the task has no claim {fact.body.claim_id}" if isinstance(fact.body, Run | TaskResult) else ""
    rule = next((rule for rule in RULES[fact.kind] if rule.reason is reason and not rule.holds(case)), None)
    if rule is not None:
        return rule.refusal(case)
    return standing_of(fact.seed_id, record.progress) if reason is Reason.WRONG_STATE else ""
