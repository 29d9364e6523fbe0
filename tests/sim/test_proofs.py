"""Ends of feeds and their proofs reach nodes that never saw the fork, however far back it lies."""

from __future__ import annotations

import pytest

from crabnet.core.commands import CreateClaim, Operation, Publish, Received, SubmitBid
from crabnet.core.config import CoreConfig
from crabnet.core.replica.records import stored_envelope
from crabnet.domain.model import Bid, Seed
from crabnet.errors import Reason, RefusedError
from crabnet.protocol.envelope import Envelope, Kind
from tests.sim.node import SimNode
from tests.sim.world import Weather, World
from tests.support.envelopes import NOW_S, Author, body_of, seed_id_of

STRANGER = "udp:203.0.113.9:9012"


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
    """The author's next envelope, twice: two for one place, that with the lower id first."""
    seq, head = author.seq, author.head
    made = []
    for title in ("a", "b"):
        author.seq, author.head = seq, head
        made.append(author.say(Kind.SEED_CREATED, {"seed": author.seed(ts, title=title)}, ts))
    lower, higher = sorted(made, key=lambda envelope: envelope.meta.id)
    author.head = lower.meta.id
    return lower, higher


def common(author: Author, number: int) -> list[Envelope]:
    return [author.say(Kind.SEED_CREATED, {"seed": author.seed()}) for _ in range(number)]


def end_at(node: SimNode, author: Author) -> tuple[int, int]:
    """Where the feed of an author ends in a node, and its head."""
    feed = node.running.replica.feeds.get(author.id)
    return feed.end, feed.head_seq


@pytest.mark.parametrize("length", [0, 3])
def test_who_saw_only_one_branch_learns_of_the_fork(length: int) -> None:
    world = World(length, forks=True)
    first, *others = line(world, "a", "b", "c", "d")
    author = Author("forger")
    shared = common(author, length)
    one, other = forked(author)
    for node in (first, *others):
        tell(node, *shared, one)
    assert world.settle(20_000)
    tell(first, other)
    world.run(20_000)
    for node in (first, *others):
        assert end_at(node, author) == (length + 1, length)
        assert any(notice.kind == "fork_detected" for notice in node.notices)
    assert len(world.hashes()) == 1


def test_those_who_saw_different_branches_decide_alike() -> None:
    world = World(3, forks=True)
    first, second, third = line(world, "a", "b", "c")
    author = Author("forger")
    one, other = forked(author)
    tell(second, other)
    tell(third, other)
    assert world.settle(20_000)
    tell(first, one)
    assert world.settle(20_000)
    world.run(20_000)
    for node in (first, second, third):
        assert end_at(node, author) == (1, 0)
        assert not any(record.seed for record in node.running.replica.state.records.values())


def test_a_late_joiner_and_a_restart_from_a_checkpoint_know_the_fork() -> None:
    world = World(4, forks=True)
    (first,) = line(world, "a")
    author = Author("forger")
    tell(first, *forked(author))
    world.run(1_000)
    first.sync()
    first.checkpoint()
    first.crash()
    world.run(14 * 3_600_000, tick_ms=3_600_000)
    late = world.add("late")
    late.targets, first.targets = [first.address], [late.address]
    first.start()
    late.start()
    world.run(30_000)
    assert end_at(late, author) == end_at(first, author) == (1, 0)


def test_a_fork_far_back_ends_the_feed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crabnet.protocol.feed.FEED_WINDOW_ENTRIES", 8)
    world = World(5, forks=True)
    first, second = line(world, "a", "b")
    author = Author("forger")
    shared = common(author, 2)
    one, other = forked(author)
    author.head = one.meta.id
    more = common(author, 20)
    tell(first, *shared, one, *more)
    assert world.settle(20_000)
    assert end_at(second, author) == (0, 23)
    second.give(Received(STRANGER, other.raw))
    world.run(30_000)
    assert end_at(first, author) == end_at(second, author) == (3, 2)
    assert sum(record.seed is not None for record in first.running.replica.state.records.values()) == 2
    second.sync()
    second.checkpoint()
    second.crash()
    second.start()
    assert end_at(second, author) == (3, 2)
    assert len(world.hashes()) == 1


