"""Round trips are measured from questions that a node asks anyway, and only if it is known which one was answered."""

from __future__ import annotations

from crabnet import limits
from crabnet.core.sync.clocks import Clocks
from crabnet.core.sync.peers import Introduction, Peers

AT_MS = 1_800_000_000_000
PEER = "udp:192.0.2.1:9012"


def test_the_first_challenge_and_its_echo_are_a_round_trip() -> None:
    peers = Peers()
    peers.heard(PEER, AT_MS)
    assert peers.round_trip_ms(PEER) is None
    assert peers.due_challenge(PEER, lambda: "drawn", AT_MS) == "drawn"
    assert peers.confirm(PEER, "node", "guessed", AT_MS + 5) is None
    assert peers.round_trip_ms(PEER) is None
    assert peers.confirm(PEER, "node", "drawn", AT_MS + 40) == []
    assert peers.round_trip_ms(PEER) == 40
    assert peers.confirm(PEER, "node", "drawn", AT_MS + 9_000) is None
    assert peers.round_trip_ms(PEER) == 40, "a repeated echo measures nothing"


def test_a_challenge_that_was_sent_twice_measures_nothing() -> None:
    peers = Peers()
    peers.heard(PEER, AT_MS)
    for at_ms in (AT_MS, AT_MS + limits.PEER_CHALLENGE_INTERVAL_MS):
        assert peers.due_challenge(PEER, lambda: "drawn", at_ms) == "drawn"
    assert peers.confirm(PEER, "node", "drawn", AT_MS + 1_500) == []
    assert peers.round_trip_ms(PEER) is None


def test_later_values_count_a_quarter_and_strangers_are_not_kept() -> None:
    peers = Peers()
    peers.heard(PEER, AT_MS)
    for value, mean in ((100, 100), (200, 125), (0, 93)):
        peers.measured(PEER, value)
        assert peers.round_trip_ms(PEER) == mean
    peers.measured("udp:198.51.100.1:1", 5)
    peers.introduces("udp:198.51.100.1:1", Introduction("alias", "agent"))
    assert peers.round_trip_ms("udp:198.51.100.1:1") is None
    assert peers.introduction("udp:198.51.100.1:1") == Introduction()


def test_a_question_about_the_time_that_was_asked_once_is_measured() -> None:
    clocks = Clocks(300)
    asked = clocks.due(iter(["a", "b", "c", "d"]).__next__, AT_MS)
    assert asked is not None

    def answer(at_ms: int, echo: str) -> int | None:
        return clocks.said("node", PEER, echo, at_ms // 1000, at_ms, configured=True)

    assert answer(AT_MS + 30, "guessed") is None
    assert answer(AT_MS + 30, asked.configured) == 30
    again_ms = AT_MS + limits.CLOCK_ASK_FIRST_MS
    assert clocks.due(lambda: "new", again_ms) == asked, "the first questions are repeated"
    assert answer(again_ms + 20, asked.configured) is None
