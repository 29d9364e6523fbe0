"""The application of the web process: the routes of the table of operations, health, and what refuses the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial
from typing import Any, Final

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from crabnet import limits
from crabnet.errors import CrabnetError, Reason, UsageError
from crabnet.operations.access import ClientEvent, Session
from crabnet.operations.metrics import METRICS, Metrics
from crabnet.operations.model import Operation, Scope
from crabnet.operations.openapi import openapi_json
from crabnet.operations.table import OPERATIONS
from crabnet.web.answers import API_PREFIX, json_answer, problem, written
from crabnet.web.bodies import Bodies
from crabnet.web.clients import Clients
from crabnet.web.exposition import render
from crabnet.web.following import Follower, resumed, retry_line
from crabnet.web.guarding import V1, ClientLeftError, Guard
from crabnet.web.health import Health
from crabnet.web.node_client import NodeClient
from crabnet.web.notes import note
from crabnet.web.page import File, page_files
from crabnet.web.reads import Answer, Reads, answer_of
from crabnet.web.reports import Reports
from crabnet.web.request_meter import RequestMeter
from crabnet.web.requests import of_body, of_query

Endpoint = Callable[[HttpRequest], Awaitable[Response]]


class Web:
    """What all requests share."""

    def __init__(self, node: NodeClient, clients: Clients, reports: Reports, *, metrics_apart: bool = False) -> None:
        """``metrics_apart``: metrics have an address of their own."""
        self.node = node
        self.clients = clients
        self.reports = reports
        self.meter = RequestMeter()
        self.metrics_apart = metrics_apart
        self.reads = Reads()
        self.bodies = Bodies()
        self.health = Health(node)
        self.streams = 0


def application(web: Web) -> ASGIApp:
    """The whole application: API, health, metrics, and the page."""
    routes = [*_api_routes(web), *_routes_for_machines(web), *_page_routes(web)]
    return Guard(
        Router(routes, redirect_slashes=False, default=partial(_nothing_here, web)),
        partial(_report_failure, web.reports),
        web.meter,
    )


def _report_failure(reports: Reports, error: Exception) -> None:
    """Say where an unexpected error has happened. Its text is left out, because it may hold what a client sent."""
    trace, places = error.__traceback__, []
    while trace is not None:
        places.append(f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}")
        trace = trace.tb_next
    reports.add(ClientEvent.WEB_REQUEST_FAILED, reason=Reason.INTERNAL)
    note(f"web: unexpected {type(error).__name__} at {' '.join(places[-4:])}")


# --- routes --------------------------------------------------------------------------------------------------


def _api_routes(web: Web) -> list[Route]:
    by_path: dict[str, dict[str, Endpoint]] = {}
    for operation in OPERATIONS:
        methods = by_path.setdefault(V1 + operation.route.path, {})
        methods[operation.route.method] = partial(
            _counted, operation.name, partial(_endpoint(operation), web, operation)
        )
    by_path[V1 + "/openapi.json"] = {"GET": partial(_openapi, web)}
    by_path[V1 + "/session"] = {"GET": partial(_session, web)}
    # A path without parameters comes before one that would match it.
    return [_route(web, path, methods) for path, methods in sorted(by_path.items(), key=lambda item: "{" in item[0])]


async def _counted(name: str, endpoint: Endpoint, request: HttpRequest) -> Response:
    request.state.operation = name
    return await endpoint(request)


def _route(web: Web, path: str, methods: Mapping[str, Endpoint]) -> Route:
    return Route(path, _Path(web, methods))


class _Path:
    """One path with all its methods. HEAD is GET without a body, which the protocol leaves out."""

    def __init__(self, web: Web, methods: Mapping[str, Endpoint]) -> None:
        self._web = web
        self._methods = {**methods, **({"HEAD": methods["GET"]} if "GET" in methods else {})}

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises CrabnetError."""
        request = HttpRequest(scope, receive, send)
        endpoint = self._methods.get(request.method)
        response = await (self._other(request) if endpoint is None else endpoint(request))
        await response(scope, receive, send)

    async def _other(self, request: HttpRequest) -> Response:
        await _admit_stray(self._web, request)
        allow = {"allow": ", ".join(sorted({*self._methods, "OPTIONS"}))}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={**allow, "cache-control": "no-store"})
        return problem(Reason.METHOD_NOT_ALLOWED, f"this path takes {allow['allow']}", headers=allow)


