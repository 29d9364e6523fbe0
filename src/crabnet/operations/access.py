"""The operations on who may use the HTTP door, and on what clients of the control socket report."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from crabnet import limits
from crabnet.errors import Reason
from crabnet.operations.model import Alone, Empty, Kind, Operation, Route, Scope, Writing

Name = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{limits.TOKEN_NAME_CHARS_MAX - 1}}}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Namespaces = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=limits.NAMESPACE_CHARS_MAX)], ...],
    Meta(max_length=limits.TOKEN_NAMESPACES_MAX),
]


class TokenState(StrEnum):
    """Whether a token can be used."""

    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


class NewTokenRequest(Writing, frozen=True, kw_only=True):
    """A token to add. The caller makes the secret, so that the node never has it."""

    name: Name
    """1 to 64 letters, digits, `.`, `_`, `-`. Names that begin with `browser-` belong to logins."""
    scope: Scope = Scope.READ
    secret_sha256: Sha256
    """SHA-256 of the secret, in hex."""
    ttl_s: Annotated[int, Meta(ge=1, le=limits.TOKEN_TTL_S_MAX)] | None = None
    """How long it is valid. Null: until it is revoked."""
    namespaces: Namespaces = ()
    """Namespaces of the nodes that accept it. Empty: all."""


class TokenInfo(Struct, frozen=True, kw_only=True):
    """A token, without its secret."""

    name: str
    scope: Scope
    state: TokenState
    created_at: int
    expires_at: int | None
    """Null: never."""
    revoked_at: int | None
    namespaces: tuple[str, ...]


class TokenList(Struct, frozen=True, kw_only=True):
    """The tokens of a node, oldest first, with those that are over since less than 30 days."""

    tokens: list[TokenInfo]


class TokenAnswer(Struct, frozen=True, kw_only=True):
    """The token after the change."""

    token: TokenInfo


class RevokeRequest(Writing, frozen=True, kw_only=True):
    """A token to revoke."""

    name: Name


class LinkRequest(Writing, frozen=True, kw_only=True):
    """A login link to allow. The caller makes the code, so that no answer contains it."""

    code_sha256: Sha256
    """SHA-256 of the code, in hex."""


class Link(Struct, frozen=True, kw_only=True):
    """A login link: the address of the web page, `/#login=` and the code."""

    url: str | None
    """Address of the web page, such as `http://127.0.0.1:3000`. Null if the node serves none."""
    token_name: str
    """Name of the token that the login will make."""
    expires_at: int


class RedeemRequest(Writing, frozen=True, kw_only=True):
    """A login. The caller makes the secret of the session, so that no answer contains it."""

    code: Annotated[str, Meta(min_length=1, max_length=limits.SECRET_CHARS_MAX)]
    """The code of the link."""
    secret_sha256: Sha256
    """SHA-256 of the secret of the session, in hex."""


class Session(Struct, frozen=True, kw_only=True):
    """What the token of an HTTP request allows. The web process answers this itself, since the node has no sessions."""

    name: str
    """Of the token. In parentheses if the right comes from a setting or from a Unix socket."""
    scope: Scope
    expires_at: int | None
    """In seconds since 1970. Null: never."""
    namespaces: tuple[str, ...]
    """Namespaces of the nodes that accept the token. Empty: all."""


class ClientEvent(StrEnum):
    """What a client of the control socket may report. Each is a kind of event."""

    WEB_AUTH_FAILED = "web_auth_failed"
    WEB_CLIENT_DROPPED = "web_client_dropped"
    WEB_OVERLOADED = "web_overloaded"
    WEB_REQUEST_FAILED = "web_request_failed"
    ALERT_SENT = "alert_sent"
    ALERT_UNDELIVERED = "alert_undelivered"
    ALERT_TARGET_UNSERVED = "alert_target_unserved"


class ClientReport(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Something that happened in a client, once or several times. The event has the fields that EVENTS.md lists."""

    kind: ClientEvent
    address: Annotated[str, Meta(max_length=limits.REPORT_ADDRESS_CHARS_MAX)] | None = None
    """Where the cause came from."""
    reason: Reason | None = None
    count: Annotated[int, Meta(ge=1, le=limits.REPORT_COUNT_MAX)] = 1
    target: Annotated[str, Meta(max_length=limits.ALERT_TARGET_CHARS_MAX)] | None = None
    """Where an alert was to go."""
    event_id: Annotated[int, Meta(ge=0, le=limits.INTEGER_MAX)] | None = None
    """The event that an alert was about."""
    detail: Annotated[str, Meta(max_length=limits.EVENT_DETAIL_CHARS)] | None = None
    failures: Annotated[int, Meta(ge=0, le=limits.REPORT_COUNT_MAX)] | None = None
    """Tries that have failed."""


