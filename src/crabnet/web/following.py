"""Streams to clients as server-sent events, continued over restarts of the node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, defstruct

from crabnet import limits
from crabnet.errors import CrabnetError, Reason, RefusedError
from crabnet.operations.model import Operation, Request
from crabnet.operations.problems import problem_of
from crabnet.web.node_client import NodeClient, NodeStream
from crabnet.web.tail import AWAY, Kept, Tail

SendBytes = Callable[[bytes], Awaitable[None]]
_HEARTBEAT: Final = b":\n\n"


def retry_line() -> bytes:
    """The first line of a stream: how long a client should wait before it connects again, in milliseconds."""
    return b"retry: %d\n\n" % limits.WEB_STREAM_RETRY_MS_MAX


class Framer:
    """Makes server-sent events from the items of an operation."""

    def __init__(self, operation: Operation[Any, Any]) -> None:
        resume = operation.resume
        self._decoder = msgspec.json.Decoder(_view(None if resume is None else resume.item_field))

    def framed(self, item: bytes) -> tuple[str | int | None, bytes]:
        """The place behind an item, if it has one, and the item as it is sent: empty if it is only a place."""
        view = self._decoder.decode(item)
        event = "gap" if isinstance(getattr(view, "gap", UNSET), dict) else ""
        place = getattr(view, "place", UNSET)
        if not isinstance(place, str | int):
            return None, _frame(item, event=event)
        told = getattr(view, "event", UNSET)
        if isinstance(told, Raw) and bytes(told) == b"null" and not event:  # it only says the place
            return place, b""
        return place, _frame(item, event=event, ident=str(place))


def tail_of(client: NodeClient, operation: Operation[Any, Any]) -> Tail | None:
    """What is kept of a stream for all clients that want all of it. None if it cannot be continued at a place."""
    resume, framer = operation.resume, Framer(operation)
    if resume is None:
        return None

    async def feed(after: int | None, take: Callable[[list[Kept]], None]) -> None:
        params = msgspec.json.encode({} if after is None else {resume.field: after})
        async with client.stream(operation.name, params) as stream:
            while not stream.ended:
                framed = map(framer.framed, await stream.items(limits.WEB_HEARTBEAT_MS))
                take([Kept(place, frame) for place, frame in framed if isinstance(place, int)])

    return Tail(feed)


class Follower:
    """One client's stream. It has a stream of its own from the node, until it has caught up with the ``tail``."""

    def __init__(
        self,
        client: NodeClient,
        operation: Operation[Any, Any],
        request: Request,
        holds: Callable[[], bool],
        tail: Tail | None = None,
    ) -> None:
        """``holds`` says whether the client may still see the stream."""
        self._holds = holds
        self._client = client
        self._operation = operation
        self._request = request
        self._resume = operation.resume
        self._checked_at = 0.0
        self._framer = Framer(operation)
        self._place: str | int | None = None
        self._tail = tail if tail is not None and self._wants_all() else None

    def _wants_all(self) -> bool:
        """Whether the request has no condition but its place."""
        given = msgspec.to_builtins(self._request)
        return self._resume is not None and given | {self._resume.field: None} == msgspec.to_builtins(
            self._operation.request()
        )

    async def follow(self, began: Callable[[], Awaitable[None]], send: SendBytes) -> None:
        """Call ``began`` when the node has taken the request, then send until the stream is over.

        Raises the error of the node if it refuses the request before ``began``.
        """
        if self._tail is None:
            await self._follow(began, send)
            return
        self._tail.join()
        try:
            await self._follow(began, send)
        finally:
            self._tail.leave()

    async def _follow(self, began: Callable[[], Awaitable[None]], send: SendBytes) -> None:
        started, pause_ms = False, limits.WEB_STREAM_RETRY_MS
        while True:
            try:
                async with self._client.stream(self._operation.name, msgspec.json.encode(self._request)) as stream:
                    items = [] if started else await stream.items(limits.WEB_STREAM_LOOK_MS)
                    if not started:
                        await began()
                        started = True
                    over = await self._pass_on(stream, items, send)
                if over:
                    return
                await self._pass_on_tail(send)
                pause_ms = limits.WEB_STREAM_RETRY_MS
                continue
            except CrabnetError as error:
                if not started:
                    raise
                if error.reason not in AWAY or self._resume is None:
                    await send(_frame(msgspec.json.encode(problem_of(error.reason, error.message)), event="problem"))
                    return
            await send(_HEARTBEAT)
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(2 * pause_ms, limits.WEB_STREAM_RETRY_MS_MAX)

    async def _pass_on(self, stream: NodeStream, items: list[bytes], send: SendBytes) -> bool:
        """Send what comes. Returns True at the end of the stream, False when the tail can go on."""
        while True:
            if items:
                framed = list(map(self._framer.framed, items))
                await send(b"".join([frame or b"id: %b\n\n" % str(place).encode() for place, frame in framed]))
                self._reached(framed[-1][0])
            if stream.ended:
                await send(_frame(b"{}", event="end"))
                return True
            if self._tail is not None and isinstance(self._place, int) and self._tail.covers(self._place):
                return False
            items = await self._next(stream, send)

    async def _pass_on_tail(self, send: SendBytes) -> None:
        """Send from the tail, until this client has fallen behind it. Raises RefusedError as ``_next``."""
        tail, clock = self._tail, asyncio.get_running_loop().time
        quiet_since = clock()
        while tail is not None and isinstance(self._place, int) and tail.covers(self._place):
            kept = tail.behind(self._place)
            self._demand_right()
            if kept is not None:
                await send(kept.frame)
                self._reached(kept.place)
                quiet_since = clock()
            elif clock() - quiet_since > limits.WEB_HEARTBEAT_MS / 1000:
                quiet_since = clock()
                await send(_HEARTBEAT)
            else:
                await tail.more(limits.WEB_STREAM_CHECK_MS)

    def _reached(self, place: str | int | None) -> None:
        self._place = place
        if self._resume is not None and place is not None:
            self._request = msgspec.structs.replace(self._request, **{self._resume.field: place})

    def _demand_right(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._checked_at > limits.WEB_STREAM_CHECK_MS / 1000:
            self._checked_at = now
            if not self._holds():
                raise RefusedError("the token is not valid any more", Reason.UNAUTHENTICATED)

    async def _next(self, stream: NodeStream, send: SendBytes) -> list[bytes]:
        """The next items; none at the end of the stream. Raises RefusedError if the client may see no more."""
        clock = asyncio.get_running_loop().time
        quiet_since = clock()
        while True:
            items = await stream.items(limits.WEB_STREAM_CHECK_MS)
            self._demand_right()
            if items or stream.ended:
                return items
            if clock() - quiet_since > limits.WEB_HEARTBEAT_MS / 1000:
                quiet_since = clock()
                await send(_HEARTBEAT)


def resumed(operation: Operation[Any, Any], request: Request, last_event_id: str | None) -> Request:
    """The request with the place after which a client continues. Raises UsageError-compatible ValidationError."""
    if last_event_id is None or operation.resume is None:
        return request
    given = msgspec.to_builtins(request) | {operation.resume.field: last_event_id}
    found: Request = msgspec.convert(given, operation.request, strict=False)
    return found


def _view(item_field: str | None) -> type[Struct]:
    """The part of an item that the frame needs."""
    fields: list[tuple[str, Any, Any]] = [("gap", dict[str, Any] | None, None), ("event", Raw | UnsetType, UNSET)]
    rename: dict[str, str] = {}
    if item_field is not None:
        fields.append(("place", str | int | UnsetType, UNSET))
        rename["place"] = item_field
    return defstruct("View", fields, rename=rename)


def _frame(data: bytes | Raw, *, event: str = "", ident: str = "") -> bytes:
    parts = []
    if ident:
        parts.append(b"id: %b\n" % ident.encode())
    if event:
        parts.append(b"event: %b\n" % event.encode())
    parts.append(b"data: %b\n\n" % bytes(data))
    return b"".join(parts)
