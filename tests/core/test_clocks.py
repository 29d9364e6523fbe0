"""A node compares its clock with its peers' before it signs; what a wrong one has done blocks nobody (own-2)."""

from __future__ import annotations

from itertools import count

import pytest

from crabnet import limits
from crabnet.core.commands import Publish, Received, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.sync.clocks import Clocks
from crabnet.errors import Reason, RefusedError
from crabnet.protocol.admission import AdmissionPolicy, Admitted
from crabnet.protocol.envelope import Kind, seal
from crabnet.protocol.sync import Hello, NodeIdentity, payload_of
from tests.sim.world import START_MS, SimNode, World
from tests.support.envelopes import NOW_S, admission, signer
from tests.support.talking import Neighbour

DAY_S = 86_400
AHEAD_MS = 30 * DAY_S * 1000
WISH = Publish(title="t", command="true", timeout_ms=1_000, bid_window_ms=600_000)
SKEW_S = AdmissionPolicy().future_skew_s


def publishes(node: SimNode) -> bool:
    """True if the node signs; False if its clock is suspect."""
    try:
        node.operate(WISH)
    except RefusedError as error:
        if error.reason is not Reason.CLOCK_SUSPECT:
            raise
        return False
    return True


def stamp_of(core: Core, now_ms: int) -> int:
    """The date of what is published now."""
    effects = Effects()
    core.handle(WISH, now_ms, effects)
    (raw,) = [send.data for send in effects.sends if send.kind == Kind.SEED_CREATED]
    outcome = admission(AdmissionPolicy(future_skew_s=2**53)).admit(raw, 2**52, lambda _: True)
    assert isinstance(outcome, Admitted)
    return outcome.envelope.meta.ts


def pair(ahead_ms: int, config: CoreConfig | None = None) -> tuple[World, SimNode, SimNode]:
    """A node whose clock is wrong, and its peer, each of which is configured at the other."""
    world = World(1)
    wrong = world.add("wrong", config or CoreConfig(), skew_ms=ahead_ms)
    right = world.add("right")
    wrong.targets, right.targets = [right.address], []
    right.start()
    wrong.start()
    return world, wrong, right


