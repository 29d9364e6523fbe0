"""The open connections of the web process: how many there may be, and how long each may take for what it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from crabnet import limits
from crabnet.errors import Reason
from crabnet.operations.access import ClientEvent


class Doing(StrEnum):
    """What a connection does at the moment."""

    GREETING = "greeting"
    """It negotiates TLS."""
    ASKING = "asking"
    """It sends the headers of a request, or is about to."""
    RESTING = "resting"
    """It has had an answer and has sent nothing since."""
    SERVED = "served"
    """A request is under way."""
    LINGERING = "lingering"
    """It sends the rest of a body whose request is answered already."""


_MAY_TAKE_MS = {
    Doing.GREETING: limits.WEB_TLS_HANDSHAKE_MS,
    Doing.ASKING: limits.WEB_HEADER_MS,
    Doing.RESTING: limits.WEB_KEEP_ALIVE_MS,
    Doing.LINGERING: limits.WEB_LINGER_MS,
}


class Place:
    """The place of one connection. ``close`` ends the connection at once."""

    __slots__ = ("address", "close", "doing", "since", "stalled_since")

    def __init__(self, address: str, now: float) -> None:
        self.address = address
        self.close: Callable[[], object] = _nothing
        self.doing = Doing.GREETING
        self.since = now
        self.stalled_since: float | None = None
        """Since when the client has not read what was written for it."""

    @property
    def idle(self) -> bool:
        """No request is under way."""
        return self.doing is not Doing.SERVED

    def turn(self, doing: Doing, now: float) -> None:
        """It does something else from now on."""
        self.doing, self.since = doing, now


def _nothing() -> None:
    return


Report = Callable[[ClientEvent, str, Reason], None]
"""Takes what happened to the connection of an address."""


class Connections:
    """All connections. Times are seconds of any steady clock.

    When there are too many, in all or of one address, the one that has been idle longest is closed for the new one.
    """

    def __init__(self, connections_max: int, per_address_max: int, report: Report) -> None:
        self._max = connections_max
        self._per_address_max = per_address_max
        self._report = report
        self._all: dict[Place, None] = {}
        self._per_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, address: str, now: float) -> Place | None:
        """A place for a new connection. None if all others are busy."""
        crowded = self._per_address[address] >= self._per_address_max and not self._evict(address)
        if crowded or (len(self._all) >= self._max and not self._evict(None)):
            self._report(ClientEvent.WEB_OVERLOADED, address, Reason.LIMIT_EXCEEDED)
            return None
        place = Place(address, now)
        self._all[place] = None
        self._per_address[address] += 1
        return place

    def leave(self, place: Place) -> None:
        """A connection has ended."""
        if place in self._all:
            del self._all[place]
            self._per_address[place.address] -= 1
            if not self._per_address[place.address]:
                del self._per_address[place.address]

    def _evict(self, address: str | None) -> bool:
        idle = (each for each in self._all if each.idle and address in {None, each.address})
        oldest = min(idle, key=lambda each: each.since, default=None)
        if oldest is None:
            return False
        self._end(oldest)
        return True

    def _end(self, place: Place) -> None:
        self.leave(place)
        place.close()

    def sweep(self, now: float) -> None:
        """End the connections that are late."""
        for place in list(self._all):
            stalled = place.stalled_since
            if stalled is not None and now - stalled > limits.WEB_SEND_MS / 1000:
                self._report(ClientEvent.WEB_CLIENT_DROPPED, place.address, Reason.TIMEOUT)
                self._end(place)
                continue
            may_take_ms = _MAY_TAKE_MS.get(place.doing)
            if may_take_ms is not None and now - place.since > may_take_ms / 1000:
                self._end(place)
