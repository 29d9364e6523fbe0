"""The same envelopes, in any order and with pauses, give the same heads and seeds: those of ``tests.support.naive``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crabnet import limits
from crabnet.domain.state import Caps as CoreCaps
from crabnet.protocol.envelope import Envelope
from tests.support.branches import deep_history, history
from tests.support.envelopes import NOW_S
from tests.support.fork_cases import Case, hard_cases, small_cases
from tests.support.naive import World, expected
from tests.support.naive_state import Caps, NaiveState
from tests.support.replicas import CoreReplica, Habits
from tests.support.slices import todays

CAPS = Caps(open_seeds=3, bids_per_seed=2)
_CORE_CAPS = CoreCaps(open_seeds_max=CAPS.open_seeds, bids_per_seed_max=CAPS.bids_per_seed)
LATER_S = NOW_S + 10_000
SETS_OF_A_CHUNK = 500
CHUNKS = 100
CHUNKS_SHARE = 25


class Replica(Protocol):
    """What is under test. It may give up what waits, and then gets it again."""

    def receive(self, raw: bytes, now_s: int) -> None:
        """Take an envelope, let it wait, or drop it."""

    def lacks(self) -> list[tuple[str, str]]:
        """(Seed id, envelope id) of what is named and not held, which it would ask its neighbours for."""

    def learn_fork(self, raws: Iterable[bytes], now_s: int) -> bool:
        """Take the proof that two of these envelopes are; False if it is no news."""

    def state(self) -> NaiveState:
        """Heads and seeds as ``naive.expected`` gives them; disputed seeds as ``naive.DISPUTED``."""


Make = Callable[[], Replica]
FACTORIES: dict[str, Make] = {
    "plain": lambda: CoreReplica(_CORE_CAPS, Habits()),
    "restarted": lambda: CoreReplica(_CORE_CAPS, Habits(restarts=23, settled=1)),
    "archived": lambda: CoreReplica(_CORE_CAPS, Habits(archives=5, checkpoints=29, restarts=47, settled=2)),
}
OF_LONG_FEEDS: dict[str, Make] = {  # a restart costs as much as all that came before it
    "plain": FACTORIES["plain"],
    "restarted": lambda: CoreReplica(_CORE_CAPS, Habits(restarts=2_003, settled=1)),
    "archived": lambda: CoreReplica(_CORE_CAPS, Habits(archives=101, checkpoints=1_009, restarts=4_001, settled=2)),
}


def serve(replica: Replica, raws: dict[str, bytes], order: list[str]) -> None:
    """Deliver everything in this order, and answer what is asked for; again and again until nothing changes."""
    before = None
    while True:
        for envelope_id in order:
            replica.receive(raws[envelope_id], LATER_S)
        _answer(replica, raws)
        heads = replica.state().heads
        if heads == before and not _prove(replica, raws):
            return
        before = heads


def _prove(replica: Replica, raws: dict[str, bytes]) -> bool:
    """Prove forks so far ahead that not all between can wait here: neighbours who know the end tell of it."""
    if len(raws) <= limits.PARKED_ENVELOPES_PER_FEED_MAX:
        return False
    heads = replica.state().heads
    world = World(raws.values())
    learned = [
        replica.learn_fork([raws[entry.id] for entry in world.places[author][end]], LATER_S)
        for author, end in world.ends.items()
        if end > heads.get(author, (0, "", False))[0] + limits.PARKED_ENVELOPES_PER_FEED_MAX
    ]
    return any(learned)


def _answer(replica: Replica, raws: dict[str, bytes]) -> None:
    """Give what the replica asks for, for as long as it asks for something else than before."""
    asked: set[str] = set()
    while True:
        wanted = {envelope_id for _, envelope_id in replica.lacks()} & raws.keys()
        if wanted <= asked:
            return
        asked |= wanted
        for envelope_id in sorted(wanted):
            replica.receive(raws[envelope_id], LATER_S)


def check(
    make: Make,
    envelopes: Iterable[Envelope],
    rng: Random,
    *,
    replicas: int = 2,
    stages: int = 1,
    by_time: bool = False,
) -> None:
    """Deliver to several replicas in different orders. After each stage a part of the envelopes more is known."""
    told = list(envelopes)
    if not by_time:
        rng.shuffle(told)
    nodes = [make() for _ in range(replicas)]
    for stage in range(1, stages + 1):
        raws = {each.meta.id: each.raw for each in told[: len(told) * stage // stages]}
        for node in nodes:
            serve(node, raws, rng.sample(sorted(raws), len(raws)))
        for node in nodes:
            assert node.state() == expected(raws.values(), CAPS)


each_kind = pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=() if name == "plain" else pytest.mark.deep)
        for name, make in FACTORIES.items()
    ],
)


@each_kind
@settings(max_examples=30)
@given(number=st.integers(0, 2**32), order=st.integers(0, 2**32))
def test_any_order_gives_the_same(make: Make, number: int, order: int) -> None:
    check(make, history(number), Random(order), replicas=3)


@each_kind
@settings(max_examples=30)
@given(number=st.integers(0, 2**32), order=st.integers(0, 2**32))
def test_what_is_known_at_any_time_gives_the_same(make: Make, number: int, order: int) -> None:
    check(make, history(number, 40), Random(order), stages=4)


@each_kind
@settings(max_examples=30)
@given(number=st.integers(0, 2**32), order=st.integers(0, 2**32))
def test_each_branch_may_be_known_before_the_others(make: Make, number: int, order: int) -> None:
    check(make, history(number, 40), Random(order), stages=5, by_time=True)


@pytest.mark.parametrize("number", [4_362, pytest.param(25_811, marks=pytest.mark.deep)])
def test_a_fork_beyond_what_may_wait_is_proved(number: int) -> None:
    """One replica finds it by itself, and the other has no place where both branches could wait."""
    check_set(number)


def check_set(number: int) -> None:
    """One of the fifty thousand."""
    kinds = list(FACTORIES.values())
    rng = Random(f"order {number}")
    stages = rng.choice((1, 1, 2, 4))
    envelopes = history(number, rng.choice((10, 20, 40, 80)))
    check(kinds[number % len(kinds)], envelopes, rng, stages=stages, by_time=rng.random() < 0.5)


@pytest.mark.deep
@pytest.mark.parametrize("chunk", todays(range(CHUNKS), CHUNKS_SHARE))
def test_fifty_thousand_sets(chunk: int) -> None:
    for number in range(chunk * SETS_OF_A_CHUNK, (chunk + 1) * SETS_OF_A_CHUNK):
        check_set(number)


@each_kind
def test_the_small_cases_in_any_order(make: Make) -> None:
    rng = Random(1)
    for case in small_cases():
        check(make, case.envelopes, rng, replicas=1)


@pytest.mark.deep
@pytest.mark.parametrize(
    "make",
    [pytest.param(make, id=name) for name, make in OF_LONG_FEEDS.items()],
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_forks_thousands_of_entries_back(make: Make, number: int) -> None:
    check(make, deep_history(number), Random(number), replicas=2, stages=3, by_time=True)


@each_kind
@pytest.mark.parametrize("case", hard_cases(), ids=lambda case: case.name)
def test_hard_cases_in_any_order(make: Make, case: Case) -> None:
    rng = Random(1)
    for _ in range(20):
        check(make, case.envelopes, rng, replicas=1, stages=2)


@pytest.mark.parametrize("reached", [False, True])
@given(number=st.integers(0, 2**32))
def test_the_state_follows_from_the_fronts_and_the_ends(number: int, reached: bool) -> None:
    """With ``reached`` only those ends matter that are in the version vector."""
    told = {each.meta.id: each.raw for each in history(number)}
    world = World(told.values(), reached=reached)

    known = {entry.id for front in world.fronts.values() for entry in front}
    new = list(known)
    while new:
        fact = world.facts.get(new.pop())
        if fact is not None and fact.rests_on and fact.rests_on not in known:
            known.add(fact.rests_on)
            new.append(fact.rests_on)
    for author, end in world.ends.items():
        if not reached or len(world.fronts[author]) + 1 == end:
            known |= {entry.id for entry in world.places[author][end][:2]}

    kept = expected((told[each] for each in known), CAPS, reached=reached)
    assert kept == expected(told.values(), CAPS, reached=reached)
