"""Proofs of forks reach nodes that never saw the fork, also those that can no longer be changed by it."""

from __future__ import annotations

import pytest

from crabnet import limits
from crabnet.core.commands import CreateClaim, Operation, Publish, Received, SubmitBid
from crabnet.core.config import CoreConfig
from crabnet.domain.model import Bid, Seed
from crabnet.errors import Reason, RefusedError
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind
from tests.sim.node import SimNode
from tests.sim.world import Weather, World
from tests.support.envelopes import NOW_S, Author

STRANGER = "203.0.113.9:9012"


def line(world: World, *names: str, config: CoreConfig | None = None) -> list[SimNode]:
    """Nodes that know only their neighbours in a row."""
    nodes = [world.add(name, config) for name in names]
    for at, node in enumerate(nodes):
        node.targets = [other.address for other in (*nodes[max(0, at - 1) : at], *nodes[at + 1 : at + 2])]
        node.start()
    return nodes


def tell(node: SimNode, *envelopes: Envelope) -> None:
    for envelope in envelopes:
        node.give(Received(STRANGER, envelope.raw))


def forked(author: Author, ts: int = NOW_S) -> tuple[Envelope, Envelope]:
    """The author's next envelope, twice: the one that stands and the one that does not."""
    seq, head = author.seq, author.head
    made = []
    for title in ("a", "b"):
        author.seq, author.head = seq, head
        made.append(author.say(Kind.SEED_CREATED, {"seed": author.seed(ts, title=title)}, ts))
    stands, loser = sorted(made, key=lambda envelope: envelope.meta.id)
    author.head = stands.meta.id
    return stands, loser


def common(author: Author, number: int) -> list[Envelope]:
    return [author.say(Kind.SEED_CREATED, {"seed": author.seed()}) for _ in range(number)]


def flagged(node: SimNode, author: Author) -> bool:
    return node.running.replica.feeds.is_equivocator(author.id)


def forks_at(node: SimNode, author: Author) -> list[tuple[int, str, str]]:
    return [(fork.seq, fork.id, fork.loser) for fork in node.running.replica.feeds.get(author.id).forks]


@pytest.mark.parametrize("length", [0, 3])
def test_who_saw_only_what_stands_learns_of_the_fork(length: int) -> None:
    world = World(length, forks=True)
    first, *others = line(world, "a", "b", "c", "d")
    author = Author("forger")
    shared = common(author, length)
    stands, loser = forked(author)
    for node in (first, *others):
        tell(node, *shared, stands)
    assert world.settle(20_000)
    tell(first, loser)
    world.run(20_000)
    for node in (first, *others):
        assert forks_at(node, author) == [(length + 1, stands.meta.id, loser.meta.id)]
        assert any(notice.kind == "fork_detected" for notice in node.notices)
    assert len(world.hashes()) == 1


def test_who_saw_only_what_does_not_stand_decides_as_all_others() -> None:
    world = World(3, forks=True)
    first, second, third = line(world, "a", "b", "c")
    author = Author("forger")
    stands, loser = forked(author)
    tell(second, loser)
    tell(third, loser)
    assert world.settle(20_000)
    tell(first, stands)
    assert world.settle(20_000)
    world.run(20_000)
    for node in (first, second, third):
        assert node.running.replica.feeds.get(author.id).head_id == stands.meta.id
        assert forks_at(node, author) == [(1, stands.meta.id, loser.meta.id)]


def test_a_late_joiner_and_a_restart_from_a_checkpoint_know_the_fork() -> None:
    world = World(4, forks=True)
    (first,) = line(world, "a")
    author = Author("forger")
    stands, loser = forked(author)
    tell(first, stands, loser)
    world.run(1_000)
    first.sync()
    first.checkpoint()
    first.crash()
    world.run((limits.FORKS_ANNOUNCE_INTERVALS + 14 * 3_600) * 1_000, tick_ms=3_600_000)
    late = world.add("late")
    late.targets, first.targets = [first.address], [late.address]
    first.start()
    late.start()
    world.run(30_000)
    assert forks_at(late, author) == forks_at(first, author) == [(1, stands.meta.id, loser.meta.id)]


