"""Performs the operations of ``operations.table``: one function for each, registered here, and one way to call them.

The control socket, one-shot commands and Python programs all go through ``perform`` and ``stream``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

import msgspec
from msgspec import Struct

from crabnet.errors import Reason, UsageError
from crabnet.node.node import Node
from crabnet.node.operations.requests import Ticket, once
from crabnet.operations.model import Operation, Request, Writing
from crabnet.operations.table import BY_NAME
from crabnet.protocol.canonical import JsonObject, JsonValue

P = TypeVar("P", bound=Request)
W = TypeVar("W", bound=Writing)
R = TypeVar("R", bound=Struct)


class Send(Protocol):
    """Takes items of a stream. Waits until the reader has room for them. To send many at once costs less."""

    async def __call__(self, *items: Struct) -> None: ...


_PERFORMERS: Final[dict[str, Callable[[Node, Request], Awaitable[Struct]]]] = {}
_STREAMERS: Final[dict[str, Callable[[Node, Request, Send], Awaitable[None]]]] = {}


def reads(
    operation: Operation[P, R],
) -> Callable[[Callable[[Node, P], Awaitable[R]]], Callable[[Node, P], Awaitable[R]]]:
    """Register the function that performs an operation that changes nothing."""

    def register(function: Callable[[Node, P], Awaitable[R]]) -> Callable[[Node, P], Awaitable[R]]:
        async def perform_it(node: Node, given: Request) -> Struct:
            return await function(node, _checked(operation, given))

        _PERFORMERS[operation.name] = perform_it
        return function

    return register


def writes(
    operation: Operation[W, R],
) -> Callable[[Callable[[Node, W, Ticket], Awaitable[R]]], Callable[[Node, W, Ticket], Awaitable[R]]]:
    """Register the function that performs an operation that writes.

    Its ``Ticket`` says what an earlier try of the same request has stated. The function then only makes the answer.
    """

    def register(function: Callable[[Node, W, Ticket], Awaitable[R]]) -> Callable[[Node, W, Ticket], Awaitable[R]]:
        async def perform_it(node: Node, given: Request) -> Struct:
            request = _checked(operation, given)
            return await once(node, operation, request, lambda ticket: function(node, request, ticket))

        _PERFORMERS[operation.name] = perform_it
        return function

    return register


def streams(
    operation: Operation[P, R],
) -> Callable[[Callable[[Node, P, Send], Awaitable[None]]], Callable[[Node, P, Send], Awaitable[None]]]:
    """Register the function that sends the items of a stream. It returns at the end of the stream."""

    def register(function: Callable[[Node, P, Send], Awaitable[None]]) -> Callable[[Node, P, Send], Awaitable[None]]:
        async def stream_it(node: Node, given: Request, send: Send) -> None:
            await function(node, _checked(operation, given), send)

        _STREAMERS[operation.name] = stream_it
        return function

    return register


def performed() -> set[str]:
    """The names of the operations with one answer that have a function."""
    return set(_PERFORMERS)


def streamed() -> set[str]:
    """The names of the streams that have a function."""
    return set(_STREAMERS)


def _checked(operation: Operation[P, R], given: Request) -> P:
    if not isinstance(given, operation.request):
        raise UsageError(f"{operation.name} takes a {operation.request.__name__}, not a {type(given).__name__}")
    return given


async def perform(node: Node, operation: Operation[P, R], request: P) -> R:
    """Perform an operation that has one answer. Raises UsageError, and the errors of the operation."""
    performer = _PERFORMERS.get(operation.name)
    if performer is None:
        raise UsageError(f"{operation.name} is a stream", Reason.INVALID_ARGUMENT)
    answer = await performer(node, request)
    if not isinstance(answer, operation.response):
        raise TypeError(f"{operation.name} answers a {operation.response.__name__}")
    return answer


async def stream(node: Node, operation: Operation[P, R], request: P, send: Callable[[R], Awaitable[None]]) -> None:
    """Pass the items of a stream to ``send`` until the stream ends. Cancel it to end it earlier.

    Raises UsageError, and the errors of the operation.
    """
    streamer = _streamer(operation)

    async def pass_on(*items: Struct) -> None:
        for item in items:
            if not isinstance(item, operation.response):
                raise TypeError(f"an item of {operation.name} is a {operation.response.__name__}")
            await send(item)

    await streamer(node, request, pass_on)


def _streamer(operation: Operation[P, R]) -> Callable[[Node, Request, Send], Awaitable[None]]:
    streamer = _STREAMERS.get(operation.name)
    if streamer is None:
        raise UsageError(f"{operation.name} is not a stream", Reason.INVALID_ARGUMENT)
    return streamer


def known(name: str) -> Operation[Any, Any]:
    """The operation with this name. Raises UsageError."""
    operation = BY_NAME.get(name)
    if operation is None:
        raise UsageError(f"there is no method {name[:64]!r}", Reason.UNKNOWN_OPERATION)
    return operation


def request_of(operation: Operation[P, R], params: Mapping[str, object]) -> P:
    """The request in JSON parameters. Raises UsageError."""
    try:
        return msgspec.convert(params, operation.request)
    except msgspec.ValidationError as error:
        raise UsageError(f"{operation.name}: {error}") from error


async def dispatch(node: Node, method: str, params: JsonObject) -> Struct:
    """Perform the operation with this name. Raises UsageError for an unknown name or bad parameters, and its errors."""
    operation = known(method)
    return await perform(node, operation, request_of(operation, params))


async def dispatch_stream(node: Node, method: str, params: JsonObject, send: Send) -> None:
    """Stream the items of the operation with this name to ``send``. Raises as ``dispatch``."""
    operation = known(method)
    await _streamer(operation)(node, request_of(operation, params), send)


def as_json(answer: Struct) -> JsonValue:
    """An answer as a program gets it over the control socket."""
    value: JsonValue = msgspec.json.decode(msgspec.json.encode(answer))
    return value
