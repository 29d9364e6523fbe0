"""Watches the free disk space, and counts datagrams that were lost before they were read or sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from crabnet import limits
from crabnet.core.effects import FieldValue
from crabnet.errors import Reason
from crabnet.node.network.outbox import Outbox
from crabnet.node.part import Job, Part
from crabnet.storage.ledger import Ledger
from crabnet.transport.udp import UdpTransport


class Watch(Part):
    """Reports by events when disk space gets low, and how many datagrams were lost since the last report."""

    def __init__(
        self,
        ledger: Ledger,
        transport: UdpTransport,
        outbox: Outbox,
        notify: Callable[[str, dict[str, FieldValue]], None],
    ) -> None:
        self._ledger = ledger
        self._transport = transport
        self._outbox = outbox
        self._notify = notify
        self._told = {"in": 0, "out": 0}

    def jobs(self) -> Sequence[Job]:
        """The job that checks now and then."""
        return [Job(self.run, "watch")]

    async def run(self) -> None:
        """Check every DISK_CHECK_S seconds. Raises StorageFailedError if the free space cannot be read."""
        warned = False
        while True:
            space = await trio.to_thread.run_sync(self._ledger.disk_space)
            if space.is_low and not warned:
                fields: dict[str, FieldValue] = {
                    "free_bytes": space.free_bytes,
                    "reserve_bytes": limits.RESERVE_BYTES,
                }
                self._notify("disk_low", fields)
            warned = space.is_low
            self._tell_losses()
            await trio.sleep(limits.DISK_CHECK_S)

    def _tell_losses(self) -> None:
        lost = {
            ("in", Reason.RECEIVE_BUFFER_FULL.value): self._transport.dropped_by_kernel(),
            ("out", Reason.LIMIT_EXCEEDED.value): self._outbox.dropped,
        }
        for (direction, reason), count in lost.items():
            if count > self._told[direction]:
                fields: dict[str, FieldValue] = {
                    "transport": "udp",
                    "direction": direction,
                    "reason": reason,
                    "count": count - self._told[direction],
                }
                self._told[direction] = count
                self._notify("datagram_dropped", fields)
