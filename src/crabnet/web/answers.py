"""The answers of the web process, with the headers that all of them have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.responses import Response

from crabnet.errors import CrabnetError, Reason
from crabnet.operations.problems import MEDIA_TYPE, RETRY_AFTER_S, Doubt, problem_of
from crabnet.web.reads import Answer

API_PREFIX: Final = "/api/"
_COMMON: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_CHALLENGES: Final = {
    Reason.UNAUTHENTICATED: 'Bearer realm="crabnet"',
    Reason.FORBIDDEN: 'Bearer realm="crabnet", error="insufficient_scope"',
}
_PAGE_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    b" base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types"
    b" 'none'"
)
_DATA_POLICY: Final = b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


_OF_DATA: Final = (*_COMMON, (b"content-security-policy", _DATA_POLICY))
_OF_PAGES: Final = (
    *_COMMON,
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"content-security-policy", _PAGE_POLICY),
)


def security_headers(path: str) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of every answer. Only pages may load anything, and only from this server."""
    return _OF_DATA if path.startswith(API_PREFIX) else _OF_PAGES


def problem(
    reason: Reason,
    detail: str,
    *,
    status: int | None = None,
    doubts: tuple[Doubt, ...] = (),
    headers: Mapping[str, str] | None = None,
    retry_after_s: int | None = None,
) -> Response:
    """A refusal, as problem details."""
    found = problem_of(reason, detail, doubts)
    if status is not None:
        found = msgspec.structs.replace(found, status=status)
    more = {"cache-control": "no-store", **(headers or {})}
    if reason in _CHALLENGES:
        more["www-authenticate"] = _CHALLENGES[reason]
    if found.status in RETRY_AFTER_S:
        more["retry-after"] = str(retry_after_s or RETRY_AFTER_S[found.status])
    return Response(msgspec.json.encode(found), found.status, more, MEDIA_TYPE)


def refusal(error: CrabnetError) -> Response:
    """A refusal that was raised. Some errors say when to try again, or have a status of their own."""
    wait_ms: int = getattr(error, "retry_after_ms", 0)
    status: int | None = getattr(error, "http_status", None)
    headers = {"connection": "close"} if getattr(error, "closes", False) else {}
    return problem(error.reason, error.message, status=status, headers=headers, retry_after_s=-(-wait_ms // 1000))


def json_answer(answer: Answer, if_none_match: str | None) -> Response:
    """A document, or 304 if the client has it already."""
    return tagged(answer, if_none_match, "application/json", "private, no-cache")


def tagged(answer: Answer, if_none_match: str | None, media_type: str, cache_control: str) -> Response:
    """Content with its entity tag, or 304 if the client has it already."""
    headers = {"etag": answer.etag, "cache-control": cache_control}
    if if_none_match is not None and answer.etag in (
        each.strip().removeprefix("W/") for each in if_none_match.split(",")
    ):
        return Response(status_code=304, headers=headers)
    return Response(answer.body, 200, headers, media_type)


def written(body: bytes) -> Response:
    """The answer to an operation that writes."""
    return Response(body, 200, {"cache-control": "no-store"}, "application/json")
