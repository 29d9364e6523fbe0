"""Votes about the reachability of a node, and what its peers see of it."""

from __future__ import annotations

from crabnet import limits
from crabnet.p2p.reachability import Observations, Votes

WHERE = "/ip4/8.8.4.4/tcp/9012"


def test_the_majority_of_hosts_decides_and_a_draw_means_unreachable() -> None:
    votes = Votes()
    assert votes.verdict == "unknown"
    votes.put("8.8.8.8", WHERE)
    assert votes.verdict == "public"
    votes.put("9.9.9.9", "")
    assert votes.verdict == "private"
    votes.put("1.1.1.1", WHERE)
    assert (votes.verdict, votes.addresses()) == ("public", [WHERE])


def test_a_host_has_one_voice_and_its_last_word_counts() -> None:
    votes = Votes()
    for _ in range(5):
        votes.put("8.8.8.8", WHERE)
    votes.put("9.9.9.9", "")
    votes.put("1.1.1.1", "")
    assert votes.verdict == "private"
    votes.put("9.9.9.9", WHERE)
    assert votes.verdict == "public"


def test_neighbours_in_private_networks_say_nothing_about_the_internet() -> None:
    votes = Votes()
    for number in range(5):
        votes.put(f"192.168.0.{number}", "/ip4/192.168.0.9/tcp/9012")
    assert votes.verdict == "public"
    votes.put("8.8.8.8", "")
    assert (votes.verdict, votes.addresses()) == ("private", [])


def test_hosts_are_asked_again_after_a_pause_and_not_too_many() -> None:
    votes = Votes()
    most = limits.P2P_REACHABILITY_HOSTS_MAX
    assert [votes.ask(f"8.8.{number}.8", 0) for number in range(most + 1)] == [True] * most + [False]
    assert not votes.ask("8.8.0.8", limits.P2P_REACHABILITY_ASK_MS - 1)
    assert votes.ask("8.8.0.8", limits.P2P_REACHABILITY_ASK_MS)


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
