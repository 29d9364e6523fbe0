"""The node's end of the control socket (docs/CONTROL.md): newline-delimited JSON requests over a Unix socket.

Only the same user and root may connect. The length of a line and the number of connections are bounded. No input ends
the node.
"""

from __future__ import annotations

import os
import socket as stdlib_socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import trio

from crabnet import limits
from crabnet.errors import (
    CrabnetError,
    ExitCode,
    Reason,
    RefusedError,
    UsageError,
    principal,
)
from crabnet.node.failures import failure_of
from crabnet.node.operations.control_socket import accept, listening, listening_again, remove, until_removed
from crabnet.node.operations.places import Place, Places
from crabnet.operations.table import BY_NAME
from crabnet.protocol.canonical import JsonObject, JsonRefusedError, JsonValue, parse_object

Dispatch = Callable[[str, JsonObject], Awaitable[object]]
"""Does ``method`` with ``params``. The answer is anything that JSON can hold. Raises CrabnetError to refuse."""
StreamOut = Callable[[str, JsonObject, Callable[..., Awaitable[None]]], Awaitable[None]]
"""Passes the items of ``method`` with ``params`` on, until the stream ends. Raises CrabnetError to refuse."""
OnFailure = Callable[[str, Exception], None]

PROTOCOL_VERSION: Final = 1
_CHUNK_BYTES: Final = 64 * 1024
_UCRED: Final = struct.Struct("3i")
_REQUEST_KEYS: Final = frozenset({"v", "id", "method", "params"})


