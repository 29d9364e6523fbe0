"""Compares this node's clock with those of peers before the node signs anything (docs/adr/0029-clocks.md).

All nodes refuse an envelope with a time in the future until that time, and all later envelopes of its author wait for
it. So a node compares clocks before it signs. A hello that repeats a random challenge was made after the challenge was
sent, so its time is the present time of the peer's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from statistics import median_low
from typing import Final, NamedTuple

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.source import group_of

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Vote(Struct):
    """How far a peer's clock is ahead of this node's, in seconds. ``group`` is the group of its source address."""

    ahead_s: int
    group: str
    configured: bool
    until_ms: int


class Questions(NamedTuple):
    """Two challenges. Only configured peers get theirs, so no other node can answer it, even with a forged address."""

    configured: str
    others: str


class Clocks:
    """The clocks of peers. Other than configured peers count only if no configured one has answered and several did."""

    def __init__(self, tolerance_s: int) -> None:
        self._tolerance_s = tolerance_s
        self._votes: BoundedTable[str, _Vote] = BoundedTable(limits.CLOCK_VOTES_MAX)
        self._questions: Questions | None = None
        self._ask_at_ms = 0
        self._asked = 0
        self._asked_once_ms: int | None = None
        """When the present questions were sent; None if they were sent more than once."""
        self._seen_ms = 0
        self._again_from_ms = 0

    def due(self, draw: Callable[[], str], now_ms: int) -> Questions | None:
        """The challenges to send to all peers, or None if none are due. They are due often at first, later less often.

        Call this several times a second. After a step of this node's clock, earlier answers are discarded.
        """
        if abs(now_ms - self._seen_ms) > limits.CLOCK_LEAP_MS:
            self._votes.clear()
            self._questions = None
            self._ask_at_ms = self._asked = self._again_from_ms = 0
        self._seen_ms = now_ms
        if now_ms < self._ask_at_ms:
            return None
        quick = self._asked < limits.CLOCK_ASKED_QUICKLY
        self._asked += 1
        self._ask_at_ms = now_ms + (limits.CLOCK_ASK_FIRST_MS if quick else limits.CLOCK_ASK_MS)
        if not quick or self._questions is None:
            self._questions = Questions(draw(), draw())
            self._asked_once_ms = now_ms
        else:
            self._asked_once_ms = None
        return self._questions

    def ask_again(self, now_ms: int) -> None:
        """Ask again soon, because a new node appeared at a configured address. This is limited by CLOCK_AGAIN_MS."""
        if self._asked > limits.CLOCK_ASKED_QUICKLY and now_ms >= self._again_from_ms:
            self._again_from_ms = now_ms + limits.CLOCK_AGAIN_MS
            self._ask_at_ms = self._asked = 0

    def said(self, author: str, source: str, echo: str, ts: int, now_ms: int, *, configured: bool) -> int | None:
        """Handle a hello. It counts if it echoes the challenge. A configured address has one vote, for any node.

        Returns the milliseconds since the challenge was sent; None if the hello does not count, or if the challenge was
        sent more than once.
        """
        asked = self._questions
        if asked is None or echo != (asked.configured if configured else asked.others):
            return None
        until_ms = now_ms + limits.CLOCK_VOTE_MS
        vote = _Vote(ts - now_ms // 1000, group_of(source), configured, until_ms)
        self._votes.put(source if configured else author, vote)
        return None if self._asked_once_ms is None else max(0, now_ms - self._asked_once_ms)

    def ahead_s(self, now_ms: int) -> int:
        """How many seconds the clocks of most peers are ahead of this node's, negative if they are behind.

        It is 0 if the difference is within the tolerance, or if too few peers have answered.
        """
        ahead = self._counting(now_ms)
        if not ahead:
            return 0
        beyond = [each for each in ahead if abs(each) > self._tolerance_s]
        one_side = max((each for each in (1, -1)), key=lambda side: sum(each * side > 0 for each in beyond))
        agreed = [each for each in beyond if each * one_side > 0]
        return median_low(agreed) if len(agreed) * 2 > len(ahead) else 0

    def agrees(self, now_ms: int) -> bool:
        """True if most peers that answered have about the same time as this node."""
        ahead = self._counting(now_ms)
        return sum(abs(each) <= self._tolerance_s for each in ahead) * 2 > len(ahead)

    def _counting(self, now_ms: int) -> list[int]:
        votes = [vote for _, vote in self._votes.items() if now_ms < vote.until_ms]
        configured = [vote.ahead_s for vote in votes if vote.configured]
        if configured:
            return configured
        by_group = {vote.group: vote.ahead_s for vote in votes}
        return list(by_group.values()) if len(by_group) >= limits.CLOCK_STRANGERS_MIN else []

    def unheard(self, now_ms: int, written_until_s: int) -> bool:
        """True if this node's clock is behind its last envelope and no peer has answered whether it is right."""
        return written_until_s - now_ms // 1000 > self._tolerance_s and not self._counting(now_ms)

    def suspicion(self, now_ms: int, written_until_s: int) -> str:
        """A description, with numbers, of what is wrong with this node's clock. "" if nothing is known to be wrong.

        ``written_until_s`` is the time of the last envelope that the node wrote.
        """
        now_s = now_ms // 1000
        if now_s < limits.CLOCK_PLAUSIBLE_FROM_S:
            return f"this machine's clock says {_date(now_s)}, so it has not been set"
        ahead_s = self.ahead_s(now_ms)
        if not ahead_s:
            back_s = written_until_s - now_s
            if back_s <= self._tolerance_s or self.agrees(now_ms):
                return ""
            return (
                f"this node's clock says {_date(now_s)}, {back_s} s before the time of its last envelope"
                f" ({_date(written_until_s)}), and no peer has said what time it is"
            )
        heard = len(self._counting(now_ms))
        side = "behind" if ahead_s > 0 else "ahead of"
        return (
            f"this node's clock says {_date(now_s)}, {abs(ahead_s)} s {side} most of the {heard} peers that were asked"
            f" ({_date(now_s + ahead_s)}); other nodes tolerate {self._tolerance_s} s"
        )


def _date(seconds: int) -> str:
    try:
        return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds")
    except OverflowError:
        return f"{seconds} s after 1970"
