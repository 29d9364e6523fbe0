"""A node that may have lost the end of its own feed does not write before a peer has confirmed it."""

from __future__ import annotations

from itertools import count

import pytest
from msgspec import structs

from crabnet import limits
from crabnet.core.commands import CreateClaim, Received, StartRun, SubmitBid, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.sync.feed_guard import FeedGuard
from crabnet.domain.model import Bid, TaskResult
from crabnet.errors import Reason, RefusedError
from crabnet.protocol.envelope import Kind
from crabnet.protocol.feed import Feeds
from crabnet.protocol.sync import Head, Request, Want
from tests.sim.disk import MemoryFiles
from tests.sim.market import result
from tests.sim.world import START_MS, SimNode, Weather, World, attempt
from tests.support.envelopes import signer
from tests.support.own_feed import WISH, publishes
from tests.support.talking import Neighbour


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
    assert not any(feed.end for node in (first, second) for feed in node.running.replica.feeds.all())


def test_a_liar_does_not_keep_the_truth_from_being_heard() -> None:
    world, first, second = pair()
    lose_end(world, first, 5)
    first.start()
    liar = Neighbour(first.running, "liar", "udp:192.0.2.1:9")
    liar.confirm(world.now_ms)
    liar.heads(Head(first.id, 10**6, "0" * 64), now_ms=world.now_ms)
    for _ in range(600):
        world.run(100)
        refused(first)
    assert kinds(first)[-2:] == ["feed_adopted", "feed_confirmed"]
    assert world.settle(10_000)
    assert not any(feed.end for node in (first, second) for feed in node.running.replica.feeds.all())


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
        assert record.progress.status == ("Done" if had_result else "Forfeited")
        results = [fact.body for fact in (*record.others, *record.fallen) if isinstance(fact.body, TaskResult)]
        assert [result.worker_failed for result in results] == [not had_result]


