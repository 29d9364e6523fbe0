"""The lifecycle of a seed: one table of transitions and one table of rules. ``fold`` applies them.

Only ``TRANSITIONS`` and ``RULES`` define who may do what, and when. A node checks its own operations against
``LOCAL_RULES`` as well. These depend on the clock or on what this node happens to know, so not all nodes would get the
same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from msgspec import Struct

from crabnet import limits
from crabnet.domain.model import (
    Bid,
    Claim,
    Fact,
    FactKind,
    Progress,
    Run,
    Seed,
    SeedStatus,
    Settlement,
    TaskResult,
)
from crabnet.domain.record import EMPTY, Record, as_seed, counting_bids, names
from crabnet.errors import Reason

_S = SeedStatus
_K = FactKind

CLAIM_HOLDS: Final = frozenset({_S.CLAIMED, _S.RUNNING, _S.DONE})
"""The statuses in which a claim counts and nothing has ended it yet."""

TRANSITIONS: Final[dict[tuple[SeedStatus, FactKind], frozenset[SeedStatus]]] = {
    (_S.OPEN, _K.CLAIM): frozenset({_S.CLAIMED}),
    (_S.OPEN, _K.CLOSE): frozenset({_S.EXPIRED}),
    (_S.CLAIMED, _K.STARTED): frozenset({_S.RUNNING}),
    (_S.CLAIMED, _K.RESULT): frozenset({_S.DONE}),
    (_S.CLAIMED, _K.FORFEIT): frozenset({_S.FORFEITED}),
    (_S.CLAIMED, _K.CLOSE): frozenset({_S.EXPIRED}),
    (_S.RUNNING, _K.STARTED): frozenset({_S.RUNNING}),
    (_S.RUNNING, _K.RESULT): frozenset({_S.DONE}),
    (_S.RUNNING, _K.FORFEIT): frozenset({_S.FORFEITED}),
    (_S.RUNNING, _K.CLOSE): frozenset({_S.EXPIRED}),
    (_S.DONE, _K.SETTLE): frozenset({_S.ACCEPTED, _S.REJECTED}),
    (_S.DONE, _K.FORFEIT): frozenset({_S.FORFEITED}),
    (_S.DONE, _K.CLOSE): frozenset({_S.EXPIRED}),
    (_S.FORFEITED, _K.CLAIM): frozenset({_S.CLAIMED}),
    (_S.FORFEITED, _K.CLOSE): frozenset({_S.EXPIRED}),
    (_S.ACCEPTED, _K.ACKNOWLEDGED): frozenset({_S.ACCEPTED}),
    (_S.REJECTED, _K.ACKNOWLEDGED): frozenset({_S.REJECTED}),
}
"""(status, fact) -> the statuses that may follow. A pair that is absent is refused with ``wrong_state``."""


class Case(Struct, frozen=True, gc=False):
    """The input of a rule."""

    fact: Fact
    seed: Seed
    progress: Progress
    record: Record = EMPTY
    now_s: int = 0
    denied: frozenset[str] = frozenset()
    """Authors with whom this node's policy makes no new deals."""


class Rule(NamedTuple):
    """A condition. If it does not hold, ``reason`` is the Reason of the refusal, and ``otherwise`` its text."""

    reason: Reason
    text: str
    otherwise: str
    holds: Callable[[Case], bool]


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


def _run(case: Case) -> Run:
    if not isinstance(case.fact.body, Run):
        raise TypeError(f"{case.fact.kind} is not a run")
    return case.fact.body


def claim_deadline_s(seed: Seed, progress: Progress) -> int:
    """Last second at which a claim may be made. The time for claiming starts again with a forfeit."""
    if progress.status is not _S.FORFEITED or progress.settled_at is None:
        return seed.claim_deadline_s
    window_s = max(0, seed.claim_deadline_s - seed.bid_deadline_ts)
    return max(seed.claim_deadline_s, progress.settled_at + window_s)


def execution_deadline_ms(seed: Seed, claimed_at_s: int) -> int:
    """When a claim made at ``claimed_at_s`` (seconds) is overdue, in milliseconds since the epoch."""
    return claimed_at_s * 1000 + max(seed.exec_deadline_ms, seed.timeout_ms)


