"""What every request meets first: the check of Host and Origin; and what becomes of errors that nobody handled."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crabnet.errors import CrabnetError, Reason
from crabnet.web.answers import API_PREFIX, problem, refusal, security_headers
from crabnet.web.doors import Door
from crabnet.web.request_meter import RequestMeter

V1: Final = "/api/v1"
_ONCE: Final = frozenset(
    {"authorization", "x-api-token", "content-type", "origin", "idempotency-key", "last-event-id", "if-none-match"}
)
"""Headers that a request may have only once."""
_FOR_MACHINES: Final = frozenset({"/metrics", "/health", "/livez", "/readyz"})
_VERSIONS: Final = frozenset({"1.0", "1.1"})
_HOSTS_REMEMBERED: Final = 256
_LOCALHOST: Final = "localhost"


class ClientLeftError(Exception):
    """The client has closed its connection before the end of its request."""


class Guard:
    """The outermost layer. ``failed`` gets unexpected errors; the client learns nothing about them."""

    def __init__(self, app: ASGIApp, failed: Callable[[Exception], None], meter: RequestMeter) -> None:
        self._app = app
        self._failed = failed
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        status, begun = 0, time.perf_counter()
        safe = list(security_headers(scope["path"]))

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *safe]
            await send(message)

        try:
            _check(scope)
            await self._app(scope, receive, send_safely)
        except ClientLeftError:
            return
        except CrabnetError as error:
            if not status:
                await refusal(error)(scope, receive, send_safely)
        except Exception as error:
            self._failed(error)
            if status:
                raise
            detail = "an unexpected error in the web process; its output says more"
            await problem(Reason.INTERNAL, detail)(scope, receive, send_safely)
        finally:
            if status:
                self._meter.observe(scope["state"].get("operation", ""), status, time.perf_counter() - begun)


def _check(scope: Scope) -> None:
    """Refuse what nobody may send, and give a path of the baseline its version. Raises RefusedRequestError."""
    if scope["http_version"] not in _VERSIONS:
        raise AmbiguousError("this server talks HTTP/1.1")
    headers = _headers_of(scope)
    scope["state"]["headers"] = headers
    door: Door = scope["state"]["door"]
    path: str = scope["path"]
    if not door.local:
        _check_host(headers, door, scope["server"])
        _check_origin(headers, scope["scheme"])
    if door.metrics_only and path not in _FOR_MACHINES:
        raise RefusedRequestError("this address serves only metrics and health", Reason.NOT_FOUND)
    if path.startswith(API_PREFIX) and not path.startswith(V1 + "/"):
        scope["path"] = V1 + path.removeprefix("/api")


class RefusedRequestError(CrabnetError):
    """A request that is refused for what it is, whoever sends it."""

    default_reason = Reason.MALFORMED


class AmbiguousError(RefusedRequestError):
    """It is in doubt where the request ends, and so where the next one begins. The connection ends with it."""

    closes = True


def _headers_of(scope: Scope) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name: str = raw_name.decode("latin-1")
        value: str = raw_value.decode("latin-1")
        if name in headers:
            if name in _ONCE:
                raise RefusedRequestError(f"the header {name} is given more than once")
            headers[name] += ", " + value
        else:
            headers[name] = value
    if "transfer-encoding" in headers and "content-length" in headers:
        raise AmbiguousError("a request has either Transfer-Encoding or Content-Length")
    return headers


def _check_host(headers: dict[str, str], door: Door, server: tuple[str, int] | None) -> None:
    """Refuse names that this server does not have: such a request comes from a page whose name was rebound to it."""
    host = _host_of(headers.get("host", ""))
    if host is not None and (host in door.hosts or _is_own(host, server)):
        return
    raise RefusedRequestError(
        "this server does not answer for the name in the Host header; add it to web_allowed_hosts if it is right",
        Reason.HOST_REFUSED,
    )


@lru_cache(maxsize=_HOSTS_REMEMBERED)
def _host_of(text: str) -> str | None:
    """The host without its port, in lower case; None if there is none."""
    try:
        parts = urlsplit("//" + text)
        _ = parts.port  # raises ValueError
    except ValueError:
        return None
    return None if parts.netloc != text or "@" in text or not parts.hostname else parts.hostname


@lru_cache(maxsize=_HOSTS_REMEMBERED)
def _is_own(host: str, server: tuple[str, int] | None) -> bool:
    """Whether a host is the very address that the client has connected to, or localhost from this machine."""
    if server is None:
        return False
    try:
        own = ip_address(server[0].partition("%")[0])
    except ValueError:
        return False
    if own.version == 6 and own.ipv4_mapped is not None:
        own = own.ipv4_mapped
    if own.is_loopback and host == _LOCALHOST:
        return True
    try:
        return ip_address(host) == own
    except ValueError:
        return False


def _check_origin(headers: dict[str, str], scheme: str) -> None:
    """Refuse requests that pages of other servers make."""
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"{scheme}://{headers.get('host', '')}".lower():
        raise RefusedRequestError("the page of another server sent this request", Reason.ORIGIN_REFUSED)