def test_a_fork_too_far_back_to_change_anything_is_known_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crabnet.protocol.feed.FEED_WINDOW_ENTRIES", 8)
    world = World(5, forks=True)
    first, second = line(world, "a", "b")
    author = Author("forger")
    stands, loser = forked(author)
    tell(first, loser, stands)
    more = common(author, 20)
    tell(first, *more)
    second.give(Received(STRANGER, stands.raw))
    world.run(30_000)
    assert flagged(first, author)
    assert flagged(second, author)
    second.sync()
    second.checkpoint()
    second.crash()
    second.start()
    assert flagged(second, author)
    assert len(world.hashes()) == 1


def test_proofs_cross_a_lossy_network() -> None:
    world = World(6, forks=True)
    nodes = line(world, "a", "b", "c")
    authors = [Author(f"forger{number}") for number in range(12)]
    pairs = [forked(author) for author in authors]
    world.weather = Weather(loss=0.2, duplicate=0.1)
    for stands, _ in pairs:
        tell(nodes[0], stands)
    for stands, loser in pairs:
        tell(nodes[2], stands, loser)
    world.run(60_000)
    assert all(flagged(node, author) for node in nodes for author in authors)


def test_gossip_ends_when_everybody_knows() -> None:
    world = World(7, forks=True)
    nodes = line(world, "a", "b")
    author = Author("forger")
    tell(nodes[0], *forked(author))
    world.run(20_000)
    before = sum(notice.kind == "fork_detected" for node in nodes for notice in node.notices)
    world.run(60_000)
    assert before == 2
    assert sum(notice.kind == "fork_detected" for node in nodes for notice in node.notices) == before
    assert not any(len(node.running.neighbours.forks) for node in nodes)


# --- no new deals with who forked its feed --------------------------------------------------------------------


def offer(node: SimNode) -> str:
    seed = node.operate(Publish(title="t", command="true", timeout_ms=1_000, bid_window_ms=600_000))
    assert isinstance(seed, Seed)
    return seed.id


@pytest.mark.parametrize("refuse", [True, False])
def test_bids_of_an_equivocator_are_not_claimed_and_its_seeds_get_no_bid(refuse: bool) -> None:
    world = World(8, forks=True)
    (node,) = line(world, "a", config=CoreConfig(refuse_equivocators=refuse))
    seed_id = offer(node)
    author = Author("forger")
    bid: JsonObject = {
        "id": author.next_object_id(),
        "seed_id": seed_id,
        "bidder": author.id,
        "price": 5,
        "created_at": NOW_S,
    }
    tell(node, author.say(Kind.BID_SUBMITTED, {"bid": bid}))
    stands, loser = forked(author)
    tell(node, stands, loser)
    theirs = next(
        seed_id
        for seed_id, record in node.running.replica.state.records.items()
        if record.seed is not None and record.seed.author == author.id
    )
    wishes: list[Operation] = [CreateClaim(seed_id=seed_id, bid_id=str(bid["id"])), SubmitBid(seed_id=theirs, price=5)]
    for wish in wishes:
        if refuse:
            with pytest.raises(RefusedError) as refused:
                node.operate(wish)
            assert refused.value.reason is Reason.EQUIVOCATOR
        else:
            node.operate(wish)


def test_nodes_with_different_policies_hold_the_same_state() -> None:
    """What one node refuses to say itself it takes from others: policy makes nobody disagree."""
    world = World(9, forks=True)
    strict = world.add("strict", CoreConfig(refuse_equivocators=True))
    easy = world.add("easy", CoreConfig(refuse_equivocators=False))
    strict.targets, easy.targets = [easy.address], [strict.address]
    strict.start()
    easy.start()
    seed_id = offer(easy)
    author = Author("forger")
    bid: JsonObject = {
        "id": author.next_object_id(),
        "seed_id": seed_id,
        "bidder": author.id,
        "price": 5,
        "created_at": NOW_S,
    }
    first = author.say(Kind.BID_SUBMITTED, {"bid": bid})
    stands, loser = forked(author)
    tell(easy, first, stands, loser)
    claim = easy.operate(CreateClaim(seed_id=seed_id, bid_id=str(bid["id"])))
    assert claim is not None
    assert world.settle(20_000)
    assert strict.running.record(seed_id).progress.claimed_by == author.id


def test_bids_between_others_are_untouched() -> None:
    world = World(10, forks=True)
    one, two = line(world, "a", "b")
    tell(one, *forked(Author("forger")))
    seed_id = offer(one)
    assert world.settle(20_000)
    bid = two.operate(SubmitBid(seed_id=seed_id, price=3))
    assert isinstance(bid, Bid)
    assert world.settle(20_000)
    one.operate(CreateClaim(seed_id=seed_id, bid_id=bid.id))
