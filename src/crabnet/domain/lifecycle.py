"""The lifecycle of a seed: one table of transitions and one table of rules. ``fold`` applies them.

Who may do what, and when, stands in ``TRANSITIONS`` and ``RULES`` and nowhere else. ``LOCAL_RULES`` holds what a node
demands of its own operator on top: things that depend on the clock or on what this node happens to know, and that other
nodes therefore cannot check alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from msgspec import Struct

from crabnet import limits
from crabnet.domain.model import (
    EFFECTIVE,
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
    Verdict,
)
from crabnet.errors import Reason

_S = SeedStatus
_K = FactKind

CLAIM_HOLDS: Final = frozenset({_S.CLAIMED, _S.RUNNING, _S.DONE})
"""Where a claim counts and nothing has ended it yet."""

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
        return None if self.seed is None else as_seed(self.seed)

    def facts(self) -> Iterable[Fact]:
        """Every fact, effective or not."""
        if self.seed is not None:
            yield self.seed
        for entry in self.bids:
            yield entry.fact
        for entry in self.others:
            yield entry.fact


EMPTY: Final = Record()


class Case(Struct, frozen=True, gc=False):
    """What a rule may look at."""

    fact: Fact
    seed: Seed
    progress: Progress
    claim: Claim | None = None
    record: Record = EMPTY
    now_s: int = 0
    shunned: frozenset[str] = frozenset()
    """Authors with whom this node's policy makes no new deals."""


class Rule(NamedTuple):
    """A condition, and the Reason of the refusal when it does not hold."""

    reason: Reason
    text: str
    holds: Callable[[Case], bool]


def as_seed(fact: Fact) -> Seed:
    """The definition that a fact states. Raises TypeError for a fact of another kind."""
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


def _run(case: Case) -> Run:
    if not isinstance(case.fact.body, Run):
        raise TypeError(f"{case.fact.kind} is not a run")
    return case.fact.body


def claim_deadline_s(seed: Seed, progress: Progress) -> int:
    """Last second at which a claim may be made. A forfeit begins the time for claiming anew."""
    if progress.status is not _S.FORFEITED or progress.settled_at is None:
        return seed.claim_deadline_s
    window_s = max(0, seed.claim_deadline_s - seed.bid_deadline_ts)
    return max(seed.claim_deadline_s, progress.settled_at + window_s)


def execution_deadline_ms(seed: Seed, claimed_at_s: int) -> int:
    """When a claim made at ``claimed_at_s`` (seconds) is overdue, in milliseconds since the epoch."""
    return claimed_at_s * 1000 + max(seed.exec_deadline_ms, seed.timeout_ms)


def claimed_bid(case: Case) -> Entry | None:
    """The bid that a claim names, if it is known."""
    bid_id = _claim_of(case).bid_id
    return next((entry for entry in case.record.bids if entry.fact.body.id == bid_id), None)


def _bid_fits_claim(case: Case) -> bool:
    entry = claimed_bid(case)
    return entry is not None and entry.effective and entry.fact.author == _claim_of(case).worker


BY_CREATOR = Rule(Reason.UNAUTHORISED, "the author is the seed's creator", lambda c: c.fact.author == c.seed.created_by)
_BY_WORKER = Rule(
    Reason.UNAUTHORISED,
    "the author is the worker of the claim",
    lambda c: c.claim is not None and c.fact.author == c.claim.worker,
)


def _names_attempt(case: Case) -> bool:
    named = _settlement(case)
    return named.attempt == case.progress.attempt and named.claim_id == case.progress.claim_id


