"""The rules that a node checks for the operations of its own operator, in addition to those of ``lifecycle``.

They depend on the clock or on what this node happens to know, so not all nodes would get the same answer.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from crabnet.domain.lifecycle import BY_CREATOR, RULES, TASKS_RESULT, TRANSITIONS, Case, Rule, claim_in
from crabnet.domain.model import Fact, FactKind, SeedStatus
from crabnet.domain.record import Record, as_seed, counting_bids
from crabnet.domain.wording import NEEDS, node, standing_of, utc
from crabnet.errors import Reason

_S = SeedStatus
_K = FactKind


def _bid_has_room(case: Case) -> bool:
    return case.seed.max_bids == 0 or len(counting_bids(case.record)) < case.seed.max_bids


def _is_surplus(bid_id: str, record: Record) -> bool:
    """True for a bid that this node knows and that does not count."""
    known = any(fact.key == bid_id for fact in record.bids)
    return known and all(fact.key != bid_id for fact in counting_bids(record))


_NO_RESULT_YET = Rule(
    Reason.WRONG_STATE,
    "no result has come, or one in which the worker says that it failed",
    lambda c: f"the result {c.progress.result_id} has arrived: accept or reject it instead",
    lambda c: c.progress.status is not _S.DONE or c.record.worker_failed,
)
_WORK_IS_DUE = Rule(
    Reason.WRONG_STATE,
    "the claim awaits this",
    lambda c: f"{standing_of(c.fact.seed_id, c.progress)}: {NEEDS[c.fact.kind]}",
    lambda c: (c.progress.status, c.fact.kind) in TRANSITIONS,
)

LOCAL_RULES: Final[dict[FactKind, tuple[Rule, ...]]] = {
    _K.BID: (
        Rule(
            Reason.WRONG_STATE,
            "the seed is open",
            lambda c: f"{standing_of(c.fact.seed_id, c.progress)}: bids are taken while a task is open",
            lambda c: c.progress.status in {_S.OPEN, _S.FORFEITED},
        ),
        Rule(
            Reason.DEADLINE_PASSED,
            "the bid window is open",
            lambda c: f"bidding closed at {utc(c.seed.bid_deadline_ts)}",
            lambda c: c.now_s <= c.seed.bid_deadline_ts,
        ),
        Rule(
            Reason.TOO_MANY_BIDS,
            "there is room for one more bid",
            lambda c: f"the task already has its {c.seed.max_bids} bids (max_bids)",
            _bid_has_room,
        ),
        Rule(
            Reason.EQUIVOCATOR,
            "the seed's creator has not forked its feed (the setting refuse_equivocators)",
            lambda c: (
                f"the task's creator ({node(c.seed.created_by)}) has forked its feed, and refuse_equivocators is set"
            ),
            lambda c: c.seed.created_by not in c.denied,
        ),
    ),
    _K.CLAIM: (
        Rule(
            Reason.EQUIVOCATOR,
            "the bidder has not forked its feed (the setting refuse_equivocators)",
            lambda c: f"the bidder ({node(claim_in(c).worker)}) has forked its feed, and refuse_equivocators is set",
            lambda c: claim_in(c).worker not in c.denied,
        ),
        Rule(
            Reason.TOO_MANY_BIDS,
            "the bid is among the max_bids first by (created_at, id)",
            lambda c: f"bid {claim_in(c).bid_id} does not count: {c.seed.max_bids} others (max_bids) were made earlier",
            lambda c: not _is_surplus(claim_in(c).bid_id, c.record),
        ),
    ),
    _K.STARTED: (_WORK_IS_DUE,),
    _K.RESULT: (_WORK_IS_DUE,),
    _K.SETTLE: (TASKS_RESULT,),
    _K.FORFEIT: (_NO_RESULT_YET,),
    _K.CLOSE: (_NO_RESULT_YET,),
}
"""The rules that a node checks in addition to ``RULES`` for the operations of its own operator."""


def is_biddable(record: Record, now_s: int) -> bool:
    """True if the local rules allow a bid now. None of these rules looks at the bid itself."""
    if record.seed is None:
        return False
    case = Case(record.seed, as_seed(record.seed), record.progress, record, now_s)
    return all(rule.holds(case) for rule in LOCAL_RULES[_K.BID])


class Broken(NamedTuple):
    """A rule that does not hold, and what to say about it."""

    reason: Reason
    detail: str


def check_local(record: Record, fact: Fact, now_s: int, denied: frozenset[str] = frozenset()) -> Broken | None:
    """The first of ``LOCAL_RULES`` that this node's own fact breaks. Who may not do it at all hears only that."""
    seed = record.definition
    if seed is None:
        return None
    case = Case(fact, seed, record.progress, record, now_s, denied)
    authority = (BY_CREATOR,) if BY_CREATOR in RULES[fact.kind] else ()
    rules = (*authority, *LOCAL_RULES.get(fact.kind, ()))
    rule = next((rule for rule in rules if not rule.holds(case)), None)
    return None if rule is None else Broken(rule.reason, rule.refusal(case))
