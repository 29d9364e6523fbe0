"""Each stage of a task, as its publisher, its worker, a bidder and a bystander see it."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.domain.acceptance import Acceptance
from crabnet.domain.model import FactKind, SeedStatus, TaskResult
from crabnet.domain.record import EMPTY, Record
from crabnet.errors import Reason
from crabnet.market.heard import HeardDecline
from crabnet.market.policies import Accepting, AwardRule, Declined, Terms
from crabnet.market.stages import Here, Stage, StageName, StageState
from crabnet.market.why import headline, why
from tests.domain.story import S, Story
from tests.support.facts import CREATOR, RIVAL, START_S, STRANGER, WORKER

N = StageName
DONE, WAITING, FAILED, NOT_REACHED = StageState
CLOSES_S, CLAIM_BY_S, DUE_S = START_S + 100, START_S + 200, START_S + 10
BUSY = HeardDecline("a worker", "busy", None, 0)


def here(node_id: str, now_s: int = START_S, **facts: Any) -> Here:
    return Here(node_id=node_id, now_ms=now_s * 1000, **{"runs": True, "peers": 2, **facts})


def story(status: SeedStatus = S.OPEN) -> Record:
    told = Story(status)
    return told.state.records[told.seed]


def without_bids(**changes: Any) -> Record:
    record = story()
    assert record.seed is not None
    seed = msgspec.structs.replace(record.seed.body, **changes)
    return Record(msgspec.structs.replace(record.seed, body=seed))


def done(acceptance: Acceptance | None = None) -> Record:
    """A task whose result is that of a command that wrote nothing."""
    record = story(S.DONE)
    assert record.seed is not None
    others = tuple(
        msgspec.structs.replace(fact, body=msgspec.structs.replace(fact.body, output_hash=hashlib.sha256().hexdigest()))
        if isinstance(fact.body, TaskResult)
        else fact
        for fact in record.others
    )
    seed = msgspec.structs.replace(record.seed.body, acceptance=acceptance)
    return msgspec.structs.replace(record, seed=msgspec.structs.replace(record.seed, body=seed), others=others)


def stage(record: Record, seen: Here, name: StageName) -> Stage:
    return next(each for each in why(record, seen) if each.name is name)


@pytest.mark.parametrize("node_id", [CREATOR, WORKER, RIVAL, STRANGER])
@pytest.mark.parametrize(
    ("status", "states"),
    [
        (S.OPEN, (DONE, DONE, WAITING, NOT_REACHED, NOT_REACHED, NOT_REACHED, NOT_REACHED)),
        (S.EXPIRED, (DONE, DONE, FAILED, NOT_REACHED, NOT_REACHED, NOT_REACHED, NOT_REACHED)),
        (S.CLAIMED, (DONE, DONE, DONE, WAITING, NOT_REACHED, NOT_REACHED, NOT_REACHED)),
        (S.RUNNING, (DONE, DONE, DONE, DONE, WAITING, NOT_REACHED, NOT_REACHED)),
        (S.DONE, (DONE, DONE, DONE, DONE, DONE, WAITING, NOT_REACHED)),
        (S.ACCEPTED, (DONE, DONE, DONE, DONE, DONE, DONE, WAITING)),
        (S.REJECTED, (DONE, DONE, DONE, DONE, DONE, FAILED, WAITING)),
        (S.FORFEITED, (DONE, DONE, WAITING, NOT_REACHED, NOT_REACHED, NOT_REACHED, NOT_REACHED)),
    ],
)
def test_each_status_is_at_its_stage(status: SeedStatus, states: tuple[StageState, ...], node_id: str) -> None:
    record = story(status)
    stages = why(record, here(node_id))
    assert tuple(each.state for each in stages) == states
    assert [each.name for each in stages] == list(StageName)
    for each in stages:
        assert bool(each.text) == (each.state is not NOT_REACHED)
        if each.state is WAITING:
            assert each.since_s is not None, "since when"
            assert each.waits_for is not None, "for whom"
    assert headline(record, stages, START_S)


def test_a_disputed_task_is_over() -> None:
    stages = why(story(S.DISPUTED), here(CREATOR))
    assert [each.state for each in stages if each.state is WAITING] == []
    settled = stage(story(S.DISPUTED), here(CREATOR), N.SETTLEMENT)
    assert (settled.state, settled.reason) == (FAILED, Reason.FORK)


def test_an_acknowledged_task_waits_for_nothing() -> None:
    told = Story(S.ACCEPTED)
    told.tell(told.fact(FactKind.ACKNOWLEDGED))
    stages = why(told.state.records[told.seed], here(CREATOR))
    assert {each.state for each in stages} == {DONE}


ROWS: list[tuple[str, Record, Here, StageName, StageState, Reason | None, str, str]] = [
    (
        "no node",
        without_bids(),
        Here(node_id=CREATOR, now_ms=START_S * 1000),
        N.PUBLICATION,
        WAITING,
        Reason.NODE_UNREACHABLE,
        "no node runs here",
        "crabnet listen",
    ),
    (
        "no peers",
        without_bids(),
        here(CREATOR, peers=0),
        N.PUBLICATION,
        WAITING,
        Reason.NO_PEERS,
        "no peer",
        "bootstrap_peers",
    ),
    ("heard", without_bids(), here(CREATOR, heard_by=3), N.PUBLICATION, DONE, None, "sent to 3 peers", ""),
    (
        "forked publisher",
        without_bids(),
        here(STRANGER, equivocators=frozenset({CREATOR})),
        N.PUBLICATION,
        DONE,
        Reason.EQUIVOCATOR,
        "has forked its feed",
        "",
    ),
    ("no bids", without_bids(), here(CREATOR), N.BIDS, WAITING, Reason.NO_BIDS, "no worker has bid", "crabnet peers"),
    (
        "said",
        without_bids(reward=5),
        here(CREATOR, declines=(BUSY,)),
        N.BIDS,
        WAITING,
        Reason.NO_BIDS,
        "no worker has bid: 1 worker saw it: 1 is busy",
        "--bid-window",
    ),
    (
        "too cheap",
        without_bids(reward=5),
        here(CREATOR, declines=(HeardDecline("a", "price", 9, 0),)),
        N.BIDS,
        WAITING,
        Reason.NO_BIDS,
        "1 wants more than 5 (9 would do)",
        "--max-price",
    ),
    (
        "closed",
        without_bids(),
        here(CREATOR, CLOSES_S + 1, declines=(BUSY,)),
        N.BIDS,
        FAILED,
        Reason.NO_BIDS,
        "bidding has closed, and no worker has bid: 1 worker saw it",
        "--bid-window",
    ),
    (
        "own policy",
        without_bids(),
        here(WORKER, offer=Declined(Reason.PRICE, "it wants 9, and the reward is 5", 9)),
        N.BIDS,
        WAITING,
        Reason.PRICE,
        "this node would not bid: it wants 9",
        "prices",
    ),
    (
        "no policy",
        without_bids(),
        here(WORKER, offer=7),
        N.BIDS,
        WAITING,
        Reason.NO_BIDS,
        "for 7 by its prices",
        "crabnet work",
    ),
    (
        "paused",
        without_bids(),
        here(WORKER, auto_bid=True, paused=True),
        N.BIDS,
        WAITING,
        Reason.BUSY,
        "paused",
        "crabnet runs resume",
    ),
    (
        "draining",
        without_bids(),
        here(WORKER, auto_bid=True, draining=True),
        N.BIDS,
        WAITING,
        Reason.BUSY,
        "about to end",
        "",
    ),
    (
        "more bids",
        story(),
        here(CREATOR, declines=(BUSY,)),
        N.BIDS,
        DONE,
        None,
        "more may come: 2 workers saw it: 1 bids",
        "",
    ),
    ("operator claims", story(), here(CREATOR), N.AWARD, WAITING, None, "you have to claim", "crabnet seed claim"),
    (
        "node claims",
        story(),
        here(CREATOR, terms=Terms()),
        N.AWARD,
        WAITING,
        Reason.NOT_DUE,
        "by itself (cheapest)",
        "claim",
    ),
    (
        "node claims at once",
        story(),
        here(CREATOR, terms=Terms(award=AwardRule.FIRST)),
        N.AWARD,
        WAITING,
        None,
        "by itself (first)",
        "",
    ),
    (
        "no bid fits yet",
        story(),
        here(CREATOR, terms=Terms(price_max=1)),
        N.AWARD,
        WAITING,
        Reason.NO_BID_FITS,
        "none that has come fits",
        "claim",
    ),
    (
        "no bid fits",
        story(),
        here(CREATOR, CLOSES_S + 60, terms=Terms(price_max=1)),
        N.AWARD,
        WAITING,
        Reason.NO_BID_FITS,
        "above the highest price 1",
        "",
    ),
    (
        "signs nothing",
        story(),
        here(CREATOR, unsigned="its clock is wrong", unsigned_reason=Reason.CLOCK_SUSPECT),
        N.AWARD,
        WAITING,
        Reason.CLOCK_SUSPECT,
        "signs nothing at the moment: its clock is wrong",
        "",
    ),
    (
        "at risk",
        story(S.DONE),
        here(CREATOR, unsigned="it may lack envelopes", unsigned_reason=Reason.FEED_RISK),
        N.SETTLEMENT,
        WAITING,
        Reason.FEED_RISK,
        "signs nothing",
        "",
    ),
    ("publisher claims", story(), here(WORKER), N.AWARD, WAITING, None, "creator has to claim the one bid", ""),
    (
        "not claimed in time",
        story(),
        here(WORKER, CLAIM_BY_S + 1),
        N.AWARD,
        FAILED,
        Reason.DEADLINE_PASSED,
        "has claimed no bid in time",
        "",
    ),
    ("withdrawn", story(S.EXPIRED), here(WORKER), N.AWARD, FAILED, None, "closed by creator", ""),
    (
        "another attempt",
        story(S.FORFEITED),
        here(CREATOR),
        N.AWARD,
        WAITING,
        None,
        "attempt 1 was forfeited",
        "seed claim",
    ),
    (
        "worker begins",
        story(S.CLAIMED),
        here(CREATOR),
        N.START,
        WAITING,
        None,
        "worker has not begun",
        "crabnet seed cancel",
    ),
    (
        "worker is late",
        story(S.CLAIMED),
        here(CREATOR, DUE_S + 1, grace_ms=30_000),
        N.START,
        WAITING,
        Reason.DEADLINE_PASSED,
        "its time is over; this node does so 30 s after",
        "claim another bid",
    ),
    (
        "late for others",
        story(S.CLAIMED),
        here(STRANGER, DUE_S + 1),
        N.START,
        WAITING,
        Reason.DEADLINE_PASSED,
        "its time is over",
        "creator may forfeit",
    ),
    (
        "queued here",
        story(S.CLAIMED),
        here(WORKER, local_run="queued", queue_position=3),
        N.START,
        WAITING,
        Reason.BUSY,
        "waits on this node for its turn at place 3",
        "crabnet runs",
    ),
    (
        "paused here",
        story(S.CLAIMED),
        here(WORKER, local_run="queued", paused=True),
        N.START,
        WAITING,
        Reason.BUSY,
        "runs are paused",
        "crabnet runs resume",
    ),
    (
        "refused here",
        story(S.CLAIMED),
        here(WORKER, objection=Declined(Reason.NOT_ALLOWED, "it does not run 'rm'")),
        N.START,
        WAITING,
        Reason.NOT_ALLOWED,
        "its runner would refuse it: it does not run 'rm'",
        "",
    ),
    (
        "told to run",
        story(S.CLAIMED),
        here(WORKER),
        N.START,
        WAITING,
        None,
        "runs what it is told to",
        "crabnet seed run",
    ),
    (
        "no worker node",
        story(S.CLAIMED),
        Here(node_id=WORKER, now_ms=START_S * 1000),
        N.START,
        WAITING,
        Reason.NODE_UNREACHABLE,
        "no node runs here",
        "crabnet work",
    ),
    (
        "worker ends",
        story(S.CLAIMED),
        here(WORKER, draining=True, auto_run=True),
        N.START,
        WAITING,
        Reason.NODE_STOPPING,
        "about to end",
        "start it again",
    ),
    (
        "worker paused",
        story(S.CLAIMED),
        here(WORKER, paused=True, auto_run=True),
        N.START,
        WAITING,
        None,
        "paused",
        "resume",
    ),
    (
        "runs here",
        story(S.RUNNING),
        here(WORKER, local_run="running"),
        N.RESULT,
        WAITING,
        None,
        "works on it (running)",
        "",
    ),
    (
        "silent",
        story(S.RUNNING),
        here(CREATOR, START_S + 5, lease_until_s=START_S + 4, heard_s=START_S + 1),
        N.RESULT,
        WAITING,
        Reason.TIMEOUT,
        "silent for longer than it promised",
        "forfeited",
    ),
    ("you settle", story(S.DONE), here(CREATOR), N.SETTLEMENT, WAITING, None, "you have to settle", "--accepted"),
    (
        "settles by itself",
        story(S.DONE),
        here(CREATOR, terms=Terms()),
        N.SETTLEMENT,
        WAITING,
        None,
        "by itself",
        "seed settle",
    ),
    (
        "cannot judge",
        done(),
        here(CREATOR, terms=Terms(accept=Accepting.CHECK)),
        N.SETTLEMENT,
        WAITING,
        Reason.NO_CONDITIONS,
        "no conditions",
        "--accepted",
    ),
    (
        "overdue",
        story(S.DONE),
        here(CREATOR, START_S + limits.SETTLE_WINDOW_S_DEFAULT + 1),
        N.SETTLEMENT,
        WAITING,
        Reason.DEADLINE_PASSED,
        "are overdue",
        "--accepted",
    ),
    (
        "overdue for others",
        story(S.DONE),
        here(WORKER, START_S + limits.SETTLE_WINDOW_S_DEFAULT + 1),
        N.SETTLEMENT,
        WAITING,
        Reason.DEADLINE_PASSED,
        "is overdue",
        "min_settled",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_what_is_waited_for_is_said(
    row: tuple[str, Record, Here, StageName, StageState, Reason | None, str, str],
) -> None:
    _, record, seen, name, state, reason, text, change = row
    found = stage(record, seen, name)
    assert (found.state, found.reason) == (state, reason), found
    assert text in found.text
    assert change in found.change
    assert bool(change) == bool(found.change), found.change


@pytest.mark.parametrize(
    ("status", "name", "until_s"),
    [
        (S.OPEN, N.BIDS, CLOSES_S),
        (S.OPEN, N.AWARD, CLAIM_BY_S),
        (S.CLAIMED, N.START, DUE_S),
        (S.RUNNING, N.RESULT, DUE_S),
        (S.DONE, N.SETTLEMENT, START_S + limits.SETTLE_WINDOW_S_DEFAULT),
    ],
)
def test_it_is_said_until_when(status: SeedStatus, name: StageName, until_s: int) -> None:
    assert stage(story(status), here(STRANGER), name).until_s == until_s


def test_a_check_that_is_not_run_yet_is_said() -> None:
    found = stage(
        done(Acceptance(check="grep hello")), here(CREATOR, terms=Terms(accept=Accepting.CHECK)), N.SETTLEMENT
    )
    assert found.text == "this node runs the check of the task"


def test_a_worker_that_failed_is_said_to_have_failed() -> None:
    told = Story(S.RUNNING)
    told.tell(told.scribe.result(told.seed, told.claim, failed="worker"))
    record = told.state.records[told.seed]
    assert stage(record, here(CREATOR), N.RESULT).state is FAILED
    settled = stage(record, here(CREATOR), N.SETTLEMENT)
    assert settled.state is WAITING
    assert "claim another bid" in settled.text


def test_a_task_without_a_definition_cannot_be_explained() -> None:
    with pytest.raises(ValueError, match="without definition"):
        why(EMPTY, here(CREATOR))


@given(
    st.sampled_from(list(SeedStatus)),
    st.sampled_from([CREATOR, WORKER, RIVAL, STRANGER]),
    st.integers(min_value=0, max_value=2**53),
    st.booleans(),
    st.sampled_from([None, Terms(), Terms(award=None, accept=Accepting.NEVER), Terms(price_max=0)]),
    st.sampled_from([None, 3, Declined(Reason.BUSY, "busy")]),
)
def test_everything_has_an_explanation(
    status: SeedStatus, node_id: str, now_s: int, runs: bool, terms: Terms | None, offer: int | Declined | None
) -> None:
    record = STORIES[status]
    seen = here(node_id, now_s, runs=runs, terms=terms, offer=offer)
    stages = why(record, seen)
    assert len(stages) == len(StageName)
    states = [each.state for each in stages]
    if WAITING in states[1:]:
        first = states.index(WAITING, 1)
        assert set(states[first + 1 :]) <= {NOT_REACHED, WAITING}
    assert "\n" not in headline(record, stages, now_s)


STORIES = {status: story(status) for status in SeedStatus}
