"""Attacks with their real numbers on one or two nodes: what they cost, and that honest work goes on."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from crabnet import limits
from crabnet.core.commands import Publish, Received, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.effects import Effects, FeedPlace, Send
from crabnet.core.replica.records import stored_envelope
from crabnet.core.replica.snapshot import Snapshot
from crabnet.domain.model import Seed
from crabnet.domain.state import Caps
from crabnet.protocol.envelope import Envelope
from crabnet.protocol.sync import Head, Heads
from tests.sim.crowders import Crowd
from tests.sim.node import SimNode
from tests.sim.world import World
from tests.support.envelopes import Author, seed_id_of

STRANGER = "udp:203.0.113.9:9012"


class Written:
    """Counts the bytes that go into the journal."""

    def __init__(self) -> None:
        self.bytes = 0
        self.records = 0

    def durable(self, node: SimNode, effects: Effects) -> None:
        self.records += len(effects.records)
        self.bytes += sum(map(len, effects.records))

    def stepped(self, node: SimNode, effects: Effects) -> None: ...

    def received(self, node: SimNode, given: Received, effects: Effects) -> None: ...

    def acknowledged(self, node: SimNode, place: FeedPlace) -> None: ...

    def sent(self, node: SimNode, send: Send) -> None: ...

    def started(self, node: SimNode) -> None: ...


def alone(config: CoreConfig | None = None) -> tuple[World, SimNode, Written]:
    """A node, and what it writes."""
    world = World(1, forks=True)
    written = Written()
    world.observers.append(written)
    node = world.add("victim", config)
    node.keep_notices = False
    node.start()
    return world, node, written


def tell(node: SimNode, envelopes: Iterable[Envelope], source: str = STRANGER) -> int:
    """Give envelopes to a node; their bytes."""
    size = 0
    for envelope in envelopes:
        node.give(Received(source, envelope.raw))
        size += len(envelope.raw)
    return size


def offered(node: SimNode) -> Envelope:
    """A seed of the node's own."""
    seed = node.operate(Publish(title="honest", command="true", bid_window_ms=600_000))
    assert isinstance(seed, Seed)
    node.sync()
    return stored_envelope(node.history.of(node.id)[-1][2])


def test_descending_forks_cost_what_they_send() -> None:
    world, node, written = alone()
    seed = offered(node)
    tell(node, [Author(f"bidder{number}").bid(seed) for number in range(100)])
    forger = Author("forger")
    feed = [forger.bid(seed) if number % 2 else forger.publish() for number in range(199)]
    sent = tell(node, feed)
    world.run(1_000)
    forks = [forger.twin().rewind(place).publish(title="instead") for place in reversed(feed)]
    before = written.bytes
    for fork in forks:
        sent += tell(node, [fork])
        world.run(100)
    ended = node.running.replica.feeds.get(forger.id)
    assert (ended.end, ended.head_seq, node.running.replica.settling.pending) == (1, 0, False)
    assert written.bytes - before < 3 * sent
    assert len(node.running.record(seed_id_of(seed)).bids) == 100


def test_forks_of_each_step_of_one_seed_cost_what_they_send() -> None:
    """The seed that all facts are about is folded anew for each, and written by what has changed."""
    world, node, written = alone()
    maker, worker = Author("maker"), Author("worker")
    seed = maker.publish()
    told = [seed]
    for _ in range(60):
        bid = worker.bid(seed)
        told += [bid, maker.claim(bid), maker.settle(seed, "Expired")]
    sent = tell(node, told)
    world.run(1_000)
    before = written.bytes
    for author, fallen in ((maker, told[2::3]), (worker, told[1::3])):
        for place in reversed(fallen):
            sent += tell(node, [author.twin().rewind(place).publish(title="instead")])
            world.run(100)
    assert not node.running.replica.settling.pending
    assert written.bytes - before < 6 * sent


