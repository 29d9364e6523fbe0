"""A node that may have lost the end of its own feed does not write before a peer has confirmed it."""

from __future__ import annotations

from itertools import count

import pytest

from crabnet import limits
from crabnet.core.commands import CreateClaim, Publish, StartRun, SubmitBid, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.domain.model import Bid
from crabnet.errors import Reason, RefusedError
from crabnet.protocol.sync import Head
from tests.sim.disk import MemoryFiles
from tests.sim.market import result
from tests.sim.world import START_MS, SimNode, Weather, World, attempt
from tests.support.envelopes import signer
from tests.support.talking import Neighbour

WISH = Publish(title="t", command="true", timeout_ms=1_000, bid_window_ms=600_000)


def refused(node: SimNode) -> bool:
    """True if the node does not write; publishes otherwise."""
    try:
        node.operate(WISH)
    except RefusedError as error:
        if error.reason is not Reason.FEED_RISK or "--accept-feed-risk" not in error.message:
            raise
        return True
    return False


def kinds(node: SimNode) -> list[str]:
    return [notice.kind for notice in node.notices if notice.kind.startswith("feed_")]


def head_seq(node: SimNode) -> int:
    return node.running.replica.feeds.get(node.id).head_seq


def pair(seed: int = 1, *, published: int = 3) -> tuple[World, SimNode, SimNode]:
    """Two nodes that know each other's address and hold the first one's feed."""
    world = World(seed)
    first, second = world.add("first"), world.add("second")
    first.targets, second.targets = [second.address], [first.address]
    first.start()
    second.start()
    for _ in range(published):
        first.operate(WISH)
    assert world.settle(10_000)
    return world, first, second


def lose_end(world: World, node: SimNode, more: int) -> None:
    """The node writes ``more`` envelopes, which the others get, and then an older copy of its disk is restored."""
    backup = node.disk.copy()
    for _ in range(more):
        node.operate(WISH)
        world.run(200)
    assert world.settle(20_000)
    node.crash()
    node.disk = backup


@pytest.mark.parametrize("more", [1, 5, 200])
@pytest.mark.parametrize("looks_clean", [True, False])
def test_a_restored_node_takes_its_own_feed_back(more: int, looks_clean: bool) -> None:
    world, first, second = pair()
    lose_end(world, first, more)
    first.start(feed_risk=not looks_clean)
    world.run(1_500)
    assert refused(first)
    world.run(40_000)
    assert not refused(first)
    assert head_seq(first) == 3 + more + 1
    assert kinds(first)[0] == "feed_at_risk"
    assert kinds(first)[-2:] == ["feed_adopted", "feed_confirmed"]
    adopted = next(notice.fields for notice in first.notices if notice.kind == "feed_adopted")
    assert (adopted["first_seq"], adopted["last_seq"], adopted["address"]) == (4, 3 + more, second.address)
    assert world.settle(10_000)
    assert not any(feed.forks for node in (first, second) for feed in node.running.replica.feeds.all())


def test_a_node_that_lost_everything_but_its_key_takes_its_feed_back() -> None:
    world, first, second = pair()
    first.crash()
    first.disk = MemoryFiles()
    first.start(feed_risk=True)
    world.run(10_000)
    assert not refused(first)
    assert world.settle(10_000)
    assert head_seq(second) == 0
    assert second.running.replica.feeds.get(first.id).head_seq == 4


def test_a_repaired_node_that_lost_nothing_is_confirmed() -> None:
    world, first, _ = pair()
    first.crash()
    first.start(feed_risk=True)
    assert refused(first)
    world.run(10_000)
    assert kinds(first) == ["feed_at_risk", "feed_confirmed"]
    assert not refused(first)


def test_it_works_through_a_lossy_network() -> None:
    world, first, _ = pair(7)
    lose_end(world, first, 30)
    world.weather = Weather(loss=0.3, duplicate=0.2, delay_ms=(1, 800))
    first.start(feed_risk=True)
    world.run(60_000)
    assert not refused(first)
    assert head_seq(first) == 34


def test_nobody_to_ask_or_nobody_who_knows_is_no_confirmation() -> None:
    world, first, second = pair()
    world.partition([first], [second])
    stranger = world.add("stranger")
    stranger.targets = [first.address]
    stranger.start()
    stranger.operate(WISH)
    first.crash()
    first.targets = [stranger.address]
    world.partition([first], [second, stranger])
    first.start(feed_risk=True)
    world.run(30_000)
    assert refused(first)
    assert not any(kind == "feed_confirmed" for kind in kinds(first))


def test_the_operators_word_is_enough() -> None:
    node = World(1).add("alone", CoreConfig(accept_feed_risk=True))
    node.start(feed_risk=True)
    assert not refused(node)


def test_a_peer_that_is_behind_does_not_end_the_risk_while_another_still_delivers() -> None:
    world, first, second = pair()
    behind = world.add("behind")
    behind.targets = [second.address]
    behind.start()
    assert world.settle(20_000)
    world.partition([behind], [first, second])
    lose_end_with_peer_away(world, first, 400, away=behind)
    world.partition([behind], [second])
    first.targets = [second.address, behind.address]
    world.weather = Weather(delay_ms=(300, 400))
    first.start(feed_risk=True)
    for _ in range(600):
        if not first.running.feed_risk:
            break
        world.run(100)
    assert head_seq(first) == 403


