"""The web process's connections to the control socket of its node (docs/CONTROL.md)."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from crabnet import limits
from crabnet.control.client import SOCKET_NAME, NodeNotRunningError, error_from_json, short_socket_path
from crabnet.errors import CrabnetError, NetworkError, NodeTimeoutError, Reason, UsageError

_BUSY_S: Final = 0.02
"""Pause before another try to connect while the node's queue of connections is full."""
_GONE: Final = (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError)


class _Line(Struct):
    """An answer of the node."""

    result: Raw | UnsetType = UNSET
    item: Raw | UnsetType = UNSET
    error: dict[str, str | int] | UnsetType = UNSET


_DECODER: Final = msgspec.json.Decoder(_Line)


class _Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class NodeStream:
    """A stream of the node. Closing its connection ends it."""

    def __init__(self, connection: _Connection, name: str) -> None:
        self._reader = connection.reader
        self._name = name
        self._buffer = bytearray()
        self.ended = False
        """The node has said that the stream is over."""

    async def items(self, wait_ms: int) -> list[bytes]:
        """The items that have come, each as JSON. None if none has come within ``wait_ms``, or the stream has ended.

        Raises NodeTimeoutError (NODE_STOPPING) if the node has gone, and the error that ends the stream.
        """
        try:
            async with asyncio.timeout(wait_ms / 1000):
                while b"\n" not in self._buffer:
                    chunk = await self._reader.read(limits.WEB_STREAM_CHUNK_BYTES)
                    if not chunk or len(self._buffer) > limits.CONTROL_RESPONSE_BYTES_MAX:
                        raise self._gone()
                    self._buffer += chunk
        except TimeoutError:
            return []
        except _GONE:
            raise self._gone() from None
        return self._taken()

    def _taken(self) -> list[bytes]:
        """The items at the beginning of the buffer. An error or the end behind them waits for the next call."""
        found: list[bytes] = []
        done = 0
        while (end := self._buffer.find(b"\n", done)) >= 0:
            line = _parsed(bytes(self._buffer[done:end]))
            if isinstance(line.item, Raw):
                found.append(bytes(line.item))
            elif found:
                break
            else:
                _result(line)
                self.ended = True
            done = end + 1
        del self._buffer[:done]
        return found

    def _gone(self) -> NodeTimeoutError:
        return NodeTimeoutError(f"the node ended before the stream of {self._name}", Reason.NODE_STOPPING)


