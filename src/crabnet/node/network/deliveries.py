"""Where the node has sent its own envelopes, for the answer to the one who stated them."""

from __future__ import annotations

from typing import NamedTuple

import trio

from crabnet import limits
from crabnet.bounded import BoundedTable


class Delivery(NamedTuple):
    """Where the node has sent one of its own envelopes. It does not say whether the envelope arrived.

    ``peers`` and ``unheard`` count targets: those from which the node has heard lately, and the others. ``broadcast``
    is true if it went to everybody on the link. ``failed`` counts the targets for which the envelope did not even leave
    this machine, for the reason in ``detail``.
    """

    peers: int
    unheard: int = 0
    broadcast: bool = False
    failed: int = 0
    detail: str = ""

    def and_by(self, other: Delivery) -> Delivery:
        """The same envelope, also sent by another transport."""
        return Delivery(
            self.peers + other.peers,
            self.unheard + other.unheard,
            self.broadcast or other.broadcast,
            self.failed + other.failed,
            self.detail or other.detail,
        )


class _Noted(NamedTuple):
    delivery: Delivery
    transports: int


class Deliveries:
    """The deliveries of the last envelopes, over all transports of the node."""

    def __init__(self, transports: int, without: str = "") -> None:
        """An envelope counts as sent once so many transports have noted it. ``without`` says why there are none."""
        self._transports = transports
        self._without = without
        self._noted: BoundedTable[str, _Noted] = BoundedTable(limits.DELIVERIES_KEPT_MAX)
        self._changed = trio.Event()

    def note(self, envelope_id: str, delivery: Delivery) -> None:
        """Record what one transport has done with an envelope."""
        known = self._noted.get(envelope_id)
        if known is not None:
            delivery = known.delivery.and_by(delivery)
        self._noted.put(envelope_id, _Noted(delivery, 1 if known is None else known.transports + 1))
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def known(self, envelope_id: str) -> Delivery | None:
        """Where an envelope has been sent so far; None if nowhere, or if that was long ago."""
        found = self._noted.get(envelope_id)
        return None if found is None else found.delivery

    async def of(self, envelope_id: str) -> Delivery | None:
        """Where an envelope that was stated just now was sent. What is not sent within DELIVERY_WAIT_MS is left out;
        None if nothing is.
        """
        if not self._transports:
            return Delivery(0, detail=self._without)
        with trio.move_on_after(limits.DELIVERY_WAIT_MS / 1000):
            while (found := self._noted.get(envelope_id)) is None or found.transports < self._transports:
                await self._changed.wait()
        found = self._noted.get(envelope_id)
        return None if found is None else found.delivery