class ReportRequest(Writing, frozen=True, kw_only=True):
    """What happened since the last report."""

    reports: Annotated[tuple[ClientReport, ...], Meta(min_length=1, max_length=limits.REPORTS_MAX)]


class Reported(Struct, frozen=True, kw_only=True):
    """How many reports the node took. It counts all of them, and samples those that come too often."""

    taken: int


_CHANGES: Final = frozenset(
    {Reason.REQUEST_CONFLICT, Reason.DATA_DIR_DAMAGED, Reason.DATA_DIR_NEWER, Reason.UNSAFE_PERMISSIONS}
)

TOKEN_NEW: Final = Operation(
    name="token.new",
    route=Route("POST", "/tokens"),
    request=NewTokenRequest,
    response=TokenAnswer,
    scope=Scope.ADMIN,
    kind=Kind.WRITES,
    alone=Alone.OPENS,
    summary="Add a token for the HTTP door.",
    description="The same token with the same secret may be added again; that changes nothing.",
    reasons=_CHANGES | {Reason.TOKEN_EXISTS, Reason.DATA_DIR_UNWRITABLE},
)
TOKEN_LIST: Final = Operation(
    name="token.list",
    route=Route("GET", "/tokens"),
    request=Empty,
    response=TokenList,
    scope=Scope.ADMIN,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="List the tokens of the HTTP door.",
    description="Secrets and their digests are not shown.",
    reasons=_CHANGES - {Reason.REQUEST_CONFLICT},
)
TOKEN_REVOKE: Final = Operation(
    name="token.revoke",
    route=Route("POST", "/tokens/{name}/revocation"),
    request=RevokeRequest,
    response=TokenAnswer,
    scope=Scope.ADMIN,
    kind=Kind.WRITES,
    alone=Alone.OPENS,
    summary="Revoke a token of the HTTP door, or end a login.",
    description="It takes effect at once. A revoked token may be revoked again; that changes nothing.",
    reasons=_CHANGES | {Reason.UNKNOWN_TOKEN, Reason.DATA_DIR_UNWRITABLE},
)
WEB_LINK: Final = Operation(
    name="web.link",
    route=Route("POST", "/web/links"),
    request=LinkRequest,
    response=Link,
    scope=Scope.ADMIN,
    kind=Kind.WRITES,
    alone=Alone.FAILS,
    summary="Allow one login to the web page.",
    description=(
        f"The code is good for one login within {limits.WEB_LINK_MS // 1000} s. The node keeps it in memory only."
        f" At most {limits.WEB_LINKS_MAX} codes are good at a time; the oldest is forgotten first."
    ),
    reasons=frozenset({Reason.REQUEST_CONFLICT}),
)
WEB_REDEEM: Final = Operation(
    name="web.redeem",
    route=Route("POST", "/web/logins"),
    request=RedeemRequest,
    response=TokenAnswer,
    scope=Scope.ADMIN,
    kind=Kind.WRITES,
    alone=Alone.FAILS,
    proves_itself=True,
    summary="Log in with the code of a link: add the token of the session.",
    description=(
        "The token has scope `admin`, and expires after `web_session_s`. The web page does this for a browser that"
        " opens the link."
    ),
    reasons=_CHANGES | {Reason.UNAUTHENTICATED, Reason.TOKEN_EXISTS, Reason.DATA_DIR_UNWRITABLE},
)
REPORT: Final = Operation(
    name="client.report",
    route=Route("POST", "/reports"),
    request=ReportRequest,
    response=Reported,
    scope=Scope.ADMIN,
    kind=Kind.WRITES,
    alone=Alone.FAILS,
    summary="Report what happened in a client of the control socket, such as the web process.",
    description="Each report becomes an event. Events that come too often are sampled, as those about the network.",
    reasons=frozenset({Reason.REQUEST_CONFLICT}),
)
