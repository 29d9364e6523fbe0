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

SendBytes = Callable[[bytes], Awaitable[None]]
_AWAY: Final = frozenset({Reason.NODE_UNREACHABLE, Reason.NODE_STOPPING})
_HEARTBEAT: Final = b":\n\n"


def retry_line() -> bytes:
    """The first line of a stream: how long a client should wait before it connects again, in milliseconds."""
    return b"retry: %d\n\n" % limits.WEB_STREAM_RETRY_MS_MAX


class Follower:
    """One client's stream. ``last`` is the id of the last item that it has."""

    def __init__(
        self, client: NodeClient, operation: Operation[Any, Any], request: Request, holds: Callable[[], bool]
    ) -> None:
        """``holds`` says whether the client may still see the stream."""
        self._holds = holds
        self._client = client
        self._operation = operation
        self._request = request
        self._resume = operation.resume
        self._checked_at = 0.0
        self._decoder = msgspec.json.Decoder(_view(None if self._resume is None else self._resume.item_field))

    async def follow(self, began: Callable[[], Awaitable[None]], send: SendBytes) -> None:
        """Call ``began`` when the node has taken the request, then send until the stream is over.

        Raises the error of the node if it refuses the request before ``began``.
        """
        started, pause_ms = False, limits.WEB_STREAM_RETRY_MS
        while True:
            try:
                async with self._client.stream(self._operation.name, msgspec.json.encode(self._request)) as stream:
                    items = [] if started else await stream.items(limits.WEB_STREAM_LOOK_MS)
                    if not started:
                        await began()
                        started = True
                    await self._pass_on(stream, items, send)
                    return
            except CrabnetError as error:
                if not started:
                    raise
                if error.reason not in _AWAY or self._resume is None:
                    await send(_frame(msgspec.json.encode(problem_of(error.reason, error.message)), event="problem"))
                    return
            await send(_HEARTBEAT)
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(2 * pause_ms, limits.WEB_STREAM_RETRY_MS_MAX)

    async def _pass_on(self, stream: NodeStream, items: list[bytes], send: SendBytes) -> None:
        while True:
            if items:
                await send(b"".join(map(self._framed, items)))
            if stream.ended:
                await send(_frame(b"{}", event="end"))
                return
            items = await self._next(stream, send)

    async def _next(self, stream: NodeStream, send: SendBytes) -> list[bytes]:
        """The next items; none at the end of the stream. Raises RefusedError if the client may see no more."""
        clock = asyncio.get_running_loop().time
        quiet_since = clock()
        while True:
            items = await stream.items(limits.WEB_STREAM_CHECK_MS)
            if clock() - self._checked_at > limits.WEB_STREAM_CHECK_MS / 1000:
                self._checked_at = clock()
                if not self._holds():
                    raise RefusedError("the token is not valid any more", Reason.UNAUTHENTICATED)
            if items or stream.ended:
                return items
            if clock() - quiet_since > limits.WEB_HEARTBEAT_MS / 1000:
                quiet_since = clock()
                await send(_HEARTBEAT)

    def _framed(self, item: bytes) -> bytes:
        view = self._decoder.decode(item)
        event = "gap" if isinstance(getattr(view, "gap", UNSET), dict) else ""
        place = getattr(view, "place", UNSET)
        if self._resume is None or not isinstance(place, str | int):
            return _frame(item, event=event)
        self._request = msgspec.structs.replace(self._request, **{self._resume.field: place})
        return _frame(item, event=event, ident=str(place))


def resumed(operation: Operation[Any, Any], request: Request, last_event_id: str | None) -> Request:
    """The request with the place after which a client continues. Raises UsageError-compatible ValidationError."""
    if last_event_id is None or operation.resume is None:
        return request
    given = msgspec.to_builtins(request) | {operation.resume.field: last_event_id}
    found: Request = msgspec.convert(given, operation.request, strict=False)
    return found


def _view(item_field: str | None) -> type[Struct]:
    """The part of an item that the frame needs."""
    fields: list[tuple[str, Any, Any]] = [("gap", dict[str, Any] | None, None)]
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
