"""A node that comes late holds all in the end, though what it lacks rests on one another in many feeds."""

from __future__ import annotations

import pytest

from crabnet import limits
from crabnet.core.commands import Received
from crabnet.core.config import CoreConfig
from crabnet.protocol.envelope import Envelope
from tests.sim.world import SimNode, Weather, World
from tests.support.envelopes import Author, seed_id_of

AUTHORS = 8
ROUNDS = 60
STRANGER = "udp:203.0.113.9:9012"
MANY_ROUND_TRIPS_MS = 3_000
"""Of 2 ms each, and far less than as many answers would take if each ended only after ``SYNC_QUIET_MS``."""


def woven(rounds: int = ROUNDS) -> list[Envelope]:
    """Feeds of several authors, each of whose bids rests on the last seed of the next author."""
    authors = [Author(f"weaver{number}") for number in range(AUTHORS)]
    seeds = [author.publish() for author in authors]
    told = list(seeds)
    for _ in range(rounds):
        for number, author in enumerate(authors):
            told.append(author.bid(seeds[(number + 1) % AUTHORS]))
            seeds[number] = author.publish()
            told.append(seeds[number])
    return told


def started(world: World, name: str, targets: list[SimNode]) -> SimNode:
    node = world.add(name, CoreConfig())
    node.targets = [other.address for other in targets]
    node.keep_notices = False
    node.start()
    return node


@pytest.mark.parametrize("tight", [False, True])
def test_feeds_that_rest_on_one_another_are_caught_up_with(tight: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With little room to wait, those that wait must not keep out what they wait for."""
    if tight:
        monkeypatch.setattr(limits, "PARKED_ENVELOPES_MAX", 80)
        monkeypatch.setattr(limits, "PARKED_ENVELOPES_PER_FEED_MAX", 16)
        monkeypatch.setattr(limits, "SYNC_WANT_ENTRIES_MAX", 8)
    world = World(1)
    first = started(world, "first", [])
    for envelope in woven():
        first.give(Received(STRANGER, envelope.raw))
    late = started(world, "late", [first])
    first.targets = [late.address]
    world.weather = Weather(loss=0.05, delay_ms=(1, 60))
    assert world.settle(30_000)
    assert len(late.running.replica.state.records) == AUTHORS * (ROUNDS + 1)


@pytest.mark.deep
def test_what_waits_for_other_feeds_does_not_count_as_lost() -> None:
    """Ranges whose envelopes wait for one another are over when they are here, and the next are asked for at once."""
    world = World(3)
    first = started(world, "first", [])
    for envelope in woven(rounds=200):
        first.give(Received(STRANGER, envelope.raw))
    late = started(world, "late", [first])
    first.targets = [late.address]
    world.weather = Weather(loss=0, delay_ms=(1, 1))
    assert world.settle(MANY_ROUND_TRIPS_MS)


def test_what_a_stranger_names_is_asked_of_all_who_hold_it() -> None:
    """Who brings an envelope need not have what it rests on; whoever else holds the envelope has both."""
    world = World(2)
    first = started(world, "first", [])
    maker, worker = Author("maker"), Author("worker")
    seed = maker.publish()
    bid = worker.bid(seed)
    instead = maker.rewind(seed).publish(title="instead")
    for envelope in (seed, bid, instead):
        first.give(Received(STRANGER, envelope.raw))
    late = started(world, "late", [])
    late.give(Received(STRANGER, instead.raw))
    late.give(Received(STRANGER, bid.raw))
    assert late.running.replica.parking.lacking()
    first.targets, late.targets = [late.address], [first.address]
    late.running.neighbours.trusted = frozenset(late.targets)
    first.running.neighbours.trusted = frozenset(first.targets)
    assert world.settle(20_000)
    assert late.running.record(seed_id_of(seed)).bids
