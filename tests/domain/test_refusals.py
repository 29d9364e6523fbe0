"""Refusals name the thing: who, when, how many, and what has become of the task."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crabnet import limits
from crabnet.domain.decision import decide
from crabnet.domain.model import Fact, FactKind, SeedStatus
from crabnet.domain.state import Outcome, Propose
from crabnet.domain.wording import node, standing_of, utc
from crabnet.errors import Reason
from tests.domain.story import Story
from tests.support.facts import CREATOR, RIVAL, START_S, STRANGER, WORKER

S = SeedStatus
K = FactKind
Told = Callable[[], tuple[Story, Fact]]


def at(status: SeedStatus, kind: FactKind, author: str | None = None, *, max_bids: int = 0, later_s: int = 0) -> Told:
    """Somebody says something about a task in this status."""

    def told() -> tuple[Story, Fact]:
        story = Story(status, max_bids=max_bids)
        story.scribe.now_s += later_s
        return story, story.fact(kind, author)

    return told


def bid(price: int) -> Told:
    def told() -> tuple[Story, Fact]:
        story = Story()
        return story, story.scribe.bid(story.seed, RIVAL, price=price)

    return told


def claim_of(bid_id: str, worker: str = WORKER, attempt: int = 1) -> Told:
    def told() -> tuple[Story, Fact]:
        story = Story()
        return story, story.scribe.claim(story.seed, bid_id, worker, attempt=attempt)

    return told


def _early_forfeit() -> tuple[Story, Fact]:
    story = Story(S.CLAIMED)
    return story, story.scribe.settle(story.seed, S.FORFEITED, story.claim)


def _other_attempt() -> tuple[Story, Fact]:
    story = Story(S.DONE)
    return story, story.scribe.settle(story.seed, S.ACCEPTED, story.claim, story.result, attempt=3)


def _other_result() -> tuple[Story, Fact]:
    story = Story(S.DONE)
    return story, story.scribe.settle(story.seed, S.ACCEPTED, story.claim, "worker/9")


def _failed_work() -> tuple[Story, Fact]:
    story = Story(S.RUNNING)
    story.result = story.tell(story.scribe.result(story.seed, story.claim, failed="worker")).key
    return story, story.fact(K.SETTLE)


def _late_claim() -> tuple[Story, Fact]:
    story = Story()
    story.scribe.now_s += 201
    return story, story.scribe.claim(story.seed, story.bid)


def _again() -> tuple[Story, Fact]:
    story = Story(S.ACCEPTED)
    story.tell(story.fact(K.ACKNOWLEDGED))
    return story, story.fact(K.ACKNOWLEDGED)


def _surplus_claim() -> tuple[Story, Fact]:
    story = Story(max_bids=1)
    story.scribe.now_s += 1
    surplus = story.scribe.bid(story.seed, RIVAL)
    story.observe(surplus)
    return story, story.scribe.claim(story.seed, surplus.key, RIVAL)


def _for_another() -> tuple[Story, Fact]:
    story = Story()
    return story, story.scribe.bid(story.seed, RIVAL, bidder=STRANGER)


def _renewed_often() -> tuple[Story, Fact]:
    story = Story(S.RUNNING)
    for _ in range(limits.RUN_RENEWALS_MAX):
        story.tell(story.fact(K.STARTED))
    return story, story.fact(K.STARTED)


TASK = "task creator/1"
ROWS: dict[str, tuple[Told, Reason, str]] = {
    "a bid too late": (
        at(S.OPEN, K.BID, later_s=101),
        Reason.DEADLINE_PASSED,
        "bidding closed at 1970-01-01T00:18:20Z",
    ),
    "a bid too low": (bid(1), Reason.PRICE_TOO_LOW, "the price 1 is below the task's min_price 2"),
    "a bid too many": (
        at(S.OPEN, K.BID, max_bids=1),
        Reason.TOO_MANY_BIDS,
        "the task already has its 1 bids (max_bids)",
    ),
    "a bid for another": (
        _for_another,
        Reason.UNAUTHORISED,
        "the bid names stranger as its bidder, but rival has signed it",
    ),
    "a bid for what is claimed": (
        at(S.CLAIMED, K.BID),
        Reason.WRONG_STATE,
        f"{TASK} is claimed for worker, which has not begun: bids are taken while a task is open",
    ),
    "a bid for what is over": (
        at(S.ACCEPTED, K.BID),
        Reason.WRONG_STATE,
        f"{TASK} was accepted at 1970-01-01T00:16:40Z and is over: bids are taken while a task is open",
    ),
    "a claim of a stranger": (
        at(S.OPEN, K.CLAIM, RIVAL),
        Reason.UNAUTHORISED,
        "only the task's creator (creator) may do this",
    ),
    "a claim of no bid": (
        claim_of("worker/7"),
        Reason.UNKNOWN_BID,
        "bid worker/7 does not count, is of another worker than worker, or is not the bid that the claim rests on",
    ),
    "a claim of the wrong attempt": (
        claim_of("worker/1", attempt=3),
        Reason.WRONG_STATE,
        "the claim is attempt 3, but the next one is attempt 1",
    ),
    "a claim too late": (_late_claim, Reason.DEADLINE_PASSED, "bids could be claimed until 1970-01-01T00:20:00Z"),
    "a claim of a surplus bid": (
        _surplus_claim,
        Reason.TOO_MANY_BIDS,
        "bid rival/1 does not count: 1 others (max_bids) were made earlier",
    ),
    "a second claim": (
        at(S.RUNNING, K.CLAIM),
        Reason.WRONG_STATE,
        f"{TASK} is run by worker: a bid can be claimed while a task is open, or after a forfeit",
    ),
    "a start of a stranger": (
        at(S.CLAIMED, K.STARTED, RIVAL),
        Reason.UNAUTHORISED,
        "only the worker of the current claim (worker) may do this",
    ),
    "a renewal too many": (
        _renewed_often,
        Reason.LIMIT_EXCEEDED,
        f"the run has already been renewed {limits.RUN_RENEWALS_MAX} times, which is the maximum",
    ),
    "a result after the result": (
        at(S.DONE, K.RESULT),
        Reason.WRONG_STATE,
        (
            f"{TASK} has a result of worker, which its creator has to settle: a result follows a claim, and there is"
            " one for each claim"
        ),
    ),
    "a settlement of nothing": (
        at(S.CLAIMED, K.SETTLE),
        Reason.WRONG_STATE,
        f"{TASK} is claimed for worker, which has not begun: a result can be accepted or rejected, and only once",
    ),
    "a settlement of another attempt": (
        _other_attempt,
        Reason.WRONG_STATE,
        "it names attempt 3, but the current one is attempt 1",
    ),
    "a settlement of another result": (
        _other_result,
        Reason.UNKNOWN_RESULT,
        "it settles the result worker/9, but the one that counts is worker/3",
    ),
    "a settlement of what failed": (
        _failed_work,
        Reason.WRONG_STATE,
        (
            "the worker (worker) says that it failed, not the task, so the attempt is forfeited: claim another bid or"
            " withdraw the task"
        ),
    ),
    "a forfeit too early": (
        _early_forfeit,
        Reason.NOT_DUE,
        "worker has until 1970-01-01T00:16:50Z to bring a result; before that, its attempt cannot be forfeited",
    ),
    "a forfeit of what has a result": (
        at(S.DONE, K.FORFEIT),
        Reason.WRONG_STATE,
        "the result worker/3 has arrived: accept or reject it instead",
    ),
    "a forfeit of a stranger": (
        at(S.DONE, K.FORFEIT, RIVAL),
        Reason.UNAUTHORISED,
        "only the task's creator (creator) may do this",
    ),
    "a withdrawal of what is over": (
        at(S.REJECTED, K.CLOSE),
        Reason.WRONG_STATE,
        f"{TASK} was rejected at 1970-01-01T00:16:40Z and is over: a task can be withdrawn until it is settled",
    ),
    "a second acknowledgement": (_again, Reason.DUPLICATE, "worker has already acknowledged the settlement"),
}


@pytest.mark.parametrize("name", ROWS)
def test_operators_are_told_the_thing(name: str) -> None:
    made, reason, sentence = ROWS[name]
    story, fact = made()
    decision = decide(story.state, Propose(fact), story.scribe.now_s)
    assert (decision.reason, decision.detail) == (reason, sentence)
    assert decision.outcome is not Outcome.ACCEPTED


def test_policies_name_those_with_whom_they_make_no_deals() -> None:
    for kind, denied, sentence in (
        (K.BID, CREATOR, "the task's creator (creator) has forked its feed, and refuse_equivocators is set"),
        (K.CLAIM, WORKER, "the bidder (worker) has forked its feed, and refuse_equivocators is set"),
    ):
        story = Story()
        decision = decide(story.state, Propose(story.fact(kind), frozenset({denied})), START_S)
        assert (decision.reason, decision.detail) == (Reason.EQUIVOCATOR, sentence)


@pytest.mark.parametrize("status", SeedStatus)
def test_what_has_become_of_a_task_is_one_sentence(status: SeedStatus) -> None:
    said = standing_of("creator/1", Story(status).progress)
    assert said.startswith(f"{TASK} ")
    assert not said.endswith(".")


@pytest.mark.parametrize(
    ("at_s", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_796_051_423, "2026-11-30T15:10:23Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
        (253_402_300_800, "253402300800 s after 1970"),
        (2**53 - 1, f"{2**53 - 1} s after 1970"),
    ],
)
def test_times_of_strangers_are_written_whatever_they_are(at_s: int, text: str) -> None:
    assert utc(at_s) == text


def test_long_ids_are_cut_to_their_ends() -> None:
    assert node("12D3KooWHShkV1meAbSYDs6WMPGFh53iXKECgqctyhqaUL1ixWbt") == "12D3…xWbt"
    assert (node("short"), node(""), node(None)) == ("short", "nobody", "nobody")