def test_an_end_moves_down_only() -> None:
    """Forks at ever lower places, told to one node or another, end the feed before the lowest."""
    world = World(11, forks=True)
    first, second = line(world, "a", "b")
    author = Author("forger")
    branches = []
    shared: list[Envelope] = []
    for _ in range(6):
        one, other = forked(author)
        branches.append(other)
        shared.append(one)
    tell(first, *shared)
    assert world.settle(20_000)
    for at in (4, 5, 2, 3, 1):
        tell(first if at % 2 else second, branches[at])
        assert world.settle(20_000)
        lowest = 3 if at in {2, 3} else min(at, 4) + 1
        assert end_at(first, author) == end_at(second, author) == (lowest, lowest - 1)


def test_proofs_cross_a_lossy_network() -> None:
    world = World(6, forks=True)
    nodes = line(world, "a", "b", "c")
    authors = [Author(f"forger{number}") for number in range(12)]
    pairs = [forked(author) for author in authors]
    world.weather = Weather(loss=0.2, duplicate=0.1)
    for one, _ in pairs:
        tell(nodes[0], one)
    for pair in pairs:
        tell(nodes[2], *pair)
    world.run(60_000)
    assert {end_at(node, author) for node in nodes for author in authors} == {(1, 0)}


def test_talk_of_a_fork_ends_when_everybody_knows() -> None:
    world = World(7, forks=True)
    nodes = line(world, "a", "b")
    author = Author("forger")
    tell(nodes[0], *forked(author))
    world.run(20_000)
    before = sum(notice.kind == "fork_detected" for node in nodes for notice in node.notices)
    world.run(60_000)
    assert before == 2
    assert sum(notice.kind == "fork_detected" for node in nodes for notice in node.notices) == before
    assert not any(len(node.running.neighbours.proofs) for node in nodes)


# --- no new deals with who forked its feed --------------------------------------------------------------------


def offer(node: SimNode) -> Envelope:
    seed = node.operate(Publish(title="t", command="true", timeout_ms=1_000, bid_window_ms=600_000))
    assert isinstance(seed, Seed)
    node.sync()
    return stored_envelope(node.history.of(node.id)[-1][2])


@pytest.mark.parametrize("refuse", [True, False])
def test_bids_of_an_equivocator_are_not_claimed_and_its_seeds_get_no_bid(refuse: bool) -> None:
    world = World(8, forks=True)
    (node,) = line(world, "a", config=CoreConfig(refuse_equivocators=refuse))
    ours = offer(node)
    author = Author("forger")
    bid, theirs = author.bid(ours), author.publish()
    tell(node, bid, theirs, *forked(author))
    wishes: list[Operation] = [
        CreateClaim(seed_id=seed_id_of(ours), bid_id=str(body_of(bid)["id"])),
        SubmitBid(seed_id=seed_id_of(theirs), price=5),
    ]
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
    seed = offer(easy)
    author = Author("forger")
    bid = author.bid(seed)
    tell(easy, bid, *forked(author))
    claim = easy.operate(CreateClaim(seed_id=seed_id_of(seed), bid_id=str(body_of(bid)["id"])))
    assert claim is not None
    assert world.settle(20_000)
    assert strict.running.record(seed_id_of(seed)).progress.claimed_by == author.id


def test_bids_between_others_are_untouched() -> None:
    world = World(10, forks=True)
    one, two = line(world, "a", "b")
    tell(one, *forked(Author("forger")))
    seed = offer(one)
    assert world.settle(20_000)
    bid = two.operate(SubmitBid(seed_id=seed_id_of(seed), price=3))
    assert isinstance(bid, Bid)
    assert world.settle(20_000)
    one.operate(CreateClaim(seed_id=seed_id_of(seed), bid_id=bid.id))
