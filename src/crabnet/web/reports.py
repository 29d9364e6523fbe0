"""Tells the node what happens to its web clients, so that it becomes events. Collected, counted and bounded."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import islice
from typing import Final

import msgspec

from crabnet import limits
from crabnet.errors import CrabnetError, Reason
from crabnet.operations import access
from crabnet.operations.access import ClientEvent, ClientReport
from crabnet.web.node_client import NodeClient

_Key = tuple[ClientEvent, str | None, Reason | None]
_OTHERS: Final = "others"
"""Stands for further addresses when there are too many."""


class Reports:
    """What has happened since the last report, counted by kind, address and Reason."""

    def __init__(self, node: NodeClient) -> None:
        self._node = node
        self._counts: dict[_Key, int] = {}

    def add(self, kind: ClientEvent, address: str | None = None, reason: Reason | None = None) -> None:
        """Something has happened."""
        key = (kind, None if address is None else address[: limits.REPORT_ADDRESS_CHARS_MAX], reason)
        if key not in self._counts and len(self._counts) >= limits.WEB_REPORTS_MAX:
            key = (kind, _OTHERS, reason)
        self._counts[key] = self._counts.get(key, 0) + 1

    async def run(self) -> None:
        """Report now and then, until cancelled. What a node that is away does not take is told later."""
        while True:
            await asyncio.sleep(limits.WEB_REPORT_MS / 1000)
            if self._counts:
                with suppress(CrabnetError):
                    await self._tell()

    async def _tell(self) -> None:
        some = dict(islice(self._counts.items(), limits.REPORTS_MAX))
        reports = tuple(
            ClientReport(kind=kind, address=address, reason=reason, count=min(count, limits.REPORT_COUNT_MAX))
            for (kind, address, reason), count in some.items()
        )
        await self._node.write(access.REPORT.name, msgspec.json.encode(access.ReportRequest(reports=reports)))
        for key, count in some.items():
            left = self._counts[key] - count
            if left:
                self._counts[key] = left
            else:
                del self._counts[key]