class TestVotes:
    """Who is believed about the time."""

    def clocks(self, *votes: tuple[int, bool]) -> Clocks:
        """Each vote is of its own network: how far ahead, and whether the peer is configured."""
        clocks = Clocks(SKEW_S)
        clocks.due(lambda: "drawn", START_MS)
        for number, (ahead_s, configured) in enumerate(votes):
            source = f"udp:192.0.{number}.1:9"
            clocks.said(f"peer{number}", source, "drawn", NOW_S + ahead_s, START_MS, configured=configured)
        return clocks

    @pytest.mark.parametrize(
        ("ahead_s", "told_s"),
        [
            ([], 0),
            ([SKEW_S], 0),
            ([SKEW_S + 1], SKEW_S + 1),
            ([-SKEW_S - 1], -SKEW_S - 1),
            ([-DAY_S, 0], 0),
            ([-DAY_S, -DAY_S, 0], -DAY_S),
            ([-DAY_S, DAY_S, DAY_S], DAY_S),
            ([-DAY_S, DAY_S], 0),
            ([2**53, 2**53], 2**53),
        ],
    )
    def test_most_of_the_configured_peers_decide(self, ahead_s: list[int], told_s: int) -> None:
        assert self.clocks(*((each, True) for each in ahead_s)).ahead_s(START_MS) == told_s

    def test_strangers_are_heard_if_they_are_several_and_nobody_is_configured(self) -> None:
        strangers = [(DAY_S, False)] * limits.CLOCK_STRANGERS_MIN
        assert self.clocks(*strangers).ahead_s(START_MS) == DAY_S
        assert self.clocks(*strangers[1:]).ahead_s(START_MS) == 0
        assert self.clocks(*strangers, (0, True)).ahead_s(START_MS) == 0

    def test_strangers_of_one_network_are_one(self) -> None:
        clocks = Clocks(SKEW_S)
        clocks.due(lambda: "drawn", START_MS)
        for number in range(10):
            clocks.said(f"peer{number}", f"udp:192.0.2.1:{number}", "drawn", 0, START_MS, configured=False)
        assert clocks.ahead_s(START_MS) == 0

    def test_what_answers_no_challenge_or_is_old_says_nothing(self) -> None:
        clocks = Clocks(SKEW_S)
        clocks.said("peer", "udp:192.0.2.1:9", "", 0, START_MS, configured=True)
        clocks.due(lambda: "drawn", START_MS)
        clocks.said("peer", "udp:192.0.2.1:9", "guessed", 0, START_MS, configured=True)
        assert clocks.ahead_s(START_MS) == 0
        clocks.said("peer", "udp:192.0.2.1:9", "drawn", 0, START_MS, configured=True)
        assert clocks.ahead_s(START_MS + limits.CLOCK_VOTE_MS - 1) < 0
        assert clocks.ahead_s(START_MS + limits.CLOCK_VOTE_MS) == 0

    def test_who_is_not_configured_cannot_answer_for_who_is(self) -> None:
        """The address of a datagram can be forged, a challenge that was never received cannot be repeated."""
        clocks, drawn = Clocks(SKEW_S), iter(["for the configured", "for others"])
        asked = clocks.due(lambda: next(drawn), START_MS)
        assert asked == ("for the configured", "for others")
        for number in range(9):
            clocks.said(f"liar{number}", "udp:192.0.2.1:9", asked.others, 0, START_MS, configured=True)
        assert clocks.ahead_s(START_MS) == 0
        for number in range(9):  # one address is one voice, under however many keys
            clocks.said(f"liar{number}", "udp:192.0.2.1:9", asked.configured, 0, START_MS, configured=True)
        for number in range(2):
            source = f"udp:192.0.2.{number + 2}:9"
            clocks.said(f"peer{number}", source, asked.configured, NOW_S, START_MS, configured=True)
        assert clocks.ahead_s(START_MS) == 0

    def test_the_challenges_are_drawn_anew(self) -> None:
        clocks, numbers = Clocks(SKEW_S), count()

        def asked_at(now_ms: int) -> str:
            asked = clocks.due(lambda: str(next(numbers)), now_ms)
            return "" if asked is None else "+".join(asked)

        first = [asked_at(START_MS + at * limits.CLOCK_ASK_FIRST_MS) for at in range(limits.CLOCK_ASKED_QUICKLY)]
        assert first == ["0+1"] * limits.CLOCK_ASKED_QUICKLY
        soon_ms = START_MS + limits.CLOCK_ASKED_QUICKLY * limits.CLOCK_ASK_FIRST_MS
        assert asked_at(soon_ms) == "2+3"
        later = [asked_at(soon_ms + later_ms) for later_ms in range(100, limits.CLOCK_ASK_MS + 100, 100)]
        assert [each for each in later if each] == ["4+5"]
        assert later[-1] == "4+5"

    def test_after_a_leap_of_the_own_clock_what_was_said_means_nothing(self) -> None:
        for leap_ms in (DAY_S * 1000, -DAY_S * 1000):
            clocks = self.clocks((DAY_S, True))
            assert clocks.due(lambda: "again", START_MS + leap_ms) == ("again", "again")
            assert clocks.ahead_s(START_MS) == 0