def lose_end_with_peer_away(world: World, node: SimNode, more: int, *, away: SimNode) -> None:
    """As ``lose_end``, but one peer hears nothing of it."""
    backup = node.disk.copy()
    for _ in range(more):
        node.operate(WISH)
    world.run(20_000)
    others = [other for other in world.nodes.values() if other is not away]
    assert {other.running.replica.feeds.get(node.id).head_seq for other in others} == {403}
    node.crash()
    node.disk = backup


def test_runs_and_deadlines_wait_for_the_end_of_the_risk() -> None:
    """An interrupted run is recorded when the risk is over, and not if the feed that came back holds its result."""
    for had_result in (False, True):
        world, first, second = pair(3)
        seed_id = next(iter(first.running.replica.state.records))
        bid = second.operate(SubmitBid(seed_id=seed_id, price=1))
        world.run(2_000)
        assert isinstance(bid, Bid)
        first.operate(CreateClaim(seed_id=seed_id, bid_id=bid.id))
        world.run(2_000)
        second.operate(StartRun(seed_id=seed_id))
        world.run(2_000)
        backup = second.disk.copy()
        if had_result:
            second.operate(result(seed_id))
            world.run(2_000)
        second.crash()
        second.disk = backup
        second.start(feed_risk=True)
        assert not any(notice.kind == "run_interrupted" for notice in second.notices)
        world.run(10_000)
        assert any(notice.kind == "run_interrupted" for notice in second.notices) is not had_result
        record = second.running.replica.state.records[seed_id]
        assert record.progress.status == "Done"
        results = [entry.fact.body for entry in record.others if entry.fact.kind == "result"]
        assert len(results) == 1


class TestLiars:
    """Words are not proof: a stranger cannot keep a node from writing."""

    def core(self) -> Core:
        numbers = count(1)
        core = Core(CoreConfig(), signer("honest"), lambda: next(numbers))
        self.publish(core, START_MS)
        return core

    def publish(self, core: Core, now_ms: int) -> bool:
        try:
            core.handle(WISH, now_ms, Effects())
        except RefusedError as error:
            if error.reason is not Reason.FEED_RISK:
                raise
            return False
        return True

    def lie(self, core: Core) -> Head:
        return Head(core.signer.node_id, 10**6, "0" * 64)

    def test_an_unproven_address_is_not_believed(self) -> None:
        core = self.core()
        Neighbour(core, "liar", "192.0.2.1:9").heads(self.lie(core))
        assert self.publish(core, START_MS)

    def test_a_proven_address_forbids_writing_for_a_while_only(self) -> None:
        core = self.core()
        now_ms = START_MS
        liars = [Neighbour(core, f"liar{number}", f"192.0.2.{number}:9") for number in range(8)]
        for liar in liars:
            liar.confirm(now_ms)
        blocked = 0
        for second in range(140):
            now_ms = START_MS + second * 1_000
            for liar in liars:
                liar.heads(self.lie(core), now_ms=now_ms)
            core.handle(Tick(), now_ms, Effects())
            blocked += not self.publish(core, now_ms)
        wait_s, pause_s = limits.FEED_CLAIM_WAIT_MS // 1_000, limits.FEED_CLAIM_PAUSE_MS // 1_000
        assert blocked == wait_s * -(-140 // (wait_s + pause_s))

    def test_a_lie_about_what_is_held_forbids_it_for_a_while_only(self) -> None:
        core = self.core()
        liar = Neighbour(core, "liar", "192.0.2.1:9")
        liar.confirm()
        liar.heads(Head(core.signer.node_id, 1, "0" * 64))
        assert not self.publish(core, START_MS)
        assert self.publish(core, START_MS + limits.FEED_CLAIM_WAIT_MS)

    def test_only_proven_addresses_confirm(self) -> None:
        core = self.core()
        core.feed_risk = True
        feed = core.replica.feeds.get(core.signer.node_id)
        truth = Head(feed.author, feed.head_seq, feed.head_id)
        peer = Neighbour(core, "peer", "192.0.2.1:9")
        peer.heads(truth)
        core.handle(Tick(), START_MS + 60_000, Effects())
        assert core.feed_risk
        peer.confirm(START_MS + 60_000)
        peer.heads(truth, now_ms=START_MS + 60_000)
        core.handle(Tick(), START_MS + 60_000 + limits.FEED_QUIET_MS - 1, Effects())
        assert core.feed_risk
        core.handle(Tick(), START_MS + 60_000 + limits.FEED_QUIET_MS, Effects())
        assert not core.feed_risk


def test_a_head_that_is_not_ours_does_not_confirm() -> None:
    world, first, _ = pair()
    first.crash()
    first.start(feed_risk=True)
    liar = Neighbour(first.running, "liar", "192.0.2.1:9")
    liar.confirm(world.now_ms)
    liar.heads(Head(first.id, 2, "0" * 64), now_ms=world.now_ms)
    first.give(Tick())
    assert refused(first)


def test_attempts_at_risk_leave_nothing() -> None:
    node = World(1).add("alone")
    node.start(feed_risk=True)
    before = node.running.replica.state_hash()
    assert attempt(node, WISH) is None
    assert node.running.replica.state_hash() == before
    assert head_seq(node) == 0
