"""What each kind of fact may rest on, and that it fits what it rests on."""

from __future__ import annotations

import pytest
from msgspec import structs

from crabnet.domain.model import Fact, FactKind, SeedStatus
from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from tests.domain.story import Story
from tests.support.facts import RIVAL, Scribe, Witness

S = SeedStatus
K = FactKind


WRONG_PARENTS = [
    (S.DONE, K.BID, "bid"),
    (S.OPEN, K.CLAIM, "seed"),
    (S.FORFEITED, K.CLAIM, "claim"),
    (S.CLAIMED, K.STARTED, "bid"),
    (S.RUNNING, K.STARTED, "started"),
    (S.CLAIMED, K.RESULT, "bid"),
    (S.DONE, K.SETTLE, "claim"),
    (S.DONE, K.SETTLE, "started"),
    (S.CLAIMED, K.FORFEIT, "bid"),
    (S.RUNNING, K.FORFEIT, "started"),
    (S.OPEN, K.CLOSE, "bid"),
    (S.DONE, K.CLOSE, "result"),
    (S.ACCEPTED, K.ACKNOWLEDGED, "result"),
]


@pytest.mark.parametrize(("status", "kind", "parent"), WRONG_PARENTS)
def test_a_fact_on_an_envelope_of_the_wrong_kind_never_counts(status: SeedStatus, kind: FactKind, parent: str) -> None:
    story = Story(status)
    named = next(fact for fact in story.scribe.facts if fact.kind.value == parent)
    fact = story.fact(kind)
    right = Story(status)
    assert right.observe(fact).outcome is Outcome.ACCEPTED
    wrong = structs.replace(fact, body=structs.replace(fact.body, rests_on=named.envelope))
    assert story.refused(wrong) is Reason.WRONG_PARENT
    assert wrong.ref in story.witness.idle


def test_every_kind_is_tried_with_a_wrong_parent() -> None:
    assert {kind for _, kind, _ in WRONG_PARENTS} == set(K) - {K.SEED}


def test_a_claim_names_the_bid_that_it_rests_on() -> None:
    story = Story()
    other = story.tell(story.scribe.bid(story.seed, RIVAL))
    assert story.refused(story.scribe.claim(story.seed, story.bid, rests_on=other.envelope)) is Reason.WRONG_PARENT


def two_claims() -> tuple[Story, Fact]:
    """A seed whose second attempt is claimed, and the first claim."""
    story = Story(S.CLAIMED)
    first = story.scribe.facts[-1]
    story.forfeits()
    story.claims()
    return story, first


@pytest.mark.parametrize("kind", [K.STARTED, K.RESULT])
def test_work_names_the_claim_that_it_rests_on(kind: FactKind) -> None:
    story, first = two_claims()
    write = story.scribe.started if kind is K.STARTED else story.scribe.result
    assert story.refused(write(story.seed, story.claim, rests_on=first.envelope)) is Reason.WRONG_PARENT
    story.tell(write(story.seed, story.claim))


@pytest.mark.parametrize("outcome", [S.FORFEITED, S.EXPIRED])
def test_the_end_of_a_claim_rests_on_that_claim(outcome: SeedStatus) -> None:
    story, first = two_claims()
    story.scribe.now_s += 60
    named = story.scribe.settle(story.seed, outcome, story.claim, attempt=2, rests_on=first.envelope)
    assert story.refused(named) is Reason.WRONG_PARENT
    story.tell(story.scribe.settle(story.seed, outcome, story.claim, attempt=2))


@pytest.mark.parametrize("kind", [K.STARTED, K.RESULT])
def test_work_on_the_claim_before_is_late(kind: FactKind) -> None:
    story, first = two_claims()
    write = story.scribe.started if kind is K.STARTED else story.scribe.result
    decision = story.observe(write(story.seed, first.key))
    assert (decision.outcome, decision.reason, decision.events) == (Outcome.IGNORED, Reason.WRONG_STATE, ())


def test_a_close_rests_on_the_seed_unless_it_withdraws_a_claim() -> None:
    story = Story(S.FORFEITED)
    claim = next(fact.envelope for fact in story.scribe.facts if fact.kind is K.CLAIM)
    assert story.refused(story.scribe.settle(story.seed, S.EXPIRED, rests_on=claim)) is Reason.WRONG_PARENT
    story.tell(story.scribe.settle(story.seed, S.EXPIRED))


def test_a_result_rests_on_the_run_once_there_is_one() -> None:
    story = Story(S.RUNNING)
    run = story.scribe.facts[-1]
    claim = next(fact.envelope for fact in story.scribe.facts if fact.kind is K.CLAIM)
    renewal = story.tell(story.fact(K.STARTED))
    for wrong in (claim, renewal.envelope):
        assert story.refused(story.scribe.result(story.seed, story.claim, rests_on=wrong)) is Reason.WRONG_PARENT
    story.tell(story.scribe.result(story.seed, story.claim, rests_on=run.envelope))


def test_an_acknowledgement_rests_on_the_settlement_that_counts() -> None:
    story = Story(S.ACCEPTED)
    again = story.fact(K.SETTLE)
    assert story.refused(again) is Reason.WRONG_STATE
    assert story.refused(story.scribe.acknowledges(again)) is Reason.WRONG_PARENT


def test_work_on_a_claim_that_never_counted_is_void() -> None:
    story = Story(S.CLAIMED)
    void = story.scribe.claim(story.seed, story.bid)
    assert story.refused(void) is Reason.WRONG_STATE
    decision = story.observe(story.scribe.result(story.seed, void.key))
    assert (decision.outcome, decision.reason, decision.events) == (Outcome.IGNORED, Reason.UNKNOWN_CLAIM, ())


def test_unsigned_facts_name_objects_instead_of_envelopes() -> None:
    scribe = Scribe(signed=False)
    witness = Witness([seed := scribe.seed(), bid := scribe.bid(seed.key)])
    claim = scribe.claim(seed.key, bid.key)
    other = scribe.bid(seed.key, RIVAL)
    assert witness.observe(scribe.claim(seed.key, other.key, RIVAL)).reason is Reason.UNKNOWN_BID
    for fact in (claim, run := scribe.started(seed.key, claim.key), result := scribe.result(seed.key, claim.key)):
        assert witness.observe(fact).outcome is Outcome.ACCEPTED
    assert not any(fact.envelope or fact.rests_on for fact in (claim, run, result))
    assert witness.observe(scribe.settle(seed.key, S.ACCEPTED, claim.key, "other")).reason is Reason.UNKNOWN_RESULT
    assert witness.observe(scribe.settle(seed.key, S.ACCEPTED, claim.key, result.key)).outcome is Outcome.ACCEPTED
    assert witness.state.records[seed.key].progress.status is S.ACCEPTED


def test_a_signed_fact_names_signed_ones_by_envelope_only() -> None:
    story = Story(S.CLAIMED)
    nameless = story.scribe.started(story.seed, story.claim, rests_on="")
    assert story.refused(nameless) is Reason.WRONG_PARENT