def _bid_fits_claim(case: Case) -> bool:
    claim = _claim_of(case)
    bid = next((bid for bid in case.record.bids if names(case.fact, bid, claim.bid_id)), None)
    return bid is not None and bid.author == claim.worker


def _names_claim(case: Case) -> bool:
    body = case.fact.body
    claim_id = body.claim_id if isinstance(body, Run | Settlement) else None
    return claim_id == case.progress.claim_id and names(case.fact, case.record.claim, claim_id)


def _names_run(case: Case) -> bool:
    """True if a result rests on the run's start, or on the claim if nothing was started."""
    claim_id = case.fact.body.claim_id if isinstance(case.fact.body, TaskResult) else None
    if claim_id != case.progress.claim_id:
        return False
    started = case.record.run
    if started is None or not case.fact.rests_on:
        return names(case.fact, case.record.claim, claim_id)
    return names(case.fact, started, None)


def _rests_on_failure(case: Case) -> bool:
    """True if the fact rests on a result that says that the worker has failed, not the task."""
    result = case.record.result
    return result is not None and case.record.worker_failed and names(case.fact, result, None)


def _names_settlement(case: Case) -> bool:
    return any(fact.kind is _K.SETTLE and names(case.fact, fact, None) for fact in case.record.others)


BY_CREATOR = Rule(
    Reason.UNAUTHORISED,
    "the author is the seed's creator",
    "only the seed's creator may do that",
    lambda c: c.fact.author == c.seed.created_by,
)
_BY_WORKER = Rule(
    Reason.UNAUTHORISED,
    "the author is the worker of the claim",
    "only the worker of the current claim may do that",
    lambda c: c.fact.author == c.progress.claimed_by,
)


def _names_attempt(case: Case) -> bool:
    named = _settlement(case)
    return named.attempt == case.progress.attempt and named.claim_id == case.progress.claim_id


_THIS_ATTEMPT = Rule(
    Reason.WRONG_STATE,
    "it must name the current attempt",
    "the attempt that it names is not the current one",
    _names_attempt,
)
_TASKS_RESULT = Rule(
    Reason.WRONG_STATE,
    "the result does not say that the worker failed",
    "the worker says that it failed, not the task, so the attempt is forfeited: claim another bid or withdraw the seed",
    lambda c: not c.record.worker_failed,
)
_ON_CLAIM = Rule(Reason.WRONG_PARENT, "it rests on the claim", "it does not rest on the current claim", _names_claim)

