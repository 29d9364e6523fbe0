"""Whom a node asks for what it lacks: those who keep their word, and the others when nobody else is there."""

from __future__ import annotations

from collections import Counter

import pytest

from crabnet import limits
from crabnet.core.replica.parking import Parking
from crabnet.core.sync.planner import SyncPlanner
from crabnet.protocol.feed import Feeds
from crabnet.protocol.sync import Head, Served
from tests.core.test_parking import parked
from tests.support.envelopes import Author

LIAR, HONEST = "udp:192.0.2.1:9012", "udp:192.0.2.2:9012"
ALICE, MADE_UP = Author("alice").id, Author("made up").id
WAIT_MS_MAX = limits.SYNC_REQUEST_RETRY_MS_MAX
STEP_MS = limits.SYNC_QUIET_MS
UPTO = 5_000


class Node:
    """A planner with feeds and parking place, and a network: those who are ``up`` answer in one step."""

    def __init__(self, *up: str) -> None:
        self.feeds = Feeds()
        self.parking = Parking(60)
        self.planner = SyncPlanner(self.feeds, self.parking)
        self.now_ms = 0
        self.up = set(up)

    @property
    def head(self) -> int:
        """How far Alice's feed is held."""
        return self.feeds.get(ALICE).head_seq

    def hear(self, source: str, upto: int = UPTO, author: str = ALICE) -> None:
        """The source says that it holds a feed up to there."""
        self.planner.hear(Head(author, upto, "ab" * 32), source, self.now_ms)

    def run(self, wait_ms: int) -> Counter[str]:
        """Let time pass. Returns how often each source was asked for Alice's feed."""
        asked: Counter[str] = Counter()
        for _ in range(wait_ms // STEP_MS):
            requests = self.planner.requests(self.now_ms, lambda _: True)
            self.now_ms += STEP_MS
            for source, wants in requests:
                for want in wants:
                    asked[source] += want.author == ALICE
                    if source in self.up and want.author == ALICE:
                        self._bring(source, want.from_seq, want.to_seq)
        return asked

    def _bring(self, source: str, first: int, last: int) -> None:
        for seq in range(first, last + 1):
            if seq > self.head:
                self.parking.put(parked(ALICE, seq), self.now_ms // 1000, source)
        while self.parking.take_next(ALICE, self.head + 1):
            self.feeds.advance(ALICE, self.head + 1, f"{ALICE}/{self.head + 1}")
            self.planner.progressed(ALICE, self.now_ms, size=100)
        self.planner.ended(Served(ALICE, first, last), source, self.now_ms)


def test_who_brings_nothing_is_hardly_asked_while_another_delivers() -> None:
    node = Node(HONEST)
    node.hear(HONEST)
    node.hear(LIAR)

    node.run(2 * limits.SYNC_REQUEST_RETRY_MS)
    node.hear(HONEST, 2 * UPTO)
    node.hear(LIAR, 2 * UPTO)
    asked = node.run(WAIT_MS_MAX)

    assert node.head == 2 * UPTO
    assert set(asked) == {HONEST}


def test_who_fails_after_a_long_time_is_left_soon() -> None:
    node = Node(HONEST, LIAR)
    node.hear(LIAR)
    node.hear(HONEST, 1_000)
    node.run(2_000)
    node.up = {HONEST}
    node.hear(HONEST)
    node.run(WAIT_MS_MAX)

    assert node.head == UPTO


@pytest.mark.parametrize("liars", [1, 3])
@pytest.mark.parametrize("outage_ms", [2 * WAIT_MS_MAX, 20 * WAIT_MS_MAX])
def test_who_comes_back_is_asked_soon_however_long_it_was_away(outage_ms: int, liars: int) -> None:
    node = Node()
    node.hear(HONEST)
    for number in range(liars):
        node.hear(f"udp:198.51.100.{number}:9012")
    node.run(outage_ms)
    assert node.head == 0

    node.up = {HONEST}
    node.run((liars + 2) * WAIT_MS_MAX)

    assert node.head == UPTO


def test_promises_nobody_keeps_do_not_hold_up_what_others_bring() -> None:
    """A liar's window is taken by a feed that does not exist: those who failed before are asked in its place."""
    node = Node()
    node.hear(HONEST)
    node.run(2 * WAIT_MS_MAX)
    node.hear(LIAR, 100_000, MADE_UP)
    node.run(STEP_MS)
    node.hear(LIAR)
    node.up = {HONEST}

    node.run(4 * WAIT_MS_MAX)

    assert node.head == UPTO


def test_of_many_who_tell_those_who_failed_make_room() -> None:
    node = Node()
    node.hear(LIAR)
    node.run(4 * WAIT_MS_MAX)
    for number in range(limits.SYNC_SOURCES_PER_FEED_MAX):
        node.hear(f"udp:198.51.100.{number}:9012")

    assert node.run(10 * WAIT_MS_MAX)[LIAR] == 0
