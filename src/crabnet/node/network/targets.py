"""Configured peers: their names in the settings, and their current addresses.

A node knows a peer by the source address of its datagrams. So this module converts configured host names, and unusual
spellings of addresses, to that address for all other modules. It looks names up again from time to time, so that the
node follows a name whose address changes (ADR 30).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from crabnet import limits
from crabnet.core.effects import FieldValue
from crabnet.errors import NetworkError
from crabnet.transport.base import Address, parse_address
from crabnet.transport.resolver import Resolver

Notify = Callable[[str, dict[str, FieldValue]], None]


class Targets:
    """The configured targets of this node. ``changed`` is called with all their addresses whenever these change."""

    def __init__(
        self,
        configured: Sequence[str],
        resolver: Resolver,
        family: int | None,
        changed: Callable[[frozenset[str]], None],
        notify: Notify,
    ) -> None:
        self._resolver = resolver
        self._family = family
        self._changed = changed
        self._notify = notify
        self._at = {text: parse_address(text) for text in configured}
        changed(frozenset(each.source for each in self._at.values()))

    def addresses(self) -> list[Address]:
        """The current addresses. A name that cannot be resolved is returned as it is."""
        return list(dict.fromkeys(self._at.values()))

    def names(self) -> dict[str, list[str]]:
        """Address -> its names in the settings, where these differ from the address."""
        found: dict[str, list[str]] = {}
        for text, address in self._at.items():
            if text != str(address):
                found.setdefault(address.source, []).append(text)
        return found

    async def run(self) -> None:
        """Look up all names every TARGETS_LOOK_UP_MS until cancelled."""
        while True:
            await trio.sleep(limits.TARGETS_LOOK_UP_MS / 1000)
            await self.look_up()

    async def look_up(self) -> None:
        """Look up all names. A name that cannot be found keeps its last address."""
        before = frozenset(self._at.values())
        async with trio.open_nursery() as nursery:
            for text in self._at:
                nursery.start_soon(self._look_up, text)
        if frozenset(self._at.values()) != before:
            self._changed(frozenset(each.source for each in self._at.values()))

    async def _look_up(self, text: str) -> None:
        named, known = parse_address(text), self._at[text]
        try:
            endpoints = await self._resolver.endpoints(named)
        except NetworkError:
            return  # a send to this target reports the error
        fitting = [endpoint for endpoint in endpoints if self._family in {None, endpoint.family}]
        found = [endpoint.address for endpoint in fitting or endpoints]
        if known in found:
            return
        self._at[text] = found[0]
        if known != named:
            fields: dict[str, FieldValue] = {"name": text, "address_before": known.source, "address": found[0].source}
            self._notify("peer_moved", fields)
