"""Decides what a caller of the HTTP door may do: the file of tokens, the token of the settings, and failed attempts."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final, NamedTuple

from crabnet.access.attempts import Attempts
from crabnet.access.secret import digest_of
from crabnet.access.tokens import Grant, Tokens, authenticate
from crabnet.errors import CrabnetError, Reason
from crabnet.operations.model import Scope

LOCAL: Final = Grant(name="(unix socket)", scope=Scope.ADMIN)
"""For callers on a Unix socket of mode 0600: they are the node's own user."""
ANYBODY: Final = Grant(name="(anybody)", scope=Scope.READ)
"""For callers without a token if ``web_api_auth_required`` is false."""
STATIC: Final = Grant(name="(web_api_token)", scope=Scope.READ)
_BEARER: Final = "bearer"


class Rules(NamedTuple):
    """What the settings say."""

    static_token: str | None = None
    """``web_api_token``: a secret that grants the scope ``read``."""
    auth_required: bool = True
    """``web_api_auth_required``: without it, everybody has the scope ``read``."""


class Verdict(NamedTuple):
    """What a caller may do."""

    grant: Grant | None
    """None: nothing. The HTTP answer is 401, or 429 if ``retry_after_ms`` is not 0."""
    failure: Reason | None = None
    """Why a presented secret was not accepted. For events; a caller must not learn it."""
    retry_after_ms: int = 0


class Gate:
    """Judges each request. ``read`` gives the tokens as they are now, and raises CrabnetError if it cannot.

    A token of the file is accepted from a blocked address, too, because nobody can guess its 256 bits. So whoever
    shares an address with an attacker is not locked out. The token of the settings may be weak, so it is not.
    """

    def __init__(self, read: Callable[[], Tokens], rules: Rules) -> None:
        self._read = read
        self._rules = rules
        self._static = None if rules.static_token is None else digest_of(rules.static_token)
        self._attempts = Attempts()

    def check(
        self, presented: str | None, address: str, namespace: str | None, now_s: int, monotonic_ms: int
    ) -> Verdict:
        """What the caller at ``address`` (an IP address) may do with this secret.

        ``namespace`` is that of the node, None while it is not known. ``now_s`` is in seconds since 1970.
        ``monotonic_ms`` is of a clock that never goes back.
        """
        without = None if self._rules.auth_required else ANYBODY
        if presented is None:
            return Verdict(without)
        try:
            tokens = self._read()
        except CrabnetError as error:
            return Verdict(without, error.reason)
        found = authenticate(tokens, presented, now_s, namespace)
        if isinstance(found, Grant):
            return Verdict(found)
        blocked_ms = self._attempts.blocked_ms(address, monotonic_ms)
        if blocked_ms:
            return Verdict(without, Reason.RATE_LIMITED, blocked_ms)
        if self._static is not None and hmac.compare_digest(self._static, digest_of(presented)):
            return Verdict(STATIC)
        self.failed(address, monotonic_ms)
        return Verdict(without, found)

    def blocked_ms(self, address: str, monotonic_ms: int) -> int:
        """How long the address is still blocked: for a login by a link, whose code the node checks."""
        return self._attempts.blocked_ms(address, monotonic_ms)

    def failed(self, address: str, monotonic_ms: int) -> int:
        """Note a failed attempt, such as a login with a wrong code. Returns for how long the address is blocked now."""
        return self._attempts.failed(address, monotonic_ms)

    def holds(self, grant: Grant, now_s: int) -> bool:
        """Whether a grant is still valid: for long answers, such as streams of events."""
        if not grant.sha256:
            return True
        try:
            tokens = self._read()
        except CrabnetError:
            return False
        return any(
            token.sha256 == grant.sha256 and token.over_at(now_s) is None for token in tokens
        )  # The digest is of an accepted secret, so its comparison need not take constant time.


def presented_secret(authorization: str | None, x_api_token: str | None) -> str | None:
    """The secret in the headers ``Authorization: Bearer`` or ``X-Api-Token``; None if there is none."""
    if authorization is not None:
        scheme, _, secret = authorization.strip().partition(" ")
        if scheme.lower() == _BEARER:
            return secret.strip()
    return None if x_api_token is None else x_api_token.strip()
