"""Votes about the reachability of a node, and what its peers see of it."""

from __future__ import annotations

from crabnet import limits
from crabnet.p2p.reachability import Observations, Votes

WHERE = "/ip4/8.8.4.4/tcp/9012"


def test_the_majority_of_hosts_decides_and_a_draw_means_unreachable() -> None:
    votes = Votes()
    assert votes.verdict == "unknown"
    votes.put("8.8.8.8", WHERE, 0)
    assert votes.verdict == "public"
    votes.put("9.9.9.9", "", 0)
    assert votes.verdict == "private"
    votes.put("1.1.1.1", WHERE, 0)
    assert (votes.verdict, votes.addresses()) == ("public", [WHERE])


def test_a_host_has_one_voice_and_its_last_word_counts() -> None:
    votes = Votes()
    for _ in range(5):
        votes.put("8.8.8.8", WHERE, 0)
    votes.put("9.9.9.9", "", 0)
    votes.put("1.1.1.1", "", 0)
    assert votes.verdict == "private"
    votes.put("9.9.9.9", WHERE, 1)
    assert votes.verdict == "public"


def test_neighbours_in_private_networks_say_nothing_about_the_internet() -> None:
    votes = Votes()
    for number in range(5):
        votes.put(f"192.168.0.{number}", "/ip4/192.168.0.9/tcp/9012", 0)
    assert votes.verdict == "public"
    votes.put("8.8.8.8", "", 0)
    assert (votes.verdict, votes.addresses()) == ("private", [])


def test_votes_are_asked_for_again_and_bounded() -> None:
    votes = Votes()
    for number in range(limits.P2P_REACHABILITY_VOTES_MAX + 9):
        votes.put(f"8.8.{number}.8", WHERE, 0)
    assert votes.recent(1) == limits.P2P_REACHABILITY_VOTES_MAX
    assert not votes.asked("8.8.9.8", limits.P2P_REACHABILITY_ASK_MS)


def test_an_observed_address_counts_when_several_hosts_see_it() -> None:
    seen = Observations()
    for connection in range(3):
        seen.put(connection, "8.8.8.8", "5.5.5.5")
    assert seen.confirmed() == []
    assert seen.by(1) == "5.5.5.5"
    seen.put(3, "9.9.9.9", "5.5.5.5")
    seen.put(4, "1.1.1.1", "6.6.6.6")
    assert seen.confirmed() == ["5.5.5.5"]
    seen.forget(3)
    assert seen.confirmed() == []
