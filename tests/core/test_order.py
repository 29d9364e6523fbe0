"""State is a function of the set of envelopes: any order, any duplicates, any way through journal and checkpoint."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crabnet import limits
from crabnet.core.replica.replica import Replica
from crabnet.domain.model import FactKind, SeedStatus
from crabnet.domain.record import EMPTY
from crabnet.protocol.envelope import Envelope
from tests.support.envelopes import NOW_S, edit
from tests.support.histories import Story, ends
from tests.support.journals import Journal

fewer = settings(max_examples=settings().max_examples // 3)
SEEDS = st.integers(0, 2**32)


def shuffled(rng: Random, envelopes: list[Envelope]) -> list[Envelope]:
    """All of them in some order, some of them several times."""
    some = envelopes + rng.choices(envelopes, k=len(envelopes) // 2)
    rng.shuffle(some)
    return some


def broken(rng: Random, envelopes: list[Envelope]) -> list[bytes]:
    """Copies of some with another nonce, under the same id and signature."""
    return [edit(envelope.raw, "meta.nonce", 10**6) for envelope in rng.choices(envelopes, k=len(envelopes) // 8)]


def hear(journal: Journal, envelopes: list[Envelope], rng: Random | None = None) -> Journal:
    """Hear of them again and again, as by sync, until nothing moves. With ``rng`` forks are settled now and then."""
    before: object = None
    while (now := journal.standing) != before or journal.replica.settling.pending:
        before = now
        for envelope in envelopes:
            journal.tell(envelope)
            if rng is None or rng.random() < 0.2:
                journal.keep(journal.replica.settling.settle_some(2, NOW_S))
        if journal.standing == before:
            journal.settle()
    return journal


def check_same(one: Replica, other: Replica) -> None:
    """The same, also in what no hash covers, but for the bids on what is over."""
    assert one.state_hash() == other.state_hash()
    assert one.feeds.heads() == other.feeds.heads()
    for feed in one.feeds.all():
        assert feed.end or feed.open_seeds.keys() == other.feeds.get(feed.author).open_seeds.keys()
    assert one.state.counts == other.state.counts
    for seed_id in one.state.records.keys() | other.state.records.keys():
        record, twin = one.state.records.get(seed_id, EMPTY), other.state.records.get(seed_id, EMPTY)
        assert record.progress.status is twin.progress.status
        if record.progress.status is not SeedStatus.DISPUTED:
            assert (record.seed, record.others, record.progress) == (twin.seed, twin.others, twin.progress)
        if record.progress.status in {SeedStatus.OPEN, SeedStatus.FORFEITED}:
            assert record.bids == twin.bids


def history(seed: int, forks: float, steps: int = 40) -> tuple[Random, list[Envelope]]:
    rng = Random(seed)
    return rng, Story(rng, forks=forks).tell(steps)


def check_any_order(seed: int, forks: float) -> None:
    rng, envelopes = history(seed, forks)
    first = hear(Journal(), envelopes)
    for author, end in ends(envelopes).items():
        feed = first.replica.feeds.get(author)
        assert feed.end == end
        assert not end or feed.head_seq < end
    for _ in range(3):
        other = Journal()
        for raw in broken(rng, envelopes):
            assert all(each.record is None for each in other.replica.receive(raw, NOW_S))
        hear(other, shuffled(rng, envelopes), rng)
        check_same(first.replica, other.replica)


@pytest.mark.parametrize("forks", [0.0, 0.15, *(pytest.param(share, marks=pytest.mark.deep) for share in (0.05, 0.5))])
@fewer
@given(seed=SEEDS)
def test_any_order_gives_the_same_state(seed: int, forks: float) -> None:
    check_any_order(seed, forks)


@pytest.mark.deep
def test_any_order_gives_the_same_state_at_length() -> None:
    for seed in range(300):
        check_any_order(seed, seed % 5 / 20)


@pytest.mark.deep
def test_the_histories_hold_what_they_should() -> None:
    """Settled, forfeited, closed and disputed seeds, facts behind ends: else the properties above say little."""
    statuses: Counter[SeedStatus] = Counter()
    kinds: Counter[FactKind] = Counter()
    ended = behind = waiting = 0
    for seed in range(400):
        _, envelopes = history(seed, 0.02 if seed % 2 else 0.2)
        journal = hear(Journal(), envelopes)
        for record in journal.replica.state.records.values():
            statuses[record.progress.status] += 1
            for fact in record.facts():
                kinds[fact.kind] += 1
                behind += not journal.replica.feeds.is_front(fact.author, fact.seq)
        ended += len(journal.replica.feeds.equivocators())
        waiting += len(journal.replica.parking)
    assert statuses.keys() == set(SeedStatus)
    assert kinds.keys() == set(FactKind)
    assert min(ended, behind, waiting, statuses[SeedStatus.ACCEPTED], kinds[FactKind.ACKNOWLEDGED]) > 10


@fewer
@given(seed=SEEDS, forks=st.sampled_from([0.05, 0.2]))
def test_replay_gives_what_the_journal_was_written_from(seed: int, forks: float) -> None:
    rng, envelopes = history(seed, forks)
    live = hear(Journal(), shuffled(rng, envelopes), rng)
    replayed = live.replayed()
    check_same(live.replica, replayed.replica)
    assert live.replica.state.records == replayed.replica.state.records
    assert live.replica.feeds.all() == replayed.replica.feeds.all()
    assert live.replica.state.totals == replayed.replica.state.totals
    assert list(live.replica.seen.entries()) == list(replayed.replica.seen.entries())
    assert len(replayed.records) == len(live.records), "nothing was left to be done"


@fewer
@given(seed=SEEDS)
def test_a_journal_cut_off_anywhere_and_the_same_envelopes_again_give_the_same(seed: int) -> None:
    rng, envelopes = history(seed, 0.2)
    live = hear(Journal(), shuffled(rng, envelopes), rng)
    again = live.replayed(rng.randrange(len(live.records) + 1))
    hear(again, shuffled(rng, envelopes))
    check_same(live.replica, again.replica)


@fewer
@given(seed=SEEDS)
def test_a_checkpoint_at_any_place_and_the_same_envelopes_after_it_give_the_same(seed: int) -> None:
    """What comes after a restart is judged as it would have been without; what was parked is told again."""
    rng, envelopes = history(seed, 0.2)
    order = shuffled(rng, envelopes)
    at = rng.randrange(len(order) + 1)
    live = Journal()
    live.tell(*order[:at])
    restored = live.restored()
    assert restored.replica.settling.pending == live.replica.settling.pending
    hear(restored, order)
    hear(live, order)
    check_same(live.replica, restored.replica)


@fewer
@given(seed=SEEDS)
def test_little_room_to_wait_makes_no_difference(seed: int) -> None:
    rng, envelopes = history(seed, 0.1, steps=30)
    ample = hear(Journal(), envelopes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "PARKED_ENVELOPES_MAX", 6)
        tight = Journal()
        for _ in range(2):
            hear(tight, shuffled(rng, envelopes))
    hear(tight, envelopes)
    check_same(ample.replica, tight.replica)
