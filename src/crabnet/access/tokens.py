"""Tokens, what a presented secret may do, and changes to the list of tokens. Pure: the time comes as an argument."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from crabnet import limits
from crabnet.access.secret import digest_of, is_mistyped
from crabnet.errors import Reason, RefusedError
from crabnet.operations.access import Name, Namespaces, Sha256, TokenState
from crabnet.operations.model import Scope

SESSION_PREFIX: Final = "browser-"
"""Names of tokens that a login link made begin with this."""


class Token(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A right to use the HTTP door. Times are in seconds since 1970."""

    name: Name
    scope: Scope
    sha256: Sha256
    """Of the secret, which is not stored."""
    created_at: Annotated[int, Meta(ge=0)]
    expires_at: int | None = None
    revoked_at: int | None = None
    namespaces: Namespaces = ()
    """Namespaces of the nodes that accept it. Empty: all."""

    def state(self, now_s: int) -> TokenState:
        """Whether it can be used."""
        if self.revoked_at is not None:
            return TokenState.REVOKED
        over = self.expires_at is not None and self.expires_at <= now_s
        return TokenState.EXPIRED if over else TokenState.VALID

    def over_at(self, now_s: int) -> int | None:
        """Since when it cannot be used; None if it can."""
        if self.revoked_at is not None:
            return self.revoked_at
        return self.expires_at if self.state(now_s) is TokenState.EXPIRED else None


Tokens = tuple[Token, ...]


class Grant(Struct, frozen=True, kw_only=True):
    """What a caller of the HTTP door may do."""

    name: str
    """The name of its token."""
    scope: Scope
    expires_at: int | None = None
    namespaces: tuple[str, ...] = ()
    sha256: str = ""
    """Of the secret of its token. Empty if the right does not come from the file of tokens."""


_CAUSES: Final = {TokenState.REVOKED: Reason.REVOKED, TokenState.EXPIRED: Reason.EXPIRED}


def authenticate(tokens: Sequence[Token], presented: str, now_s: int, namespace: str | None) -> Grant | Reason:
    """The right of the presented secret, or why it has none. A client must not learn the reason.

    The digest of the secret is compared with those of all tokens, each in constant time. ``namespace`` is that of the
    node; while it is not known, a token for some namespaces is refused.
    """
    if not 1 <= len(presented) <= limits.SECRET_CHARS_MAX:
        return Reason.MALFORMED
    digest = digest_of(presented)
    found = None
    for token in tokens:
        if hmac.compare_digest(token.sha256, digest):
            found = token
    if found is None:
        return Reason.MALFORMED if is_mistyped(presented) else Reason.UNKNOWN_TOKEN
    state = found.state(now_s)
    if state is not TokenState.VALID:
        return _CAUSES[state]
    if found.namespaces and namespace not in found.namespaces:
        return Reason.WRONG_NAMESPACE
    return Grant(
        name=found.name,
        scope=found.scope,
        expires_at=found.expires_at,
        namespaces=found.namespaces,
        sha256=found.sha256,
    )


def with_token(tokens: Tokens, new: Token, now_s: int) -> Tokens:
    """The tokens with a new one. To add the same token again changes nothing.

    A revoked or expired token of the same name is replaced. Raises RefusedError if the name or the secret is in use,
    if the secret was in use before, or if there are too many tokens.
    """
    for token in tokens:
        if token.sha256 == new.sha256:
            if _same_right(token, new) and token.state(now_s) is TokenState.VALID:
                return tokens
            raise RefusedError(
                f"the secret belongs to the token {token.name!r} ({token.state(now_s).value}); use a new secret",
                Reason.TOKEN_EXISTS,
            )
        if token.name == new.name and token.state(now_s) is TokenState.VALID:
            raise RefusedError(
                f"there is a token {new.name!r}; choose another name, or revoke it first", Reason.TOKEN_EXISTS
            )
    kept = pruned(tuple(token for token in tokens if token.name != new.name), now_s)
    if sum(token.state(now_s) is TokenState.VALID for token in kept) >= limits.TOKENS_MAX:
        raise RefusedError(
            f"there are {limits.TOKENS_MAX} valid tokens, which is the limit; revoke some", Reason.LIMIT_EXCEEDED
        )
    return (*kept, new)


def _same_right(token: Token, new: Token) -> bool:
    return (token.name, token.scope, token.namespaces) == (new.name, new.scope, new.namespaces)


def with_session(tokens: Tokens, new: Token, now_s: int) -> Tokens:
    """The tokens with that of a login. Beyond WEB_SESSIONS_MAX logins the oldest ends. Raises as ``with_token``."""
    sessions = [each for each in tokens if each.name.startswith(SESSION_PREFIX) and each.sha256 != new.sha256]
    valid = [each.name for each in sessions if each.state(now_s) is TokenState.VALID]
    for name in valid[: max(0, len(valid) + 1 - limits.WEB_SESSIONS_MAX)]:
        tokens = without_token(tokens, name, now_s)
    return with_token(tokens, new, now_s)


def without_token(tokens: Tokens, name: str, now_s: int) -> Tokens:
    """The tokens after one was revoked. To revoke it again changes nothing. Raises RefusedError for an unknown name."""
    token = named(tokens, name)
    if token.revoked_at is not None:
        return tokens
    revoked = msgspec.structs.replace(token, revoked_at=now_s)
    return pruned(tuple(revoked if each.name == name else each for each in tokens), now_s)


def named(tokens: Tokens, name: str) -> Token:
    """The token with this name. Raises RefusedError."""
    for token in tokens:
        if token.name == name:
            return token
    raise RefusedError(f"there is no token {name!r}; `crabnet token list` shows them", Reason.UNKNOWN_TOKEN)


def pruned(tokens: Tokens, now_s: int) -> Tokens:
    """The tokens without those that have been over for long, and without the oldest ones if too many are over."""
    over = sorted(((at, token.name) for token in tokens if (at := token.over_at(now_s)) is not None), reverse=True)
    kept = {name for at, name in over[: limits.TOKENS_OVER_MAX] if at > now_s - limits.TOKENS_OVER_S}
    return tuple(token for token in tokens if token.over_at(now_s) is None or token.name in kept)
