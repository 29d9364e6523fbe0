"""The values that policies take and give."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct

from crabnet import limits
from crabnet.domain.model import Id, Natural, NodeId
from crabnet.errors import Reason


class AwardRule(StrEnum):
    """How a purchase chooses among the bids that fit."""

    CHEAPEST = "cheapest"
    FASTEST = "fastest"
    """The worker with the shortest median time from claim to result."""
    BEST_HISTORY = "best-history"
    """The worker with the largest share of accepted results."""
    FIRST = "first"
    """The first bid that fits, at once."""


class Accepting(StrEnum):
    """How a purchase settles a result."""

    AUTO = "auto"
    """By the conditions of the seed. Without conditions it accepts every result of a task that ran."""
    CHECK = "check"
    """By the conditions of the seed only."""
    NEVER = "never"
    """Not at all: its operator settles."""


class Terms(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node does by itself with a seed of its own. Its public part is in the seed."""

    award: AwardRule | None = AwardRule.CHEAPEST
    """None: its operator claims."""
    bid_wait_ms: Natural = limits.BID_WAIT_MS_DEFAULT
    """How long to collect bids before one is chosen. ``first`` does not wait."""
    price_max: Natural | None = None
    worker: NodeId | None = None
    """Only this worker."""
    tries_max: Annotated[int, Meta(ge=1, le=limits.PURCHASE_ATTEMPTS_MAX)] = 3
    """Most tries: claims of this seed, and seeds that follow it."""
    accept: Accepting = Accepting.AUTO
    tries_before: Natural = 0
    """Tries of the seeds that this one follows."""
    shunned: Annotated[tuple[Id, ...], Meta(max_length=limits.PURCHASE_ATTEMPTS_MAX)] = ()
    """Workers that have failed in the seeds that this one follows."""


_REASONS: Final = frozenset(reason.value for reason in Reason)


def note_of(reason: Reason, detail: str) -> str:
    """The note of a settlement that a policy makes. It begins with the Reason, for ``reason_in``."""
    return f"{reason}: {detail}"[: limits.RULES_CHARS_MAX]


def reason_in(note: str) -> tuple[Reason | None, str]:
    """The Reason with which the note of a settlement begins, if it does, and the rest of it."""
    word, _, detail = note.partition(": ")
    return (Reason(word), detail) if word in _REASONS else (None, note)


class Wait(NamedTuple):
    """Nothing is to be done before ``until_ms``, or before something changes if that is None."""

    reason: Reason
    until_ms: int | None = None


class Again(StrEnum):
    """What has to change until a declined task is worth another look."""

    MACHINE = "machine"
    """The worker is paused, or it is outside of its schedule, or the machine is busy."""
    ROOM = "room"
    """One of its bids or tasks has to end."""
    OPENING = "opening"
    """The schedule has to begin anew, because the task does not fit into the rest."""
    PUBLISHER = "publisher"
    """The publisher has to settle something."""


class Declined(NamedTuple):
    """Why a policy makes no deal. ``detail`` names the thing. For ``PRICE``, ``price`` is the least that would do.

    ``again`` says what may change the decision. None: nothing that a node could wait for.
    """

    reason: Reason
    detail: str
    price: int | None = None
    again: Again | None = None


class Judgement(StrEnum):
    """What to do with a result."""

    ACCEPT = "accept"
    REJECT = "reject"
    ASK = "ask"
    """The result cannot tell: its publisher has to look at it."""


class Verdict(NamedTuple):
    """A judgement, its Reason, and what it is about in words."""

    judgement: Judgement
    reason: Reason
    detail: str


class CheckOutcome(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What the check of a seed said about a result in this node's sandbox.

    ``exit_code`` is None if it was not run to its end, and ``detail`` then says why. ``output`` is the beginning of
    what it wrote, for people.
    """

    exit_code: int | None = None
    detail: str = ""
    output: str = ""