_LOGINS: Final = frozenset(V1 + operation.route.path for operation in OPERATIONS if operation.proves_itself)


async def _admit_stray(web: Web, request: HttpRequest) -> None:
    """Strangers learn nothing about the API, not even which paths it has, but for those at which they log in."""
    path = request.url.path
    if path.startswith(API_PREFIX) and path not in _LOGINS:
        await web.clients.admit(request, Scope.METRICS)  # any token will do
    else:
        await web.clients.admit_anybody(request)


async def _nothing_here(web: Web, scope: AsgiScope, receive: Receive, send: Send) -> None:
    request = HttpRequest(scope, receive, send)
    await _admit_stray(web, request)
    answer = problem(Reason.NOT_FOUND, "there is nothing at this path; docs/API.md lists the paths")
    await answer(scope, receive, send)


def _endpoint(operation: Operation[Any, Any]) -> Callable[[Web, Operation[Any, Any], HttpRequest], Awaitable[Response]]:
    if operation.streams:
        return _stream
    if operation.proves_itself:
        return _login
    return _write if operation.route.method == "POST" else _read


async def _read(web: Web, operation: Operation[Any, Any], request: HttpRequest) -> Response:
    await web.clients.admit(request, operation.scope)
    given = of_query(operation, request.path_params, request.scope["query_string"])
    params = msgspec.json.encode(given)
    key = operation.name.encode() + params
    answer = await web.reads.get(key, lambda: web.node.read(operation.name, params), operation.fresh_ms)
    return json_answer(answer, request.state.headers.get("if-none-match"))


async def _login(web: Web, operation: Operation[Any, Any], request: HttpRequest) -> Response:
    """An operation whose request holds the proof of the right, and no token."""
    await web.clients.admit_anybody(request)
    web.clients.demand_unblocked(request)
    try:
        return await _perform(web, operation, request)
    except CrabnetError as error:
        if error.reason is Reason.UNAUTHENTICATED:
            web.clients.login_failed(request)
        raise


async def _write(web: Web, operation: Operation[Any, Any], request: HttpRequest) -> Response:
    await web.clients.admit(request, operation.scope)
    return await _perform(web, operation, request)


async def _perform(web: Web, operation: Operation[Any, Any], request: HttpRequest) -> Response:
    headers: dict[str, str] = request.state.headers
    body = await web.bodies.receive(headers, request.receive)
    given = of_body(operation, request.path_params, request.scope["query_string"], headers, body)
    params = msgspec.json.encode(given)
    try:
        if operation.waits:
            return written(await _unless_left(request.receive, web.node.wait(operation.name, params)))
        return written(await web.node.write(operation.name, params))
    finally:
        web.reads.written()


