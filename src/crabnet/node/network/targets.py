"""Configured peers: who they are called in the settings, and where they are now.

A peer is known by the address that its datagrams come from. So a configured host name, or an unusual way to write an
address, is turned into that address here, once for all, and looked up again from time to time: a name that moves is
followed (ADR 30).
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
    """Whom this node sends to by configuration. ``changed`` is called with the addresses whenever they are others."""

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
        changed(frozenset(map(str, self._at.values())))

    def addresses(self) -> list[Address]:
        """Where they are now; a name that leads nowhere stands for itself."""
        return list(dict.fromkeys(self._at.values()))

    def names(self) -> dict[str, list[str]]:
        """What an address is called in the settings, where that is not the address itself."""
        found: dict[str, list[str]] = {}
        for text, address in self._at.items():
            if text != str(address):
                found.setdefault(str(address), []).append(text)
        return found

    async def run(self) -> None:
        """Follow names until cancelled."""
        while True:
            await trio.sleep(limits.TARGETS_LOOK_UP_MS / 1000)
            await self.look_up()

    async def look_up(self) -> None:
        """Find out where all of them are. What cannot be found stays where it was."""
        before = frozenset(self._at.values())
        async with trio.open_nursery() as nursery:
            for text in self._at:
                nursery.start_soon(self._look_up, text)
        if frozenset(self._at.values()) != before:
            self._changed(frozenset(map(str, self._at.values())))

    async def _look_up(self, text: str) -> None:
        named, known = parse_address(text), self._at[text]
        try:
            endpoints = await self._resolver.endpoints(named)
        except NetworkError:
            return  # whoever sends there says so
        fitting = [endpoint for endpoint in endpoints if self._family in {None, endpoint.family}]
        found = [endpoint.address for endpoint in fitting or endpoints]
        if known in found:
            return
        self._at[text] = found[0]
        if known != named:
            fields: dict[str, FieldValue] = {"name": text, "address_before": str(known), "address": str(found[0])}
            self._notify("peer_moved", fields)