class NodeClient:
    """Asks the node on ``data_dir``. ``timeout_ms`` bounds the wait for an answer that does not wait for a task."""

    def __init__(self, data_dir: Path, timeout_ms: int) -> None:
        self._path = data_dir / SOCKET_NAME
        self._timeout_ms = timeout_ms
        self._idle: list[tuple[float, _Connection]] = []
        self._places = asyncio.Semaphore(limits.WEB_NODE_CONNECTIONS_MAX)

    async def read(self, name: str, params: bytes) -> bytes:
        """The answer to an operation that changes nothing, as JSON. ``params`` is JSON, too.

        Raises NodeNotRunningError, NodeTimeoutError, and the error that the node answers.
        """
        line = _request(name, params)
        async with self._places:
            kept = self._kept()
            if kept is not None:
                with suppress(*_GONE):
                    return await self._exchange(kept, name, line)
            try:
                return await self._exchange(await self._connect(), name, line)
            except _GONE:
                raise NodeTimeoutError(f"the node ended before it answered {name}", Reason.NODE_STOPPING) from None

    async def write(self, name: str, params: bytes) -> bytes:
        """The answer to an operation that writes. It is sent once, over a connection of its own. Raises as ``read``.

        After a NodeTimeoutError it is not known whether the operation took effect.
        """
        line = _request(name, params)
        async with self._places:
            try:
                return await self._exchange(await self._connect(), name, line)
            except _GONE:
                raise _unknown(name) from None

    async def wait(self, name: str, params: bytes) -> bytes:
        """The answer to an operation that may take as long as a task. Raises as ``write``."""
        line = _request(name, params)
        connection = await self._connect()
        try:
            connection.writer.write(line)
            return _result(_parsed(await connection.reader.readuntil(b"\n")))
        except _GONE:
            raise _unknown(name) from None
        finally:
            connection.writer.close()

    @asynccontextmanager
    async def stream(self, name: str, params: bytes) -> AsyncIterator[NodeStream]:
        """The items of a stream. Raises NodeNotRunningError, NodeTimeoutError."""
        line = _request(name, params)
        connection = await self._connect()
        try:
            connection.writer.write(line)
            yield NodeStream(connection, name)
        finally:
            connection.writer.close()

    def close(self) -> None:
        """Close all idle connections."""
        for _, connection in self._idle:
            connection.writer.close()
        self._idle.clear()

    def _kept(self) -> _Connection | None:
        """The connection that was used last, if the node still serves it."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            since, connection = self._idle.pop()
            if now - since < limits.WEB_NODE_IDLE_MS / 1000 and not connection.reader.at_eof():
                return connection
            connection.writer.close()
        return None

    async def _exchange(self, connection: _Connection, name: str, line: bytes) -> bytes:
        """Send a request and take its answer. Raises one of ``_GONE`` if the connection ends before."""
        whole = False
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                connection.writer.write(line)
                answer = await connection.reader.readuntil(b"\n")
            whole = True
        except TimeoutError:
            raise NodeTimeoutError(
                f"the node did not answer {name} within {self._timeout_ms} ms; a write may have taken effect"
            ) from None
        finally:
            if whole:
                self._idle.append((asyncio.get_running_loop().time(), connection))
            else:
                connection.writer.close()
        return _result(_parsed(answer))

    async def _connect(self) -> _Connection:
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            raise _unreachable(error) from None
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                with short_socket_path(self._path) as address:
                    while True:
                        try:
                            sock.connect(address)
                            break
                        except BlockingIOError:  # the queue is full (unix(7), EAGAIN); asyncio takes it for progress
                            await asyncio.sleep(_BUSY_S)
            reader, writer = await asyncio.open_unix_connection(sock=sock, limit=limits.CONTROL_RESPONSE_BYTES_MAX)
        except BaseException as error:
            sock.close()
            if isinstance(error, TimeoutError):
                raise NodeTimeoutError("the node takes no connection; it may be overloaded; try again") from None
            if isinstance(error, OSError):
                raise _unreachable(error) from None
            raise
        return _Connection(reader, writer)


def _request(name: str, params: bytes) -> bytes:
    line = b'{"v":1,"id":1,"method":"%b","params":%b}\n' % (name.encode(), params)
    if len(line) > limits.CONTROL_LINE_BYTES_MAX:
        raise UsageError(f"the request has more than {limits.CONTROL_LINE_BYTES_MAX} bytes", Reason.TOO_LARGE)
    return line


def _parsed(line: bytes) -> _Line:
    try:
        return _DECODER.decode(line)
    except msgspec.MsgspecError as error:
        raise CrabnetError(f"the node's answer does not follow the control protocol: {error}") from error


def _result(line: _Line) -> bytes:
    if isinstance(line.error, dict):
        raise error_from_json(dict(line.error))
    if not isinstance(line.result, Raw):
        raise CrabnetError("the node's answer has neither a result nor an error")
    return bytes(line.result)


def _unreachable(error: OSError) -> CrabnetError:
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED}:
        return NodeNotRunningError("no node runs on this data dir; start one with `crabnet listen`")
    return NetworkError(f"the node cannot be reached: {error.strerror}", Reason.NODE_UNREACHABLE)


def _unknown(name: str) -> NodeTimeoutError:
    return NodeTimeoutError(
        f"the node ended before it answered {name}; it is not known whether it took effect; repeat it with the same"
        " Idempotency-Key",
        Reason.NODE_STOPPING,
    )
