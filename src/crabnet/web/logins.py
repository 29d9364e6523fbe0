"""Who asks: checks the token of a request, and limits failed attempts."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from msgspec import Struct

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.buckets import TokenBucket
from crabnet.errors import CrabnetError, ExitCode, Reason
from crabnet.operations.model import Scope

_BEARER: Final = "bearer"


class Grant(Protocol):
    """What the holder of a token may do."""

    @property
    def name(self) -> str:
        """The name of the token, for limits and events."""

    @property
    def scope(self) -> Scope:
        """The highest scope."""

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces in which the token is valid; empty for all."""


class PlainGrant(Struct, frozen=True):
    """A grant that no token file holds."""

    name: str
    scope: Scope
    namespaces: tuple[str, ...] = ()


class RefusedLoginError(CrabnetError):
    """The request has no valid token, or one without the needed right."""

    exit_code = ExitCode.REFUSED
    default_reason = Reason.UNAUTHENTICATED


Check = Callable[[str], Grant | None]
"""What a presented secret grants; None if it is not valid."""
ANYBODY: Final = PlainGrant("anybody", Scope.READ)
"""Without ``web_api_auth_required``, whoever shows no token."""
LOCAL: Final = PlainGrant("socket", Scope.ADMIN)
"""Whoever may open the Unix socket."""


def presented(headers: Mapping[str, str]) -> str | None:
    """The secret in ``Authorization: Bearer`` or ``X-Api-Token``."""
    scheme, _, secret = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == _BEARER:
        return secret.strip()
    return headers.get("x-api-token")


def check_of(token: str | None, stored: Check) -> Check:
    """Checks the token of the settings, which may read, and the stored ones."""
    expected = None if token is None else _digest(token)
    granted = PlainGrant("web_api_token", Scope.READ)

    def check(secret: str) -> Grant | None:
        if expected is not None and hmac.compare_digest(_digest(secret), expected):
            return granted
        return stored(secret)

    return check


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


class Logins:
    """Grants by the tokens of requests.

    Each address may fail only so often. Beyond that nothing is checked any more for it, apart from tokens that were
    valid before, so that nobody can lock out others behind the same address. ``report`` gets the address and the reason
    of each failure that is counted.
    """

    def __init__(self, check: Check, *, required: bool, report: Callable[[str, Reason], None]) -> None:
        self._check = check
        self._required = required
        self._report = report
        self._failed: BoundedTable[str, TokenBucket] = BoundedTable(limits.WEB_CLIENTS_MAX)
        self._known: BoundedTable[bytes, None] = BoundedTable(limits.WEB_KNOWN_LOGINS_MAX)

    def grant(self, headers: Mapping[str, str], address: str, now_ms: int) -> Grant:
        """What a request may do. Raises RefusedLoginError."""
        secret = presented(headers)
        if secret is None:
            if not self._required:
                return ANYBODY
            raise RefusedLoginError(
                "a token is needed: send it as `Authorization: Bearer TOKEN` or `X-Api-Token: TOKEN`"
            )
        digest = _digest(secret)
        bucket = self._failed.get(address)
        if digest not in self._known and bucket is not None and bucket.wait_ms(now_ms):
            raise RefusedLoginError("too many failed logins from this address; try again later", Reason.RATE_LIMITED)
        grant = self._check(secret) if len(secret) <= limits.WEB_TOKEN_CHARS_MAX else None
        if grant is not None:
            self._known.put(digest, None)
            return grant
        self._known.pop(digest)
        if bucket is None:
            bucket = TokenBucket(1, limits.WEB_FAILED_LOGINS_MAX)
            self._failed.put(address, bucket)
        bucket.take(now_ms)
        self._report(address, Reason.UNAUTHENTICATED)
        raise RefusedLoginError(
            "the token is not valid: it is wrong, revoked or expired; `crabnet token new` makes one"
        )


def demand(grant: Grant, scope: Scope, namespace: str | None) -> None:
    """Raises RefusedLoginError (FORBIDDEN) if a grant does not include a scope or the namespace of the node.

    The namespace may be None if the grant is for all.
    """
    if not grant.scope.includes(scope):
        raise RefusedLoginError(
            f"the token {grant.name!r} has the scope {grant.scope.value}; this needs {scope.value}", Reason.FORBIDDEN
        )
    if grant.namespaces and namespace not in grant.namespaces:
        raise RefusedLoginError(f"the token {grant.name!r} is not for this node's namespace", Reason.FORBIDDEN)