@pytest.mark.parametrize("ahead_ms", [AHEAD_MS, -AHEAD_MS, (SKEW_S + 5) * 1000, -(SKEW_S + 5) * 1000])
def test_a_node_whose_clock_is_wrong_finds_out_and_signs_nothing(ahead_ms: int) -> None:
    world, wrong, right = pair(ahead_ms)
    world.run(1_500)
    assert not publishes(wrong)
    assert publishes(right), "one stranger with another time is not believed"
    with pytest.raises(RefusedError) as refused:
        wrong.operate(WISH)
    assert str(abs(ahead_ms) // 1000)[:-1] in refused.value.message
    assert "clock_check" in refused.value.message
    assert [notice.kind for notice in wrong.notices if notice.kind.startswith("clock_")] == ["clock_suspect"]
    wrong.skew_ms = 0
    world.run(limits.CLOCK_ASK_MS + 2_000)
    assert publishes(wrong)
    assert [notice.kind for notice in wrong.notices if notice.kind.startswith("clock_")][-1] == "clock_confirmed"


@pytest.mark.parametrize("ahead_ms", [0, SKEW_S * 500, -SKEW_S * 500])
def test_a_clock_that_others_accept_is_right_enough(ahead_ms: int) -> None:
    world, node, _ = pair(ahead_ms)
    world.run(1_500)
    assert publishes(node)


def test_who_is_told_not_to_check_signs() -> None:
    world, wrong, _ = pair(AHEAD_MS, CoreConfig(clock_check=False))
    world.run(1_500)
    assert publishes(wrong)


def test_an_envelope_that_was_dated_by_a_wrong_clock_comes_behind_a_later_one() -> None:
    """Thirty days ahead, then corrected: the identity is shut out neither by those who know it nor by newcomers."""
    world, wrong, right = pair(AHEAD_MS, CoreConfig(clock_check=False))
    for _ in range(3):
        wrong.operate(WISH)
    world.run(20_000)
    assert right.running.replica.feeds.get(wrong.id).head_seq == 0
    wrong.crash()
    wrong.skew_ms = 0
    wrong.config = CoreConfig()
    wrong.start()
    world.run(5_000)
    assert publishes(wrong), "its peer has told that the clock is right now"
    world.run(20_000)
    assert right.running.replica.feeds.get(wrong.id).head_seq == 4
    newcomer = world.add("newcomer")
    newcomer.targets = [right.address]
    newcomer.start()
    world.run(20_000)
    assert newcomer.running.replica.feeds.get(wrong.id).head_seq == 4
    assert world.settle(20_000)


def test_what_is_dated_ahead_and_followed_by_nothing_waits_until_its_time_has_come() -> None:
    world, wrong, right = pair(AHEAD_MS, CoreConfig(clock_check=False))
    wrong.operate(WISH)
    world.run(20_000)
    assert right.running.replica.feeds.get(wrong.id).head_seq == 0
    wrong.skew_ms = 0
    world.now_ms += AHEAD_MS
    world.run(30_000)
    assert right.running.replica.feeds.get(wrong.id).head_seq == 1


def core_of() -> Core:
    numbers = count(1)
    return Core(CoreConfig(), signer("honest"), lambda: next(numbers))


def test_a_clock_that_was_never_set_signs_nothing() -> None:
    core = core_of()
    with pytest.raises(RefusedError) as refused:
        core.handle(WISH, 60_000, Effects())
    assert refused.value.reason is Reason.CLOCK_SUSPECT
    assert "1970-01-01" in refused.value.message
    assert stamp_of(core, START_MS) == NOW_S


@pytest.mark.parametrize("back_s", [1, SKEW_S])
def test_nothing_is_dated_before_what_was_stated_last(back_s: int) -> None:
    core = core_of()
    core.replica.written_until_s = NOW_S
    assert stamp_of(core, START_MS - back_s * 1000) == NOW_S
    assert stamp_of(core, START_MS + 1_000) == NOW_S + 1


def test_a_node_without_peers_keeps_to_the_last_date_unless_the_operator_knows_better() -> None:
    later_s = NOW_S + 10 * SKEW_S
    core = core_of()
    core.replica.written_until_s = later_s
    assert stamp_of(core, START_MS) == later_s
    numbers = count(1)
    core = Core(CoreConfig(clock_check=False), signer("honest"), lambda: next(numbers))
    core.replica.written_until_s = later_s
    assert stamp_of(core, START_MS) == NOW_S


def test_a_clock_far_behind_what_was_written_last_needs_a_peers_word() -> None:
    core = core_of()
    core.neighbours.trusted = frozenset({"udp:192.0.2.1:9"})
    core.replica.written_until_s = NOW_S + SKEW_S + 1
    with pytest.raises(RefusedError) as refused:
        stamp_of(core, START_MS)
    assert refused.value.reason is Reason.CLOCK_SUSPECT
    assert f"{SKEW_S + 1} s before" in refused.value.message
    effects = Effects()
    core.handle(Tick(), START_MS, effects)
    peer = Neighbour(core, "peer", "udp:192.0.2.1:9")
    for talk in peer.heard(effects):
        if isinstance(talk, Hello) and talk.challenge:
            peer.hello(echo=talk.challenge)
    assert stamp_of(core, START_MS) == NOW_S


@pytest.mark.parametrize("ts", [0, NOW_S - 10 * DAY_S, NOW_S + 10 * DAY_S, 2**53 - 1])
def test_a_hello_is_heard_whatever_the_clock_of_its_sender_says(ts: int) -> None:
    core, peer = core_of(), signer("peer")
    kind, payload = payload_of(Hello(NodeIdentity(peer.node_id), challenge="abc"))
    envelope = seal(peer, kind=kind, namespace="default", ts=ts, nonce=1, payload=payload)
    effects = Effects()
    core.handle(Received("udp:192.0.2.1:9", envelope.raw), START_MS, effects)
    said = Neighbour(core, "peer", "udp:192.0.2.1:9").heard(effects)
    assert any(isinstance(talk, Hello) and talk.echo == "abc" for talk in said)
