"""What a fork takes back, by example; that order does not matter is a property of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from crabnet import limits
from crabnet.protocol.envelope import Envelope
from tests.core.test_outcomes import ACCEPTED, Scene, rejected, waits
from tests.support.envelopes import Author


def lower(author: Author, say: Callable[[], Envelope], than: Envelope) -> Envelope:
    """The envelope that ``say`` makes, with a nonce that gives it a lower id than ``than``."""
    start = copy.copy(author)
    while True:
        envelope = say()
        if envelope.meta.id < than.meta.id:
            return envelope
        author.seq, author.head = start.seq, start.head


def rewind(author: Author, to: Envelope) -> None:
    """The author forgets this envelope and all after it."""
    author.seq, author.head = to.meta.seq - 1, to.meta.prev


def test_another_definition_of_a_seed_judges_its_bids_anew() -> None:
    scene = Scene()
    first = scene.seed()
    bid = scene.bid(scene.worker)
    assert (scene.tell(first), scene.tell(bid)) == (ACCEPTED, ACCEPTED)
    rewind(scene.creator, first)
    dearer = lower(scene.creator, lambda: scene.seed(min_price=100, title="dearer"), first)
    assert scene.tell(dearer) == ACCEPTED
    record = scene.core.record(scene.seed_id)
    assert record.definition is not None
    assert record.definition.title == "dearer"
    assert [entry.judgement.reason for entry in record.bids] == ["price_too_low"]
    assert scene.tell(scene.claim()) == rejected("unknown_bid")


@pytest.mark.parametrize("step", ["claim", "run", "result", "settle"])
def test_a_fork_at_the_seed_leaves_its_facts_waiting_for_the_new_story(step: str) -> None:
    """Everything the creator said after the fork is void, what others said waits or stands on its own."""
    scene = Scene()
    first = scene.seed()
    assert scene.tell(first) == ACCEPTED
    for name in ("bid", "claim", "run", "result", "settle"):
        assert scene.tell(scene.bid(scene.worker) if name == "bid" else getattr(scene, name)()) == ACCEPTED
        if name == step:
            break
    rewind(scene.creator, first)
    assert scene.tell(lower(scene.creator, lambda: scene.seed(title="another"), first)) == ACCEPTED
    assert scene.status == "Open"
    feed = scene.core.replica.feeds.get(scene.creator.id)
    assert (feed.head_seq, len(feed.forks)) == (1, 1)
    assert scene.tell(scene.claim()) == ACCEPTED
    assert scene.status in {"Claimed", "Running", "Done"}


def test_a_creator_who_takes_its_settlement_back_is_found_out() -> None:
    scene = Scene().until("result")
    settle = scene.settle()
    assert scene.tell(settle) == ACCEPTED
    rewind(scene.creator, settle)
    other = lower(scene.creator, lambda: scene.settle(status="Rejected"), settle)
    assert scene.tell(other) == ACCEPTED
    assert scene.status == "Rejected"
    assert scene.tell(settle) == ("envelope_ignored", "duplicate")
    proof = scene.core.replica.feeds.get(scene.creator.id).forks[0]
    assert (proof.id, proof.loser) == (other.meta.id, settle.meta.id)


def test_a_bid_that_was_forked_away_leaves_its_claim_waiting() -> None:
    scene = Scene()
    assert scene.tell(scene.seed()) == ACCEPTED
    bid = scene.bid(scene.worker)
    assert scene.tell(bid) == ACCEPTED
    bid_id = scene.bid_id
    assert scene.tell(scene.claim()) == ACCEPTED
    rewind(scene.worker, bid)
    another = lower(scene.worker, lambda: scene.bid(scene.worker, seed_id="another"), bid)
    assert scene.tell(another) == waits("unknown_seed")
    assert scene.status == "Open"
    assert bid_id not in {entry.fact.key for entry in scene.core.record(scene.seed_id).bids}
    verdicts = [entry.judgement.reason for entry in scene.core.record(scene.seed_id).others]
    assert verdicts == ["unknown_bid"]


def test_proofs_of_forks_are_bounded() -> None:
    scene = Scene()
    for _ in range(30):
        envelope = scene.seed()
        scene.tell(envelope)
        rewind(scene.creator, envelope)
    assert len(scene.core.replica.feeds.get(scene.creator.id).forks) == limits.FORK_PROOFS_PER_FEED_MAX
