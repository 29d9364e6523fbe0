"""The lifecycle of a seed: one table of transitions and one table of rules. ``fold`` applies them.

Only ``TRANSITIONS`` and ``RULES`` define who may do what, and when. What a node demands of its own operator besides
that is in ``local_rules``.
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
from crabnet.domain.record import EMPTY, Record, names
from crabnet.domain.wording import node, utc
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
    """A condition. If it does not hold, ``reason`` is the Reason of the refusal, and ``otherwise`` what to say then."""

    reason: Reason
    text: str
    otherwise: str | Callable[[Case], str]
    holds: Callable[[Case], bool]

    def refusal(self, case: Case) -> str:
        """What to say in this case, in which the condition does not hold. It names the thing, not the rule."""
        return self.otherwise if isinstance(self.otherwise, str) else self.otherwise(case)


def _bid(case: Case) -> Bid:
    if not isinstance(case.fact.body, Bid):
        raise TypeError(f"{case.fact.kind} is not a bid")
    return case.fact.body


def claim_in(case: Case) -> Claim:
    """The claim that the fact of a case states."""
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


def _execution_deadline(case: Case) -> str:
    """The second from which on the current claim may be forfeited."""
    claimed_s = case.progress.claimed_at or 0
    return utc(-(-execution_deadline_ms(case.seed, claimed_s) // 1000))


def _bid_fits_claim(case: Case) -> bool:
    claim = claim_in(case)
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
    lambda c: f"only the task's creator ({node(c.seed.created_by)}) may do this",
    lambda c: c.fact.author == c.seed.created_by,
)
_BY_WORKER = Rule(
    Reason.UNAUTHORISED,
    "the author is the worker of the claim",
    lambda c: f"only the worker of the current claim ({node(c.progress.claimed_by)}) may do this",
    lambda c: c.fact.author == c.progress.claimed_by,
)


def _names_attempt(case: Case) -> bool:
    named = _settlement(case)
    return named.attempt == case.progress.attempt and named.claim_id == case.progress.claim_id


_THIS_ATTEMPT = Rule(
    Reason.WRONG_STATE,
    "it must name the current attempt",
    lambda c: f"it names attempt {_settlement(c).attempt}, but the current one is attempt {c.progress.attempt}",
    _names_attempt,
)
TASKS_RESULT = Rule(
    Reason.WRONG_STATE,
    "the result does not say that the worker failed",
    lambda c: (
        f"the worker ({node(c.progress.claimed_by)}) says that it failed, not the task, so the attempt is forfeited:"
        " claim another bid or withdraw the task"
    ),
    lambda c: not c.record.worker_failed,
)
_ON_CLAIM = Rule(Reason.WRONG_PARENT, "it rests on the claim", "it does not rest on the current claim", _names_claim)

RULES: Final[dict[FactKind, tuple[Rule, ...]]] = {
    _K.SEED: (
        Rule(
            Reason.UNAUTHORISED,
            "a seed names its author",
            lambda c: (
                f"the task names {node(c.seed.created_by)} as its creator, but {node(c.fact.author)} has signed it"
            ),
            lambda c: c.fact.author == c.seed.created_by,
        ),
    ),
    _K.BID: (
        Rule(
            Reason.UNAUTHORISED,
            "a bidder bids for itself",
            lambda c: f"the bid names {node(_bid(c).bidder)} as its bidder, but {node(c.fact.author)} has signed it",
            lambda c: c.fact.author == _bid(c).bidder,
        ),
        Rule(
            Reason.PRICE_TOO_LOW,
            "price is at least min_price",
            lambda c: f"the price {_bid(c).price} is below the task's min_price {c.seed.min_price}",
            lambda c: _bid(c).price >= c.seed.min_price,
        ),
        Rule(
            Reason.DEADLINE_PASSED,
            "made before the bid deadline",
            lambda c: (
                f"bidding closed at {utc(c.seed.bid_deadline_ts)}, and the bid was made at {utc(_bid(c).created_at)}"
            ),
            lambda c: _bid(c).created_at <= c.seed.bid_deadline_ts,
        ),
    ),
    _K.CLAIM: (
        BY_CREATOR,
        Rule(
            Reason.DEADLINE_PASSED,
            "made before the claim deadline",
            lambda c: f"bids could be claimed until {utc(claim_deadline_s(c.seed, c.progress))}",
            lambda c: claim_in(c).created_at <= claim_deadline_s(c.seed, c.progress),
        ),
        Rule(
            Reason.WRONG_STATE,
            "the attempt follows the one before",
            lambda c: (
                f"the claim is attempt {claim_in(c).attempt}, but the next one is attempt"
                f" {c.progress.attempt + (c.progress.status is _S.FORFEITED)}"
            ),
            lambda c: claim_in(c).attempt == c.progress.attempt + (c.progress.status is _S.FORFEITED),
        ),
        Rule(
            Reason.UNKNOWN_BID,
            "it rests on an eligible bid, and names it and its bidder",
            lambda c: (
                f"bid {claim_in(c).bid_id} does not count, is of another worker than {node(claim_in(c).worker)}, or"
                " is not the bid that the claim rests on"
            ),
            _bid_fits_claim,
        ),
    ),
    _K.STARTED: (
        _BY_WORKER,
        _ON_CLAIM,
        Rule(
            Reason.WRONG_STATE,
            "a claim is begun once, and only its run is renewed",
            lambda c: (
                f"{node(c.progress.claimed_by)} has already begun the run {c.progress.run_id}"
                if c.progress.run_id is not None
                else "no run has begun that could be renewed"
            ),
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
            lambda c: (
                f"it settles the result {_settlement(c).result_id}, but the one that counts is {c.progress.result_id}"
            ),
            lambda c: (
                _settlement(c).result_id == c.progress.result_id
                and names(c.fact, c.record.result, c.progress.result_id)
            ),
        ),
        TASKS_RESULT,
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
            lambda c: (
                f"{node(c.progress.claimed_by)} has until {_execution_deadline(c)} to bring a result; before that, its"
                " attempt cannot be forfeited"
            ),
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
            lambda c: f"{node(c.progress.claimed_by)} has already acknowledged the settlement",
            lambda c: all(fact.kind is not _K.ACKNOWLEDGED for fact in c.record.others),
        ),
    ),
}
"""The rules that every node checks, in this order. They depend on facts alone, so all nodes agree."""


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


def broken_rule(case: Case) -> Rule | None:
    """The first of ``RULES`` that a fact breaks."""
    for rule in RULES[case.fact.kind]:
        if not rule.holds(case):
            return rule
    return None
