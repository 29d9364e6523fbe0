"""The node's end of the control socket (docs/CONTROL.md): newline-delimited JSON requests over a Unix socket.

Only the same user and root may connect. The length of a line and the number of connections are bounded. No input ends
the node.
"""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
import stat
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio

from crabnet import limits
from crabnet.errors import (
    CrabnetError,
    DataDirDamagedError,
    ExitCode,
    Reason,
    RefusedError,
    StorageFailedError,
    UsageError,
    principal,
)
from crabnet.node.failures import failure_of
from crabnet.protocol.canonical import JsonObject, JsonRefusedError, JsonValue, parse_object

Dispatch = Callable[[str, JsonObject], Awaitable[JsonValue]]
"""Does ``method`` with ``params``. Raises CrabnetError to refuse."""

PROTOCOL_VERSION: Final = 1
_LONG: Final = frozenset({"seed.run", "seed.watch", "seed.cancel"})
"""Methods that wait for something to happen."""
_BACKLOG: Final = 256
_CHUNK_BYTES: Final = 64 * 1024
_ACCEPT_RETRY_S: Final = 0.1
_UCRED: Final = struct.Struct("3i")
_REQUEST_KEYS: Final = frozenset({"v", "id", "method", "params"})
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def serve_control(
    path: Path,
    dispatch: Dispatch,
    *,
    on_failure: Callable[[str, Exception], None] | None = None,
    places: Places | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve requests at ``path`` until cancelled. The socket file is removed at the end.

    The caller must hold the data dir's lock. So an existing socket file is stale, and it is replaced. If a client
    leaves during its request, the request is still finished. An unexpected exception of ``dispatch`` is answered with
    ``internal`` and passed to ``on_failure(method, error)``. A UsageError, such as that of a request that cannot be
    parsed, is passed to ``on_failure`` too. If the socket file is removed, it is created again.
    ``places`` tells the caller which requests are under way.

    Raises StorageFailedError if the first socket cannot be created, and DataDirDamagedError if ``path`` is something
    other than a socket.
    """
    places = Places() if places is None else places
    listener, inode = _listening(path)
    try:
        async with trio.open_nursery() as clients:
            task_status.started()
            while True:
                serve = partial(_serve_connection, dispatch=dispatch, on_failure=on_failure, places=places)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_until_removed, path, nursery.cancel_scope)
                    nursery.start_soon(_accept_all, listener, places, partial(clients.start_soon, serve))
                listener.close()
                listener, inode = await _listening_again(path)
    finally:
        listener.close()
        _remove(path, inode)


async def _accept_all(
    listener: trio.socket.SocketType, places: Places, begin: Callable[[trio.SocketStream], None]
) -> None:
    while True:
        await places.free()
        begin(await _accept(listener))


async def _listening_again(path: Path) -> tuple[trio.socket.SocketType, int]:
    while True:
        try:
            return _listening(path)
        except CrabnetError:
            await trio.sleep(limits.CONTROL_LOOK_MS / 1000)


async def _until_removed(path: Path, scope: trio.CancelScope) -> None:
    """Cancel the scope once ``path`` does not exist any more."""
    while os.path.lexists(path):  # noqa: ASYNC110 - no event reports the removal
        await trio.sleep(limits.CONTROL_LOOK_MS / 1000)
    scope.cancel()


class Places:
    """Counts the clients that are served at once, and the requests of each long method (run-4)."""

    def __init__(self) -> None:
        self.short = trio.Semaphore(limits.CONTROL_CONNECTIONS_MAX)
        self.long: Counter[str] = Counter()
        self._left = trio.Event()

    def leave(self, method: str) -> None:
        """A long request was answered, or its client is gone."""
        self.long[method] -= 1
        left, self._left = self._left, trio.Event()
        left.set()

    async def answered(self, method: str) -> None:
        """Wait until no request of a long method is under way."""
        while self.long[method]:
            await self._left.wait()

    async def free(self) -> None:
        """Wait until one more client may be served."""
        await self.short.acquire()
        self.short.release()


class _Place:
    """The place of one client. It is released while a long request waits, so that short requests and ``seed.cancel``
    never wait for other long ones.
    """

    def __init__(self, places: Places, dispatch: Dispatch) -> None:
        self._places = places
        self._dispatch = dispatch
        self._held = False
        self._long = ""

    async def hold(self) -> None:
        """Wait for a place, unless this client has one."""
        if not self._held:
            await self._places.short.acquire()
            self._held = True

    def let_go(self) -> None:
        """Release the place for another client."""
        if self._held:
            self._held = False
            self._places.short.release()

    async def dispatch(self, method: str, params: JsonObject) -> JsonValue:
        """Do a method. Raises RefusedError (LIMIT_EXCEEDED) if too many requests of a long method wait already, and the
        errors of the method.
        """
        if method not in _LONG:
            await self.hold()
            return await self._dispatch(method, params)
        if self._places.long[method] >= limits.CONTROL_WAITING_MAX:
            raise RefusedError(
                f"{limits.CONTROL_WAITING_MAX} clients already wait for {method}; try again later",
                Reason.LIMIT_EXCEEDED,
            )
        self._places.long[method] += 1
        self._long = method
        self.let_go()
        return await self._dispatch(method, params)

    def answered(self) -> None:
        """The client has its answer, or is gone."""
        if self._long:
            method, self._long = self._long, ""
            self._places.leave(method)


def _listening(path: Path) -> tuple[trio.socket.SocketType, int]:
    """The listening socket, and the inode number of its file."""
    listener = stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
    try:
        inode = _bind(listener, path)
        listener.setblocking(False)
        return trio.socket.from_stdlib_socket(listener), inode
    except BaseException:
        listener.close()
        raise


def _bind(listener: stdlib_socket.socket, path: Path) -> int:
    """Bind, restrict the file mode, then listen. Until the last step every connection is refused."""
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
        else:
            raise DataDirDamagedError(f"{path} is not a socket; move it away, because the node needs this path")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _socket_failed(path, error) from error
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # sun_path holds 107 bytes. A path through the directory's descriptor always fits.
            short = f"/proc/self/fd/{directory}/{path.name}"
            address = str(path) if len(os.fsencode(path)) <= limits.SOCKET_PATH_BYTES_MAX else short
            listener.bind(address)
        finally:
            os.close(directory)
        path.chmod(0o600)
        listener.listen(_BACKLOG)
        return path.lstat().st_ino
    except OSError as error:
        raise _socket_failed(path, error) from error


def _socket_failed(path: Path, error: OSError) -> StorageFailedError:
    return StorageFailedError(f"the control socket {path} cannot be created: {error.strerror}")


def _remove(path: Path, inode: int) -> None:
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except OSError:
        return  # A stale socket file is harmless, because the next node replaces it.


async def _accept(listener: trio.socket.SocketType) -> trio.SocketStream:
    while True:
        try:
            connection, _ = await listener.accept()
            return trio.SocketStream(connection)
        except OSError as error:
            if error.errno == errno.EBADF:
                raise
            if error.errno in _OUT_OF_RESOURCES:
                await trio.sleep(_ACCEPT_RETRY_S)


async def _serve_connection(
    stream: trio.SocketStream,
    dispatch: Dispatch,
    on_failure: Callable[[str, Exception], None] | None,
    places: Places,
) -> None:
    place = _Place(places, dispatch)
    await place.hold()
    try:
        if _peer_allowed(stream.socket):
            await _serve_requests(stream, place, on_failure)
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


async def _serve_requests(
    stream: trio.SocketStream, place: _Place, on_failure: Callable[[str, Exception], None] | None
) -> None:
    buffer = bytearray()
    while True:
        line = await _next_line(stream, buffer)
        if line is None:
            return
        answer = await _answer(line, place.dispatch, on_failure)
        with trio.fail_after(limits.CONTROL_SEND_MS / 1000):
            await stream.send_all(answer + b"\n")
        place.answered()
        if len(line) > limits.CONTROL_LINE_BYTES_MAX:
            return


async def _next_line(stream: trio.SocketStream, buffer: bytearray) -> bytes | None:
    """The next line; None at the end. A line that is too long is returned cut to one byte more than the maximum."""
    searched = 0
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
            chunk = await stream.receive_some(_CHUNK_BYTES)
            if not chunk:
                return None
            buffer += chunk


async def _answer(line: bytes, dispatch: Dispatch, on_failure: Callable[[str, Exception], None] | None) -> bytes:
    request_id: JsonValue = None
    method = ""
    try:
        request = _parse(line)
        request_id = request.get("id")
        method, params = _checked(request)
        answer = msgspec.json.encode({"id": request_id, "result": await dispatch(method, params)})
        if len(answer) <= limits.CONTROL_RESPONSE_BYTES_MAX:
            return answer
        raise RefusedError(
            f"the answer has more than {limits.CONTROL_RESPONSE_BYTES_MAX} bytes; request fewer rows",
            Reason.LIMIT_EXCEEDED,
        )
    except (Exception, BaseExceptionGroup) as raised:
        failure = failure_of(raised)
        if failure is None:
            raise
        error = principal(failure)
        if not isinstance(error, Exception):
            raise
        known = error if isinstance(error, CrabnetError) else None
        if on_failure is not None and (known is None or isinstance(known, UsageError)):
            on_failure(method, error)
        return msgspec.json.encode({"id": request_id, "error": _error_object(known)})


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
