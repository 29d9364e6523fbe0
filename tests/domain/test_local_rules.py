"""What a node demands of its own operator, and what it shows."""

from __future__ import annotations

import pytest

from crabnet.domain.decision import decide
from crabnet.domain.lifecycle import status_at
from crabnet.domain.local_rules import is_biddable
from crabnet.domain.model import Fact, FactKind, SeedStatus
from crabnet.domain.record import EMPTY
from crabnet.domain.state import Decision, Outcome, Propose, State
from crabnet.errors import Reason
from tests.domain.story import ALLOWED, STEPS, Story
from tests.support.facts import RIVAL, START_S

S = SeedStatus
K = FactKind


def proposed(story: Story, fact: Fact, now_s: int | None = None) -> Decision:
    """What a node says to its own operator."""
    return decide(story.state, Propose(fact), story.scribe.now_s if now_s is None else now_s)


@pytest.mark.parametrize("status", S)
def test_operators_bid_only_on_what_is_to_be_had(status: SeedStatus) -> None:
    story = Story(status)
    decision = proposed(story, story.fact(K.BID))
    expected = None if status in {S.OPEN, S.FORFEITED} else Reason.WRONG_STATE
    assert decision.reason is expected
    assert is_biddable(story.state.records[story.seed], story.scribe.now_s) is (expected is None)
    assert not is_biddable(EMPTY, story.scribe.now_s)


def test_operators_bid_only_in_time_by_their_own_clock() -> None:
    story = Story()
    bid = story.fact(K.BID)
    assert proposed(story, bid, START_S + 100).outcome is Outcome.ACCEPTED
    late = proposed(story, bid, START_S + 101)
    assert (late.outcome, late.reason, late.events) == (Outcome.REJECTED, Reason.DEADLINE_PASSED, ())
    record = story.state.records[story.seed]
    assert (is_biddable(record, START_S + 100), is_biddable(record, START_S + 101)) == (True, False)


def test_operators_bid_and_claim_only_within_max_bids() -> None:
    story = Story(max_bids=1)
    story.scribe.now_s += 1
    surplus = story.scribe.bid(story.seed, RIVAL)
    assert proposed(story, surplus).reason is Reason.TOO_MANY_BIDS
    assert not is_biddable(story.state.records[story.seed], story.scribe.now_s)
    story.observe(surplus)
    claim = story.scribe.claim(story.seed, surplus.key, RIVAL)
    assert proposed(story, claim).reason is Reason.TOO_MANY_BIDS
    assert story.observe(claim).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize("kind", [K.FORFEIT, K.CLOSE])
def test_operators_do_not_take_back_a_claim_whose_result_has_come(kind: FactKind) -> None:
    story = Story(S.DONE)
    assert proposed(story, story.fact(kind)).reason is Reason.WRONG_STATE


@pytest.mark.parametrize("kind", [kind for kind in K if kind is not K.SEED])
def test_operators_speak_of_known_seeds_only(kind: FactKind) -> None:
    story = Story(S.ACCEPTED)
    decision = decide(State(), Propose(story.fact(kind)), START_S)
    assert (decision.outcome, decision.reason) == (Outcome.REJECTED, Reason.UNKNOWN_SEED)
    assert story.seed in decision.detail


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("status", S)
def test_operators_state_only_what_takes_effect_at_once(status: SeedStatus, kind: FactKind) -> None:
    story = Story(status)
    before = story.state.records[story.seed]
    decision = proposed(story, story.fact(kind))
    allowed = (status, kind) in ALLOWED and (status, kind) not in {(S.DONE, K.FORFEIT), (S.DONE, K.CLOSE)}
    assert (decision.outcome is Outcome.ACCEPTED) == allowed
    assert allowed or (decision.reason is not None and decision.detail + decision.reason)
    assert story.state.records[story.seed] is before


def test_an_open_seed_past_its_claim_deadline_is_shown_as_expired() -> None:
    story = Story()
    record = story.state.records[story.seed]
    assert status_at(record, START_S + 200) is S.OPEN
    assert status_at(record, START_S + 201) is S.EXPIRED
    assert story.progress.status is S.OPEN
    for status in set(S) - {S.OPEN}:
        other = Story(status)
        assert status_at(other.state.records[other.seed], START_S + 10_000) is status