async def _unless_left(receive: Receive, work: Awaitable[bytes]) -> bytes:
    """Wait for an answer as long as the client does. The node finishes what it has begun in any case."""
    answer = asyncio.ensure_future(work)
    left = asyncio.ensure_future(until_left(receive))
    try:
        await asyncio.wait([answer, left], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientLeftError
        return answer.result()
    finally:
        answer.cancel()
        left.cancel()


async def until_left(receive: Receive) -> None:
    """Wait until a client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stream(web: Web, operation: Operation[Any, Any], request: HttpRequest) -> Response:
    grant = await web.clients.admit(request, operation.scope)
    given = of_query(operation, request.path_params, request.scope["query_string"])
    try:
        given = resumed(operation, given, request.state.headers.get("last-event-id"))
    except msgspec.ValidationError as error:
        raise UsageError(f"Last-Event-ID: {error}") from None
    if web.streams >= limits.WEB_STREAMS_MAX:
        raise CrabnetError(f"{limits.WEB_STREAMS_MAX} clients already follow streams; try again", Reason.RATE_LIMITED)
    return _EventStream(web, Follower(web.node, operation, given, partial(web.clients.holds, grant)))


class _EventStream(Response):
    """An answer that lasts as long as its stream and its client."""

    def __init__(self, web: Web, follower: Follower) -> None:
        super().__init__(None, 200, {"cache-control": "no-store", "x-accel-buffering": "no"}, "text/event-stream")
        del self.headers["content-length"]
        self._web = web
        self._follower = follower

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Send events until the stream ends or the client leaves. Raises the refusal of the node if it comes first."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}

        async def send_bytes(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        async def began() -> None:
            await send(start)
            await send_bytes(retry_line())

        if scope["method"] == "HEAD":
            await send(start)
            await send({"type": "http.response.body"})
            return
        self._web.streams += 1
        following = asyncio.ensure_future(self._follower.follow(began, send_bytes))
        left = asyncio.ensure_future(until_left(receive))
        try:
            await asyncio.wait([following, left], return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                raise ClientLeftError
            following.result()
            await send({"type": "http.response.body"})
        finally:
            self._web.streams -= 1
            following.cancel()
            left.cancel()


@cache
def _document() -> Answer:
    """Made when it is first asked for, so that the process starts quickly."""
    return answer_of(openapi_json())


async def _openapi(web: Web, request: HttpRequest) -> Response:
    await web.clients.admit(request, Scope.READ)
    return json_answer(await asyncio.to_thread(_document), request.state.headers.get("if-none-match"))


async def _session(web: Web, request: HttpRequest) -> Response:
    grant = await web.clients.admit(request, Scope.METRICS)
    found = Session(name=grant.name, scope=grant.scope, expires_at=grant.expires_at, namespaces=grant.namespaces)
    return json_answer(answer_of(msgspec.json.encode(found)), request.state.headers.get("if-none-match"))


# --- public ---------------------------------------------------------------------------------------------------


def _routes_for_machines(web: Web) -> list[Route]:
    async def alive(request: HttpRequest) -> Response:
        await web.clients.admit_anybody(request)
        await web.health.demand_alive()
        return PlainTextResponse("ok", headers={"cache-control": "no-store"})

    async def ready(request: HttpRequest) -> Response:
        await web.clients.admit_anybody(request)
        doubts = await web.health.doubts()
        if doubts:
            return problem(Reason.UNAVAILABLE, "; ".join(each.detail for each in doubts), doubts=doubts)
        return PlainTextResponse("ok", headers={"cache-control": "no-store"})

    async def metrics(request: HttpRequest) -> Response:
        await web.clients.admit(request, Scope.METRICS)
        if web.metrics_apart and not request.state.door.metrics_only:
            return problem(Reason.NOT_FOUND, "the metrics have an address of their own (metrics_addr)")
        answer = await web.reads.get(METRICS.name.encode(), lambda: web.node.read(METRICS.name, b"{}"))
        found = msgspec.json.decode(answer.body, type=Metrics)
        shown = render([*found.families, *web.meter.families()], request.state.headers.get("accept", ""))
        return Response(shown.body, 200, {"content-type": shown.content_type, "cache-control": "no-store"})

    endpoints: dict[str, Endpoint] = {"/health": alive, "/livez": alive, "/readyz": ready, "/metrics": metrics}
    return [_route(web, path, {"GET": endpoint}) for path, endpoint in endpoints.items()]


def _page_routes(web: Web) -> list[Route]:
    """The page holds nothing of the node, so it is public. All that it shows comes from the API."""

    async def serve(file: File, request: HttpRequest) -> Response:
        await web.clients.admit_anybody(request)
        return file.answer(request.state.headers.get("if-none-match"))

    return [_route(web, path, {"GET": partial(serve, file)}) for path, file in page_files().items()]