RULES: Final[dict[FactKind, tuple[Rule, ...]]] = {
    _K.SEED: (
        Rule(
            Reason.UNAUTHORISED,
            "a seed names its author",
            "the seed names another node as its creator",
            lambda c: c.fact.author == c.seed.created_by,
        ),
    ),
    _K.BID: (
        Rule(
            Reason.UNAUTHORISED,
            "a bidder bids for itself",
            "the bid names another node as its bidder",
            lambda c: c.fact.author == _bid(c).bidder,
        ),
        Rule(
            Reason.PRICE_TOO_LOW,
            "price is at least min_price",
            "the price is below the seed's min_price",
            lambda c: _bid(c).price >= c.seed.min_price,
        ),
        Rule(
            Reason.DEADLINE_PASSED,
            "made before the bid deadline",
            "it was made after the end of the bid window",
            lambda c: _bid(c).created_at <= c.seed.bid_deadline_ts,
        ),
    ),
    _K.CLAIM: (
        BY_CREATOR,
        Rule(
            Reason.DEADLINE_PASSED,
            "made before the claim deadline",
            "it was made after the claim deadline",
            lambda c: _claim_of(c).created_at <= claim_deadline_s(c.seed, c.progress),
        ),
        Rule(
            Reason.WRONG_STATE,
            "the attempt follows the one before",
            "its attempt is not the next one",
            lambda c: _claim_of(c).attempt == c.progress.attempt + (c.progress.status is _S.FORFEITED),
        ),
        Rule(
            Reason.UNKNOWN_BID,
            "it rests on an eligible bid, and names it and its bidder",
            "the bid that the claim rests on does not count, or is not the bid that the claim names",
            _bid_fits_claim,
        ),
    ),
    _K.STARTED: (
        _BY_WORKER,
        _ON_CLAIM,
        Rule(
            Reason.WRONG_STATE,
            "a claim is begun once, and only its run is renewed",
            "the run has already begun, or the renewal names another run",
            lambda c: _run(c).renews == (c.progress.run_id if c.progress.status is _S.RUNNING else None),
        ),
        Rule(
            Reason.LIMIT_EXCEEDED,
            f"a run is renewed at most {limits.RUN_RENEWALS_MAX} times",
            f"the run has already been renewed {limits.RUN_RENEWALS_MAX} times, which is the maximum",
            lambda c: c.progress.renewals < limits.RUN_RENEWALS_MAX,
        ),
    ),
    _K.RESULT: (
        _BY_WORKER,
        Rule(
            Reason.WRONG_PARENT,
            "it rests on the start of the run, or on the claim if nothing was started",
            "it does not rest on the start of the run, or on the claim if nothing was started",
            _names_run,
        ),
    ),
    _K.SETTLE: (
        BY_CREATOR,
        _THIS_ATTEMPT,
        Rule(
            Reason.UNKNOWN_RESULT,
            "it rests on the result that counts, and names it",
            "the result that it settles is not the result that counts",
            lambda c: (
                _settlement(c).result_id == c.progress.result_id
                and names(c.fact, c.record.result, c.progress.result_id)
            ),
        ),
        _TASKS_RESULT,
    ),
    _K.FORFEIT: (
        BY_CREATOR,
        _THIS_ATTEMPT,
        Rule(
            Reason.WRONG_PARENT,
            "it rests on the claim, or on the result in which the worker says that it failed",
            "it does not rest on the current claim, or on a result in which the worker says that it failed",
            lambda c: _names_claim(c) or _rests_on_failure(c),
        ),
        Rule(
            Reason.NOT_DUE,
            "the execution deadline has passed, or it rests on the result in which the worker says that it failed",
            "the execution deadline has not passed yet",
            lambda c: (
                _rests_on_failure(c)
                or (
                    c.progress.claimed_at is not None
                    and _settlement(c).created_at * 1000 >= execution_deadline_ms(c.seed, c.progress.claimed_at)
                )
            ),
        ),
    ),
    _K.CLOSE: (
        BY_CREATOR,
        Rule(
            Reason.WRONG_STATE,
            "a claim that is withdrawn must be named, with its attempt",
            "it does not name the claim that it withdraws and the attempt of that claim",
            lambda c: c.progress.status not in CLAIM_HOLDS or _names_attempt(c),
        ),
        Rule(
            Reason.WRONG_PARENT,
            "it rests on the claim that is withdrawn, else on the seed",
            "it does not rest on the claim that it withdraws, or on the seed if there is none",
            lambda c: (
                _names_claim(c) if c.progress.status in CLAIM_HOLDS else names(c.fact, c.record.seed, c.fact.seed_id)
            ),
        ),
    ),
    _K.ACKNOWLEDGED: (
        _BY_WORKER,
        Rule(
            Reason.WRONG_PARENT,
            "it rests on the settlement that counts",
            "it does not rest on the settlement that counts",
            _names_settlement,
        ),
        Rule(
            Reason.DUPLICATE,
            "a settlement is acknowledged once",
            "the settlement has already been acknowledged",
            lambda c: all(fact.kind is not _K.ACKNOWLEDGED for fact in c.record.others),
        ),
    ),
}
"""The rules that every node checks, in this order. They depend on facts alone, so all nodes agree."""


def _bid_has_room(case: Case) -> bool:
    return case.seed.max_bids == 0 or len(counting_bids(case.record)) < case.seed.max_bids


_NO_RESULT_YET = Rule(
    Reason.WRONG_STATE,
    "no result has come, or one in which the worker says that it failed",
    "a result has arrived: accept or reject it instead",
    lambda c: c.progress.status is not _S.DONE or c.record.worker_failed,
)
_WORK_IS_DUE = Rule(
    Reason.WRONG_STATE,
    "the claim awaits this",
    "the seed has no claim for which this is the next step",
    lambda c: (c.progress.status, c.fact.kind) in TRANSITIONS,
)