def test_three_keys_park_as_much_as_they_may_and_release_it() -> None:
    world, node, _ = alone()
    honest = Author("honest")
    first, second = honest.publish(), honest.publish()
    released, parked_bytes = [], 0
    for number in range(3):
        key = Author(f"key{number}")
        released.append(key.publish())
        large = [key.publish(description="x" * 64_000, rules="y" * 64_000) for _ in range(22)]
        assert 2_800_000 < sum(len(each.raw) for each in large) < limits.PARKED_BYTES_PER_FEED_MAX
        parked_bytes += tell(node, large)
    tell(node, [second])
    assert node.running.replica.parking.bytes == parked_bytes + len(second.raw)
    tell(node, [first])
    assert node.running.replica.feeds.get(honest.id).head_seq == 2, "others wait as well as before"
    tell(node, released)
    world.run(2_000)
    assert len(node.running.replica.parking) == 0
    assert [node.running.replica.feeds.get(each.meta.from_).head_seq for each in released] == [23] * 3
    before = node.running.replica.state_hash()
    node.sync()
    node.crash(power=True)
    node.recover()
    assert node.running.replica.state_hash() == before


def test_void_facts_by_the_thousand_leave_no_trace_on_an_honest_seed() -> None:
    world, node, written = alone()
    seed = offered(node)
    bid = Author("worker").bid(seed)
    tell(node, [bid])
    world.run(100)
    record = node.running.record(seed_id_of(seed))
    rows = sum(map(len, Snapshot(node.running.replica).rows()))
    keys = [Author(f"key{number}") for number in range(4)]
    void = []
    for _ in range(500):
        for key in keys:
            void += [key.settle(seed, "Expired"), key.claim(bid), key.bid(seed, bidder="somebody else")]
    before = written.bytes
    sent = tell(node, void)
    world.run(1_000)
    assert node.running.record(seed_id_of(seed)) is record
    assert written.bytes - before < 1.5 * sent
    grown = sum(map(len, Snapshot(node.running.replica).rows())) - rows
    assert grown < len(keys) * 256 * 80 + len(void) * 100, "windows of feeds, and ids that were seen"


@pytest.mark.parametrize("most", [1, 3])
def test_who_closes_a_seed_and_opens_the_next_is_never_beyond_the_cap(most: int) -> None:
    _, node, written = alone(CoreConfig(caps=Caps(open_seeds_max=most)))
    author = Author("cycler")
    told: list[Envelope] = []
    is_open: list[Envelope] = []
    for _ in range(1_000):
        if len(is_open) == most:
            told.append(author.settle(is_open.pop(0), "Expired"))
        is_open.append(author.publish())
        told.append(is_open[-1])
    sent = tell(node, told)
    node.sync()
    feed = node.running.replica.feeds.get(author.id)
    assert len(feed.open_seeds) == most
    assert sum(record.seed is not None for record in node.running.replica.state.records.values()) == 1_000
    assert written.bytes < 2 * sent
    tell(node, [author.publish()])
    assert len(feed.open_seeds) == most


def test_one_key_at_1100_ports_keeps_nobody_from_being_heard() -> None:
    """All within 0.2 s, in the middle of what an honest neighbour tells."""
    world = World(4)
    nodes = [world.add(name) for name in ("one", "two")]
    for node, other in zip(nodes, reversed(nodes), strict=True):
        node.targets = [other.address]
        node.start()
    world.run(3_000)
    crowd = Crowd(world, "crowd", budget=10**6)
    for port in range(1_100):
        said = Heads([Head(Author(f"nobody {port}").id, 5, "ab" * 32)])
        nodes[0].receive(f"udp:198.51.100.7:{1_000 + port}", crowd.talk(said).raw)
        if port == 500:
            nodes[1].operate(Publish(title="honest", command="true", bid_window_ms=600_000))
    world.run(200)
    nodes[0].give(Tick())
    assert world.settle(5_000)
    assert nodes[0].running.replica.feeds.get(nodes[1].id).head_seq == 1
