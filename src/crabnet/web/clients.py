"""Whether a request may be served: its token, its scope, and how many requests its client has sent."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request as HttpRequest

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.errors import CrabnetError, Reason
from crabnet.operations.model import Scope
from crabnet.web.logins import ANYBODY, LOCAL, Grant, Logins, demand

_STRANGER: Final = "address "


class Clients:
    """Admits requests. Each token, and each address without one, has its own budget of ``per_s`` requests per second.

    ``namespace`` asks for the namespace of the node, when a token is for certain ones.
    """

    def __init__(self, logins: Logins, per_s: int, namespace: Callable[[], Awaitable[str]]) -> None:
        self._logins = logins
        self._per_s = per_s
        self._namespace = namespace
        self._buckets: BoundedTable[str, TokenBucket] = BoundedTable(limits.WEB_CLIENTS_MAX)

    async def admit(self, request: HttpRequest, scope: Scope) -> Grant:
        """The grant of a client that may do what needs ``scope``.

        Raises RefusedLoginError, and CrabnetError (RATE_LIMITED).
        """
        now_ms = _now_ms()
        if request.state.door.local:
            grant: Grant = LOCAL
        else:
            grant = self._logins.grant(request.state.headers, _address(request), now_ms)
        self._take(_STRANGER + _address(request) if grant is ANYBODY else grant.name, now_ms)
        demand(grant, scope, await self._namespace() if grant.namespaces else None)
        return grant

    async def admit_anybody(self, request: HttpRequest) -> None:
        """Raises CrabnetError (RATE_LIMITED)."""
        self._take(_STRANGER + _address(request), _now_ms())

    def _take(self, client: str, now_ms: int) -> None:
        if not self._per_s:
            return
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = TokenBucket(self._per_s, self._per_s * limits.WEB_BURST_S)
            self._buckets.put(client, bucket)
        else:
            self._buckets.touch(client)
        if not bucket.take(now_ms):
            raise CrabnetError(
                f"more than {self._per_s} requests per second (web_requests_per_sec); try again later",
                Reason.RATE_LIMITED,
            )


def _address(request: HttpRequest) -> str:
    return "unix" if request.client is None else request.client.host


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
