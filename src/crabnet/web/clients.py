"""Whether a request may be served: its token, its scope, and how many requests its client has sent."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request as HttpRequest

from crabnet import limits
from crabnet.access.gate import ANYBODY, LOCAL, Gate, presented_secret
from crabnet.access.tokens import Grant
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.errors import CrabnetError, ExitCode, Reason
from crabnet.operations.access import ClientEvent
from crabnet.operations.model import Scope
from crabnet.web.reports import Reports

_STRANGER: Final = "address "


class NotAdmittedError(CrabnetError):
    """The client may not do this, or not now. ``retry_after_ms`` says when it may try again."""

    exit_code = ExitCode.REFUSED
    default_reason = Reason.UNAUTHENTICATED

    def __init__(self, message: str, reason: Reason | None = None, retry_after_ms: int = 0) -> None:
        super().__init__(message, reason)
        self.retry_after_ms = retry_after_ms


class Budgets:
    """A budget of ``per_s`` requests per second for each client; 0 means no limit."""

    def __init__(self, per_s: int, capacity: int = limits.WEB_CLIENTS_MAX) -> None:
        self.per_s = per_s
        self._buckets: BoundedTable[str, TokenBucket] = BoundedTable(capacity)

    def wait_ms(self, client: str, now_ms: int) -> int:
        """0 if a client may send a request now, which then counts. Otherwise how long it must wait."""
        if not self.per_s:
            return 0
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = TokenBucket(self.per_s, self.per_s * limits.WEB_BURST_S)
            self._buckets.put(client, bucket)
        else:
            self._buckets.touch(client)
        return 0 if bucket.take(now_ms) else bucket.wait_ms(now_ms)


class Clients:
    """Admits requests. Each token, and each address without one, has its own budget of ``per_s`` requests per second.

    ``namespace`` asks for the namespace of the node. It gives None while the node cannot say it.
    """

    def __init__(
        self, gate: Gate, per_s: int, namespace: Callable[[], Awaitable[str | None]], reports: Reports
    ) -> None:
        self._gate = gate
        self._budgets = Budgets(per_s)
        self._namespace = namespace
        self._reports = reports

    async def admit(self, request: HttpRequest, scope: Scope) -> Grant:
        """The grant of a client that may do what needs ``scope``. Raises NotAdmittedError."""
        now_ms = _now_ms()
        grant = LOCAL if request.state.door.local else await self._checked(request, now_ms)
        self._take(_STRANGER + _address(request) if grant is ANYBODY else grant.name, now_ms)
        if not grant.scope.includes(scope):
            raise NotAdmittedError(
                f"the token {grant.name!r} has the scope {grant.scope.value}; this needs {scope.value}",
                Reason.FORBIDDEN,
            )
        return grant

    async def admit_anybody(self, request: HttpRequest) -> None:
        """Raises NotAdmittedError (RATE_LIMITED)."""
        self._take(_STRANGER + _address(request), _now_ms())

    def demand_unblocked(self, request: HttpRequest) -> None:
        """Refuse an address that fails to log in again and again. Raises NotAdmittedError (RATE_LIMITED)."""
        blocked_ms = self._gate.blocked_ms(_address(request), _now_ms())
        if blocked_ms:
            raise _blocked(blocked_ms)

    def login_failed(self, request: HttpRequest) -> None:
        """A login whose request held the wrong proof."""
        self._gate.failed(_address(request), _now_ms())
        self._reports.add(ClientEvent.WEB_AUTH_FAILED, _address(request), Reason.UNAUTHENTICATED)

    def holds(self, grant: Grant) -> bool:
        """Whether a grant is still valid: for answers that last."""
        return self._gate.holds(grant, int(time.time()))

    async def _checked(self, request: HttpRequest, now_ms: int) -> Grant:
        headers: dict[str, str] = request.state.headers
        secret = presented_secret(headers.get("authorization"), headers.get("x-api-token"))
        namespace = None if secret is None else await self._namespace()
        verdict = self._gate.check(secret, _address(request), namespace, int(time.time()), now_ms)
        if verdict.failure is not None:
            self._reports.add(ClientEvent.WEB_AUTH_FAILED, _address(request), verdict.failure)
        if verdict.grant is not None:
            return verdict.grant
        if verdict.retry_after_ms:
            raise _blocked(verdict.retry_after_ms)
        if secret is None:
            raise NotAdmittedError(
                "a token is needed: send it as `Authorization: Bearer TOKEN` or `X-Api-Token: TOKEN`;"
                " `crabnet token new` makes one"
            )
        raise NotAdmittedError("the token is not valid; `crabnet token list` shows the tokens that are")

    def _take(self, client: str, now_ms: int) -> None:
        wait_ms = self._budgets.wait_ms(client, now_ms)
        if wait_ms:
            raise NotAdmittedError(
                f"more than {self._budgets.per_s} requests per second (web_requests_per_sec); try again later",
                Reason.RATE_LIMITED,
                wait_ms,
            )


def _blocked(retry_after_ms: int) -> NotAdmittedError:
    return NotAdmittedError(
        "too many failed attempts from this address; try again later", Reason.RATE_LIMITED, retry_after_ms
    )


def _address(request: HttpRequest) -> str:
    return "unix" if request.client is None else request.client.host


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
