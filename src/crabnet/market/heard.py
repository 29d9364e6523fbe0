"""What workers say about why they do not bid, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from crabnet.domain.model import Seed
from crabnet.errors import Reason

_COMMAND_CHARS: Final = 40
OTHER: Final = "other"
"""Stands for reasons that this version does not know."""


class HeardDecline(NamedTuple):
    """What a worker says about why it does not bid. ``reason`` may be a word of a later version."""

    author: str
    reason: str
    price: int | None
    at_ms: int

    def says(self, other: HeardDecline) -> bool:
        """True if the other one says the same."""
        return (self.reason, self.price) == (other.reason, other.price)


class DeclineCount(NamedTuple):
    """How many workers give a reason. ``price_min`` is the least that would do for one of them."""

    reason: str
    workers: int
    price_min: int | None = None


_ORDER: Final = (Reason.NOT_ALLOWED, Reason.PRICE, Reason.BUSY, Reason.SCHEDULE, Reason.TRUST, Reason.RESOURCES, OTHER)


def count(declines: Sequence[HeardDecline]) -> tuple[DeclineCount, ...]:
    """How many workers give each reason, the most frequent first."""
    counts = []
    for reason in _ORDER:
        group = [each for each in declines if _known(each.reason) == reason]
        prices = [each.price for each in group if each.price is not None and reason == Reason.PRICE]
        if group:
            counts.append(DeclineCount(str(reason), len(group), min(prices, default=None)))
    return tuple(sorted(counts, key=lambda each: -each.workers))


def _known(reason: str) -> str:
    return reason if reason in _ORDER else OTHER


def summary(declines: Sequence[HeardDecline], seed: Seed, bids: int = 0) -> str:
    """``7 workers saw it: 4 do not allow python3, 2 want more than 5, 1 is busy``; "" if nobody has said anything.

    ``bids`` are workers that saw it, too. The words are those of strangers: what they say, not what is so.
    """
    counts = count(declines)
    if not counts:
        return ""
    saw = bids + sum(each.workers for each in counts)
    said = [f"{bids} bid{'s' if bids == 1 else ''}"] if bids else []
    said += [f"{each.workers} {_says(each, seed)}" for each in counts]
    return f"{saw} worker{'' if saw == 1 else 's'} saw it: {', '.join(said)}"


def _says(each: DeclineCount, seed: Seed) -> str:
    one = each.workers == 1
    do, are, want = ("does", "is", "wants") if one else ("do", "are", "want")
    if each.reason == Reason.NOT_ALLOWED:
        return f"{do} not allow {command_word(seed)}"
    if each.reason == Reason.PRICE:
        least = "" if each.price_min is None else f" ({each.price_min} would do{'' if one else ' for one of them'})"
        return f"{want} more than {seed.reward}{least}"
    if each.reason == Reason.BUSY:
        return f"{are} busy"
    if each.reason == Reason.SCHEDULE:
        return f"{do} not work at this time"
    if each.reason == Reason.TRUST:
        return f"{do} not work for this publisher"
    if each.reason == Reason.RESOURCES:
        return "cannot give it the time, memory or power that it wants"
    return "has another reason" if one else "have other reasons"


def command_word(seed: Seed) -> str:
    """The program that a task runs, as far as one can tell without a shell."""
    words = seed.command.split(maxsplit=1)
    word = words[0] if words else "its command"
    return word if len(word) <= _COMMAND_CHARS else f"{word[:_COMMAND_CHARS]}…"
