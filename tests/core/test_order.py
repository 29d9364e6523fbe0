"""State is a function of the set of envelopes: any order, any duplicates, any way through journal and checkpoint."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crabnet.core.commands import Received
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.records import decode_frame, frame_of
from crabnet.core.replica import Replica
from crabnet.core.snapshot import Snapshot, restore
from crabnet.domain.model import SeedStatus
from crabnet.protocol.envelope import Envelope
from tests.support.envelopes import NOW_S, signer
from tests.support.histories import Story, expected_records, standing

SOURCE = "192.0.2.1:9012"
fewer = settings(max_examples=settings().max_examples // 3)
SEEDS = st.integers(0, 2**32)


def new_core() -> Core:
    return Core(CoreConfig(), signer("observer"), lambda: 1)


def told(core: Core, envelopes: list[Envelope]) -> list[bytes]:
    """Tell a core all envelopes, one by one; the frames that it journals."""
    frames = []
    for envelope in envelopes:
        effects = Effects()
        core.handle(Received(SOURCE, envelope.raw), NOW_S * 1000, effects)
        if effects.records:
            frames.append(frame_of(effects.records))
    return frames


def shuffled(rng: Random, envelopes: list[Envelope]) -> list[Envelope]:
    """All of them in some order, some of them several times."""
    some = envelopes + rng.choices(envelopes, k=len(envelopes) // 2)
    rng.shuffle(some)
    return some


def check_same(one: Replica, other: Replica) -> None:
    assert one.state_hash() == other.state_hash()
    assert one.state.records == other.state.records
    assert one.feeds.heads() == other.feeds.heads()
    assert one.state.counts == other.state.counts
    assert one.state.totals == other.state.totals
    assert one.state.orphans == other.state.orphans


def seen_of(replica: Replica, envelopes: list[Envelope]) -> list[tuple[str, int]]:
    """The part of the seen window that is kept: talk between neighbours is not."""
    ids = {envelope.meta.id for envelope in envelopes}
    return [entry for entry in replica.seen.entries() if entry[0] in ids]


def history(seed: int, steps: int, forks: float) -> tuple[Random, list[Envelope]]:
    rng = Random(seed)
    return rng, Story(rng, forks=forks).tell(steps)


@pytest.mark.parametrize("forks", [0.0, 0.15, 0.5, pytest.param(0.3, marks=pytest.mark.deep)])
@fewer
@given(seed=SEEDS)
def test_any_order_gives_the_same_state(seed: int, forks: float) -> None:
    rng, envelopes = history(seed, 40, forks)
    first = new_core()
    told(first, envelopes)
    assert dict(first.replica.state.records) == expected_records(envelopes)
    heads = {(envelope.meta.from_, envelope.meta.seq): envelope.meta.id for envelope in standing(envelopes)}
    for author, (seq, head_id) in first.replica.feeds.heads().items():
        assert heads[(author, seq)] == head_id
        assert (author, seq + 1) not in heads
    for _ in range(3):
        other = new_core()
        told(other, shuffled(rng, envelopes))
        check_same(first.replica, other.replica)


def test_the_histories_hold_what_they_should() -> None:
    """Settled, forfeited and closed seeds, waiting facts, forks: else the properties above say little."""
    statuses: set[SeedStatus] = set()
    verdicts: set[str] = set()
    forks = 0
    for seed in range(100):
        _, envelopes = history(seed, 40, 0.05)
        core = new_core()
        told(core, envelopes)
        for record in core.replica.state.records.values():
            statuses.add(record.progress.status)
            verdicts |= {f"{entry.judgement.verdict}:{entry.judgement.reason}" for entry in record.others}
        forks += sum(len(feed.forks) for feed in core.replica.feeds.all())
    assert statuses == set(SeedStatus)
    assert {f"waiting:{reason}" for reason in ("unknown_seed", "unknown_claim", "unknown_parent")} <= verdicts
    assert {f"void:{reason}" for reason in ("wrong_state", "unauthorised", "unknown_claim")} <= verdicts
    assert forks > 30


@fewer
@given(seed=SEEDS)
def test_replay_gives_what_the_journal_was_written_from(seed: int) -> None:
    rng, envelopes = history(seed, 40, 0.2)
    live = new_core()
    frames = told(live, shuffled(rng, envelopes))
    replayed = new_core().replica
    for frame in frames:
        for record in decode_frame(frame):
            replayed.replay(record)
    check_same(live.replica, replayed)
    assert {feed.author: feed.forks for feed in live.replica.feeds.all()} == {
        feed.author: feed.forks for feed in replayed.feeds.all()
    }
    assert seen_of(live.replica, envelopes) == seen_of(replayed, envelopes)


@fewer
@given(seed=SEEDS)
def test_a_checkpoint_at_any_place_and_the_journal_after_it_give_the_same(seed: int) -> None:
    rng, envelopes = history(seed, 40, 0.2)
    envelopes = shuffled(rng, envelopes)
    at = rng.randrange(len(envelopes) + 1)
    live = new_core()
    told(live, envelopes[:at])
    snapshot = Snapshot(live.replica)
    state_hash = live.replica.state_hash()
    frames = told(live, envelopes[at:])
    restored = new_core().replica
    restore(restored, snapshot.rows())
    assert restored.state_hash() == snapshot.state_hash == state_hash
    for frame in frames:
        for record in decode_frame(frame):
            restored.replay(record)
    check_same(live.replica, restored)
    assert seen_of(live.replica, envelopes) == seen_of(restored, envelopes)


@fewer
@given(seed=SEEDS)
def test_a_restored_replica_goes_on_like_the_one_it_was_made_from(seed: int) -> None:
    """What comes after a restart is judged as it would have been without; what was parked is told again."""
    rng, envelopes = history(seed, 40, 0.2)
    at = rng.randrange(len(envelopes) + 1)
    live = new_core()
    told(live, envelopes[:at])
    other = new_core()
    restore(other.replica, Snapshot(live.replica).rows())
    told(live, envelopes[at:])
    told(other, envelopes)
    check_same(live.replica, other.replica)