async def serve_control(
    path: Path,
    dispatch: Dispatch,
    *,
    stream: StreamOut | None = None,
    on_failure: OnFailure | None = None,
    places: Places | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve requests at ``path`` until cancelled. The socket file is removed at the end.

    The caller must hold the data dir's lock. So an existing socket file is stale, and it is replaced. If a client
    leaves during its request, the request is still finished, but a stream ends. An unexpected exception of ``dispatch``
    or ``stream`` is answered with ``internal`` and passed to ``on_failure(method, error)``. A UsageError, such as that
    of a request that cannot be parsed, is passed to ``on_failure`` too. If the socket file is removed, it is created
    again. ``places`` tells the caller which requests are under way.

    Raises StorageFailedError if the first socket cannot be created, and DataDirDamagedError if ``path`` is something
    other than a socket.
    """
    places = Places() if places is None else places
    listener, inode = listening(path)
    try:
        async with trio.open_nursery() as clients:
            task_status.started()
            while True:
                serve = partial(_serve_connection, door=_Door(dispatch, stream, on_failure), places=places)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(until_removed, path, nursery.cancel_scope)
                    nursery.start_soon(_accept_all, listener, places, partial(clients.start_soon, serve))
                listener.close()
                listener, inode = await listening_again(path)
    finally:
        listener.close()
        remove(path, inode)


async def _accept_all(
    listener: trio.socket.SocketType, places: Places, begin: Callable[[trio.SocketStream], None]
) -> None:
    while True:
        await places.free()
        begin(await accept(listener))


class _Door(NamedTuple):
    """Where requests are answered."""

    dispatch: Dispatch
    stream: StreamOut | None
    on_failure: OnFailure | None

    def streams(self, method: str) -> bool:
        """Whether a method has items instead of an answer."""
        return self.stream is not None and method in BY_NAME and BY_NAME[method].streams


async def _serve_connection(stream: trio.SocketStream, door: _Door, places: Places) -> None:
    place = Place(places)
    await place.hold()
    try:
        if _peer_allowed(stream.socket):
            await _Connection(stream, door, place).serve()
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        pass  # The client left, or it neither reads nor writes. Only its own connection ends.
    finally:
        place.answered()
        place.let_go()
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


def _peer_allowed(sock: trio.socket.SocketType) -> bool:
    """True for the same user or root (unix(7), SO_PEERCRED), even if the file modes would let others connect."""
    _, uid, _ = _UCRED.unpack(sock.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_PEERCRED, _UCRED.size))
    return uid in {0, os.geteuid()}


class _Connection:
    """One client: its requests in their order."""

    def __init__(self, stream: trio.SocketStream, door: _Door, place: Place) -> None:
        self._stream = stream
        self._door = door
        self._place = place
        self._buffer = bytearray()
        self._ended = False

    async def serve(self) -> None:
        """Answer requests until the client ends the connection."""
        while not self._ended:
            line = await self._next_line()
            if line is None:
                return
            answer = await self._answer(line)
            if answer:
                await self._send(answer)
            self._place.answered()
            if len(line) > limits.CONTROL_LINE_BYTES_MAX:
                return

    async def _send(self, line: bytes) -> None:
        with trio.fail_after(limits.CONTROL_SEND_MS / 1000):
            await self._stream.send_all(line + b"\n")

    async def _next_line(self) -> bytes | None:
        """The next line; None at the end. A line that is too long is cut to one byte more than the maximum."""
        buffer, searched = self._buffer, 0
        with trio.fail_after(limits.CONTROL_IDLE_MS / 1000):
            while True:
                end = buffer.find(b"\n", searched)
                if end >= 0:
                    line = bytes(buffer[:end])
                    del buffer[: end + 1]
                    return line
                if len(buffer) >= limits.CONTROL_LINE_BYTES_MAX:
                    return bytes(buffer).ljust(limits.CONTROL_LINE_BYTES_MAX + 1)
                searched = len(buffer)
                chunk = await self._stream.receive_some(_CHUNK_BYTES)
                if not chunk:
                    return None
                buffer += chunk

    async def _answer(self, line: bytes) -> bytes:
        """The line that answers a request; empty if the client has left during a stream."""
        request_id: JsonValue = None
        method = ""
        try:
            request = _parse(line)
            request_id = request.get("id")
            method, params = _checked(request)
            return await self._place.during(method, partial(self._perform, request_id, method, params))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            raise
        except (Exception, BaseExceptionGroup) as raised:
            failure = failure_of(raised)
            if failure is None:
                raise
            error = principal(failure)
            if not isinstance(error, Exception):
                raise
            if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError | trio.TooSlowError):
                raise error from None
            known = error if isinstance(error, CrabnetError) else None
            if self._door.on_failure is not None and (known is None or isinstance(known, UsageError)):
                self._door.on_failure(method, error)
            return msgspec.json.encode({"id": request_id, "error": _error_object(known)})

    async def _perform(self, request_id: JsonValue, method: str, params: JsonObject) -> bytes:
        if self._door.streams(method):
            return await self._stream_out(request_id, method, params)
        return _bounded(msgspec.json.encode({"id": request_id, "result": await self._door.dispatch(method, params)}))

    async def _stream_out(self, request_id: JsonValue, method: str, params: JsonObject) -> bytes:
        """Send the items of a stream. It ends early if the client ends its side of the connection."""
        if self._door.stream is None:
            raise TypeError("there is no stream")

        async def send(*items: object) -> None:
            lines = [_bounded(msgspec.json.encode({"id": request_id, "item": item})) for item in items]
            await self._send(b"\n".join(lines))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_left, nursery.cancel_scope)
            await self._door.stream(method, params, send)
            nursery.cancel_scope.cancel()
        return b"" if self._ended else msgspec.json.encode({"id": request_id, "result": {}})

    async def _until_left(self, scope: trio.CancelScope) -> None:
        """End a stream when its client does. Further requests of the client wait in the buffer."""
        while len(self._buffer) < limits.CONTROL_LINE_BYTES_MAX:
            chunk = await self._stream.receive_some(_CHUNK_BYTES)
            if not chunk:
                self._ended = True
                scope.cancel()
                return
            self._buffer += chunk


def _bounded(line: bytes) -> bytes:
    if len(line) > limits.CONTROL_RESPONSE_BYTES_MAX:
        raise RefusedError(
            f"the answer has more than {limits.CONTROL_RESPONSE_BYTES_MAX} bytes; request fewer rows",
            Reason.LIMIT_EXCEEDED,
        )
    return line


def _error_object(error: CrabnetError | None) -> dict[str, str | int]:
    if error is None:
        message = "an unexpected error in the node; its events say more"
        return {"reason": Reason.INTERNAL.value, "message": message, "exit_code": int(ExitCode.INTERNAL)}
    return {"reason": error.reason.value, "message": error.message, "exit_code": int(error.exit_code)}


def _parse(line: bytes) -> JsonObject:
    if len(line) > limits.CONTROL_LINE_BYTES_MAX:
        raise UsageError(
            f"the request has more than {limits.CONTROL_LINE_BYTES_MAX} bytes; the node closes the connection",
            Reason.TOO_LARGE,
        )
    try:
        request, _ = parse_object(line)
    except JsonRefusedError as error:
        raise UsageError(f"the request is not a JSON object: {error}", Reason.MALFORMED) from None
    return request


def _checked(request: JsonObject) -> tuple[str, JsonObject]:
    version = request.get("v")
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise UsageError(
            f'this node supports version {PROTOCOL_VERSION} of the control protocol; set "v" to {PROTOCOL_VERSION}',
            Reason.UNSUPPORTED_VERSION,
        )
    if not request.keys() <= _REQUEST_KEYS:
        raise UsageError("a request may have only the keys v, id, method, params", Reason.MALFORMED)
    method, params = request.get("method"), request.get("params", {})
    if not isinstance(method, str) or not isinstance(params, dict):
        raise UsageError('a request needs a string "method" and an object "params"', Reason.MALFORMED)
    return method, params