_THIS_ATTEMPT = Rule(Reason.WRONG_STATE, "it must name the current attempt", _names_attempt)

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
        BY_CREATOR,
        Rule(
            Reason.DEADLINE_PASSED,
            "made before the claim deadline",
            lambda c: _claim_of(c).created_at <= claim_deadline_s(c.seed, c.progress),
        ),
        Rule(
            Reason.WRONG_STATE,
            "the attempt follows the one before",
            lambda c: _claim_of(c).attempt == c.progress.attempt + (c.progress.status is _S.FORFEITED),
        ),
        Rule(Reason.UNKNOWN_BID, "it names an eligible bid and its bidder", _bid_fits_claim),
    ),
    _K.STARTED: (
        _BY_WORKER,
        Rule(
            Reason.WRONG_STATE,
            "a claim is begun once, and only its run is renewed",
            lambda c: _run(c).renews == (c.progress.run_id if c.progress.status is _S.RUNNING else None),
        ),
        Rule(
            Reason.LIMIT_EXCEEDED,
            f"a run is renewed at most {limits.RUN_RENEWALS_MAX} times",
            lambda c: c.progress.renewals < limits.RUN_RENEWALS_MAX,
        ),
    ),
    _K.RESULT: (_BY_WORKER,),
    _K.SETTLE: (
        BY_CREATOR,
        _THIS_ATTEMPT,
        Rule(
            Reason.UNKNOWN_RESULT,
            "it names the result that counts",
            lambda c: _settlement(c).result_id == c.progress.result_id,
        ),
    ),
    _K.FORFEIT: (
        BY_CREATOR,
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
    _K.CLOSE: (
        BY_CREATOR,
        Rule(
            Reason.WRONG_STATE,
            "a claim that is withdrawn must be named, with its attempt",
            lambda c: c.progress.status not in CLAIM_HOLDS or _names_attempt(c),
        ),
    ),
}
"""What every node demands of a fact, in this order: functions of facts alone, so that all nodes agree."""


def _bid_has_room(case: Case) -> bool:
    return case.seed.max_bids == 0 or len(counting_bids(case.record)) < case.seed.max_bids


_NO_RESULT_YET = Rule(
    Reason.WRONG_STATE,
    "no result has come: accept or reject it instead",
    lambda c: c.progress.status is not _S.DONE,
)
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
        Rule(
            Reason.EQUIVOCATOR,
            "the seed's creator has not forked its feed (the setting refuse_equivocators)",
            lambda c: c.seed.created_by not in c.shunned,
        ),
    ),
    _K.CLAIM: (
        Rule(
            Reason.EQUIVOCATOR,
            "the bidder has not forked its feed (the setting refuse_equivocators)",
            lambda c: _claim_of(c).worker not in c.shunned,
        ),
        Rule(
            Reason.TOO_MANY_BIDS,
            "the bid is among the max_bids first by (created_at, id)",
            lambda c: _claim_of(c).bid_id in {fact.key for fact in counting_bids(c.record)},
        ),
    ),
    _K.STARTED: (_WORK_IS_DUE,),
    _K.RESULT: (_WORK_IS_DUE,),
    _K.FORFEIT: (_NO_RESULT_YET,),
    _K.CLOSE: (_NO_RESULT_YET,),
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


def check_local(record: Record, fact: Fact, now_s: int, shunned: frozenset[str] = frozenset()) -> Rule | None:
    """The first of ``LOCAL_RULES`` that this node's own fact breaks."""
    seed = record.definition
    if seed is None:
        return None
    case = Case(fact, seed, record.progress, None, record, now_s, shunned)
    return next((rule for rule in LOCAL_RULES.get(fact.kind, ()) if not rule.holds(case)), None)


def judge(case: Case) -> Judgement:
    """Effective if a fact keeps all of ``RULES``, else void with the reason of the first that it breaks."""
    for rule in RULES[case.fact.kind]:
        if not rule.holds(case):
            return Judgement(Verdict.VOID, rule.reason)
    return EFFECTIVE


def judge_bid(seed: Seed | None, fact: Fact) -> Judgement:
    """The verdict on a bid: a function of the bid and the seed's definition alone."""
    if seed is None:
        return Judgement(Verdict.WAITING, Reason.UNKNOWN_SEED)
    return judge(Case(fact, seed, Progress()))


def bid_order(fact: Fact) -> tuple[int, str]:
    """Order in which bids count."""
    return (fact.body.created_at or 0, fact.key)


def other_order(fact: Fact) -> tuple[str, int, str]:
    """Order in which the other facts are kept, the same in every node."""
    return (fact.author, fact.seq, fact.key)
