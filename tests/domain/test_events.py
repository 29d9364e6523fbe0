"""An event does the same whether it comes with the record that was decided or not, as in a replay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from crabnet.domain.decision import decide
from crabnet.domain.fold import refold
from crabnet.domain.model import Fact, FactKind
from crabnet.domain.record import EMPTY
from crabnet.domain.state import SeedEvent, State, apply, assembled
from tests.support.facts import Witness, fronts
from tests.support.made_up import histories, interleaved

RANDOMS = st.randoms(use_true_random=False)
FORKS = 0.15


def from_scratch(state: State) -> State:
    """A state with the same records, of which nothing but these was known."""
    fresh = State()
    fresh.load(dict(state.records), None)
    return fresh


def assert_agree(one: State, other: State) -> None:
    assert one.records == other.records
    assert (+one.counts, +one.totals) == (+other.counts, +other.totals)
    assert one.digest() == other.digest()


def lives(facts: list[Fact]) -> Iterator[SeedEvent]:
    """The events of a node that judges one by one, and then hears where feeds end: a fold of each seed anew."""
    witness = Witness()
    is_front = fronts(facts)
    for fact in facts:
        yield from witness.observe(fact).events
    for seed_id in dict.fromkeys(fact.seed_id for fact in facts):
        before = witness.state.records.get(seed_id, EMPTY)
        after = refold([fact for fact in facts if fact.seed_id == seed_id], is_front)
        new = {fact.ref: fact for fact in after.facts()}
        known = {fact.ref: fact for fact in (*before.facts(), *before.fallen)}
        removed = tuple(sorted(fact.ref for fact in before.facts() if fact.ref not in new))
        returned = tuple(sorted(fact.ref for fact in before.fallen if fact.ref in new))
        added = tuple(fact for ref, fact in new.items() if ref not in known)
        fallen = [fact for ref, fact in known.items() if ref not in new]
        after = assembled(after.facts(), after.progress, fallen)
        yield SeedEvent(seed_id, None, removed, after.progress, added, returned, (before, after))


@given(histories(seeds_max=1, forks=FORKS), RANDOMS)
def test_a_replay_gives_the_same_records(facts: list[Fact], random: Random) -> None:
    live, replayed = State(), State()
    for event in lives(facts):
        assert event.decided is not None
        assert event.decided[0] is live.records.get(event.seed_id, EMPTY)
        apply(live, event)
        apply(replayed, msgspec.structs.replace(event, decided=None))
        assert live.records == replayed.records
        if random.random() < 0.2:
            live.hash_some(1)
    assert_agree(live, replayed)
    assert_agree(live, from_scratch(live))


@given(histories(), RANDOMS)
def test_counts_are_what_a_recount_gives_at_any_time(facts: list[Fact], random: Random) -> None:
    witness = Witness()
    for fact in interleaved(facts, random):
        witness.observe(fact)
        records = witness.state.records.values()
        assert +witness.state.counts == Counter(record.progress.status for record in records)
        kinds = Counter(each.kind for record in records for each in record.facts())
        kinds.pop(FactKind.SEED, None)
        assert +witness.state.totals == kinds


@given(histories(seeds_max=1, forks=FORKS), RANDOMS)
def test_an_event_that_was_decided_on_another_record_is_applied_to_the_present_one(
    facts: list[Fact], random: Random
) -> None:
    plain, cached = State(), State()
    for event in lives(facts):
        if random.random() < 0.7:
            apply(plain, msgspec.structs.replace(event, decided=None))
            apply(cached, event)
    assert plain.records == cached.records


@given(histories(seeds_max=1, forks=FORKS))
def test_events_applied_twice_or_to_another_state_raise_nothing(facts: list[Fact]) -> None:
    events = list(lives(facts))
    other = State()
    for event in (*reversed(events), *events):
        apply(other, event)
    assert len(other.digest()) == 32
    assert_agree(other, from_scratch(other))


@given(histories())
def test_a_state_goes_on_from_its_records_and_number(facts: list[Fact]) -> None:
    half = len(facts) // 2
    live = Witness(facts[:half])
    loaded = Witness()
    loaded.state.load(dict(live.state.records), live.state.accumulated())
    loaded.heard = dict(live.heard)
    for fact in facts[half:]:
        command = live.command(fact)
        for state in (live.state, loaded.state):
            for event in decide(state, command, now_s=0).events:
                apply(state, event)
        live.heard[fact.ref] = fact
    assert_agree(live.state, loaded.state)
