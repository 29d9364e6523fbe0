"""The form of the attacks over libp2p: what a hostile peer does, and what the node tells of it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from crabnet.errors import Reason
from crabnet.protocol.envelope import Envelope
from tests.support.envelopes import Author
from tests.support.hostile_p2p import Identity


@dataclass(frozen=True)
class Target:
    """The node under attack."""

    address: str
    """``/ip4/…/tcp/…``"""
    node_id: str
    namespace: str = "default"

    def topic(self, channel: str = "tasks", version: int = 2) -> str:
        """A topic of the node."""
        return f"crabnet/v{version}/{self.namespace}/{channel}"


Run = Callable[[Target, Identity], Awaitable[None]]


@dataclass(frozen=True)
class Attack:
    """One attack. ``event`` is "" where nobody can be named, or where nothing wrong was said."""

    name: str
    run: Run
    event: str = ""
    reason: Reason | None = None
    blocks: bool = False
    """The node blocks this peer."""
    quick: bool = False
    """It is part of the quick tests."""


class Attacks:
    """Collects attacks."""

    def __init__(self) -> None:
        self.all: list[Attack] = []

    def __call__(
        self, event: str = "", reason: Reason | None = None, *, blocks: bool = False, quick: bool = False
    ) -> Callable[[Run], Run]:
        """Decorator for a function that attacks."""

        def take(run: Run) -> Run:
            self.all.append(Attack(run.__name__, run, event, reason, blocks, quick))
            return run

        return take


BAD = "datagram_received_bad"
REJECTED = "envelope_rejected"
IGNORED = "envelope_ignored"
DROPPED = "datagram_dropped"


def author(who: Identity, namespace: str = "default") -> Author:
    """A feed with the key of this peer."""
    made = Author("unused", namespace)
    made.signer = who.signer
    return made


def seed(who: Identity, namespace: str = "default", age_s: int = 0) -> Envelope:
    """The first envelope of a feed: a seed that nobody could object to."""
    return author(who, namespace).publish(int(time.time()) - age_s)