LOCAL_RULES: Final[dict[FactKind, tuple[Rule, ...]]] = {
    _K.BID: (
        Rule(
            Reason.WRONG_STATE,
            "the seed is open",
            "the seed is no longer open",
            lambda c: c.progress.status in {_S.OPEN, _S.FORFEITED},
        ),
        Rule(
            Reason.DEADLINE_PASSED,
            "the bid window is open",
            "the bid window has ended",
            lambda c: c.now_s <= c.seed.bid_deadline_ts,
        ),
        Rule(
            Reason.TOO_MANY_BIDS,
            "there is room for one more bid",
            "the seed has max_bids bids already, so no further bid would count",
            _bid_has_room,
        ),
        Rule(
            Reason.EQUIVOCATOR,
            "the seed's creator has not forked its feed (the setting refuse_equivocators)",
            "the seed's creator has forked its feed, and refuse_equivocators is set",
            lambda c: c.seed.created_by not in c.denied,
        ),
    ),
    _K.CLAIM: (
        Rule(
            Reason.EQUIVOCATOR,
            "the bidder has not forked its feed (the setting refuse_equivocators)",
            "the bidder has forked its feed, and refuse_equivocators is set",
            lambda c: _claim_of(c).worker not in c.denied,
        ),
        Rule(
            Reason.TOO_MANY_BIDS,
            "the bid is among the max_bids first by (created_at, id)",
            "the bid does not count: it is not among the first max_bids by (created_at, id)",
            lambda c: _claim_of(c).bid_id in {fact.key for fact in counting_bids(c.record)},
        ),
    ),
    _K.STARTED: (_WORK_IS_DUE,),
    _K.RESULT: (_WORK_IS_DUE,),
    _K.SETTLE: (_TASKS_RESULT,),
    _K.FORFEIT: (_NO_RESULT_YET,),
    _K.CLOSE: (_NO_RESULT_YET,),
}
"""The rules that a node checks in addition to ``RULES`` for the operations of its own operator."""


def status_at(record: Record, now_s: int) -> SeedStatus:
    """The status to show at ``now_s``: an open seed past its claim deadline is expired, even without a close."""
    seed = record.definition
    status = record.progress.status
    if status is _S.OPEN and seed is not None and now_s > seed.claim_deadline_s:
        return _S.EXPIRED
    return status


def settle_by_s(seed: Seed, claim: Claim, result: Fact) -> int:
    """Last second at which the creator settles a result in time.

    The window begins with the result, but not before the claim: a worker that backdates its result gains nothing.
    """
    return max(result.body.created_at or result.ts, claim.created_at) + seed.settle_within_s


def settlement_due_s(record: Record) -> int | None:
    """Last second at which a result that awaits its creator's settlement is settled in time. None if none does.

    A result in which the worker says that it failed awaits no settlement.
    """
    seed, claim, result = record.definition, record.claim, record.result
    if record.progress.status is not _S.DONE or record.worker_failed:
        return None
    if seed is None or result is None or claim is None or not isinstance(claim.body, Claim):
        return None
    return settle_by_s(seed, claim.body, result)


def is_overdue(record: Record, now_s: int) -> bool:
    """True if a result awaits its creator's settlement, and the time for that is over. Every node derives the same."""
    due_s = settlement_due_s(record)
    return due_s is not None and now_s > due_s


def is_biddable(record: Record, now_s: int) -> bool:
    """True if the local rules allow a bid now. None of these rules looks at the bid itself."""
    if record.seed is None:
        return False
    case = Case(record.seed, as_seed(record.seed), record.progress, record, now_s)
    return all(rule.holds(case) for rule in LOCAL_RULES[_K.BID])


def check_local(record: Record, fact: Fact, now_s: int, denied: frozenset[str] = frozenset()) -> Rule | None:
    """The first of ``LOCAL_RULES`` that this node's own fact breaks."""
    seed = record.definition
    if seed is None:
        return None
    case = Case(fact, seed, record.progress, record, now_s, denied)
    return next((rule for rule in LOCAL_RULES.get(fact.kind, ()) if not rule.holds(case)), None)


def broken_rule(case: Case) -> Rule | None:
    """The first of ``RULES`` that a fact breaks."""
    for rule in RULES[case.fact.kind]:
        if not rule.holds(case):
            return rule
    return None