class TestLiars:
    """Words are not proof: a stranger cannot keep a node from writing."""

    def setup_method(self) -> None:
        self.sent: dict[Core, bytes] = {}

    def core(self, title: str = "t") -> Core:
        """A core that has written one envelope."""
        numbers = count(1)
        core = Core(CoreConfig(), signer("honest"), lambda: next(numbers))
        effects = Effects()
        core.handle(structs.replace(WISH, title=title), START_MS, effects)
        (self.sent[core],) = [send.data for send in effects.sends if send.kind == Kind.SEED_CREATED]
        return core

    def truth(self, core: Core) -> Head:
        feed = core.replica.feeds.get(core.signer.node_id)
        return Head(feed.author, feed.head_seq, feed.head_id)

    def lie(self, core: Core) -> Head:
        return Head(core.signer.node_id, 10**6, "0" * 64)

    def test_an_unproven_address_is_not_believed(self) -> None:
        core = self.core()
        Neighbour(core, "liar", "udp:192.0.2.1:9").heads(self.lie(core))
        assert publishes(core, START_MS)

    def blocked_s(self, core: Core, liars: list[Neighbour], from_ms: int, duration_s: int) -> int:
        """For how many seconds nothing is written while all these tell their lie every half minute."""
        step_s, blocked = 5, 0
        for second in range(0, duration_s, step_s):
            now_ms = from_ms + second * 1_000
            for liar in liars if second % 30 == 0 else []:
                liar.confirm(now_ms)
                liar.heads(self.lie(core), now_ms=now_ms)
            core.handle(Tick(), now_ms, Effects())
            blocked += 0 if publishes(core, now_ms) else step_s
        return blocked

    def test_many_liars_together_forbid_writing_for_ten_seconds_in_an_hour(self) -> None:
        core = self.core()
        liars = [Neighbour(core, f"liar{number}", f"udp:192.0.2.{number}:9") for number in range(8)]
        assert self.blocked_s(core, liars, START_MS, 3 * 3_610) == 3 * limits.FEED_CLAIM_WAIT_MS // 1_000

    def test_one_liar_alone_forbids_it_once_a_day_then_in_two_whatever_port_it_has(self) -> None:
        core = self.core()
        hours = []
        for hour in range(75):
            now_ms = START_MS + hour * 3_700_000
            liar = Neighbour(core, f"liar{hour}", f"udp:192.0.2.1:{hour + 9}")
            liar.confirm(now_ms)
            liar.heads(self.lie(core), now_ms=now_ms)
            if not publishes(core, now_ms):
                hours.append(hour)
            for later_ms in range(0, limits.FEED_CLAIM_WAIT_MS, 500):
                core.handle(Tick(), now_ms + later_ms, Effects())
        assert hours == [0, 24, 71]

    def test_a_liar_that_takes_its_word_back_at_once_is_one(self) -> None:
        core = self.core()
        liar = Neighbour(core, "liar", "udp:192.0.2.1:9")
        for hour, believed in ((0, True), (2, False)):
            now_ms = START_MS + hour * 3_600_000
            liar.confirm(now_ms)
            liar.heads(self.lie(core), self.truth(core), now_ms=now_ms)
            core.handle(Tick(), now_ms + 100, Effects())
            assert publishes(core, now_ms + 200) is not believed

    def test_another_is_believed_an_hour_after_a_lie(self) -> None:
        core = self.core()
        pause_ms = limits.FEED_CLAIM_WAIT_MS + limits.FEED_CLAIM_PAUSE_MS
        for number, (later_ms, believed) in enumerate(((0, True), (pause_ms - 1, False), (pause_ms, True))):
            peer = Neighbour(core, f"peer{number}", f"udp:192.0.2.{number}:9")
            peer.confirm(START_MS + later_ms)
            peer.heads(self.lie(core), now_ms=START_MS + later_ms)
            assert publishes(core, START_MS + later_ms) is not believed

    def test_whoever_sends_what_it_said_is_believed_again_at_once(self) -> None:
        core, twin = self.core(), self.core()
        peer = Neighbour(core, "peer", "udp:192.0.2.1:9")
        peer.confirm()
        now_ms = START_MS
        for _ in range(3):
            effects = Effects()
            twin.handle(WISH, now_ms, effects)
            peer.heads(self.truth(twin), now_ms=now_ms)
            assert not publishes(core, now_ms)
            (raw,) = [send.data for send in effects.sends if send.kind == Kind.SEED_CREATED]
            core.handle(Received(peer.address, raw), now_ms, Effects())
            assert core.feed_risk
            peer.heads(self.truth(core), now_ms=now_ms)
            now_ms += limits.FEED_QUIET_MS
            core.handle(Tick(), now_ms, Effects())
            assert not core.feed_risk
        assert publishes(core, now_ms)

    def test_whoever_forbids_writing_is_asked_for_the_envelopes(self) -> None:
        core = self.core()
        peer = Neighbour(core, "peer", "udp:192.0.2.1:9")
        peer.confirm()
        said = peer.heard(peer.heads(self.lie(core)))
        assert [talk.wants for talk in said if isinstance(talk, Request)] == [[Want(core.signer.node_id, 2, 65)]]
        other = self.core()
        peer = Neighbour(other, "peer", "udp:192.0.2.1:9")
        peer.confirm()
        said = peer.heard(peer.heads(Head(other.signer.node_id, 1, "0" * 64)))
        assert [talk.wants for talk in said if isinstance(talk, Request)] == [[Want(other.signer.node_id, 1, 64)]]

    def test_when_the_other_branch_has_come_the_feed_is_known_to_have_ended(self) -> None:
        ours, other = (self.core(title=title) for title in ("one", "other"))
        peer = Neighbour(ours, "peer", "udp:192.0.2.1:9")
        peer.confirm()
        peer.heads(self.truth(other))
        assert not publishes(ours, START_MS)
        ours.handle(Received(peer.address, self.sent[other]), START_MS, Effects())
        with pytest.raises(RefusedError) as refused:
            publishes(ours, START_MS)
        assert refused.value.reason is Reason.FEED_ENDED
        assert not ours.feed_risk

    def test_the_liars_that_are_remembered_are_bounded(self) -> None:
        guard = FeedGuard("me", Feeds())
        head = Head("me", 7, "0" * 64)
        pause_ms = limits.FEED_CLAIM_WAIT_MS + limits.FEED_CLAIM_PAUSE_MS
        sources = [f"udp:192.0.{number >> 8}.{number & 255}:9" for number in range(limits.FEED_LIARS_MAX + 2)]
        last_ms = START_MS + len(sources) * pause_ms
        for number, source in enumerate(sources):
            guard.told(head, source, START_MS + number * pause_ms)
        guard.blocks(last_ms)
        assert not guard.told(head, sources[-1], last_ms)
        assert guard.told(head, sources[0], last_ms)

    def test_a_lie_about_what_is_held_forbids_it_for_a_while_only(self) -> None:
        core = self.core()
        liar = Neighbour(core, "liar", "udp:192.0.2.1:9")
        liar.confirm()
        liar.heads(Head(core.signer.node_id, 1, "0" * 64))
        assert not publishes(core, START_MS)
        assert publishes(core, START_MS + limits.FEED_CLAIM_WAIT_MS)

    def test_only_proven_addresses_confirm(self) -> None:
        core = self.core()
        core.endanger_feed("the data dir was repaired")
        truth = self.truth(core)
        peer = Neighbour(core, "peer", "udp:192.0.2.1:9")
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
    liar = Neighbour(first.running, "liar", "udp:192.0.2.1:9")
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
