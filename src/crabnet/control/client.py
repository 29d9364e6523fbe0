"""One call to a running node over its control socket (docs/CONTROL.md).

The code is synchronous and uses only the standard library, because every command runs it first.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from crabnet import limits
from crabnet.errors import ERRORS_BY_EXIT_CODE, CrabnetError, NetworkError, NodeTimeoutError, Reason, UsageError

JsonValue = None | bool | int | str | list["JsonValue"] | dict[str, "JsonValue"]

SOCKET_NAME: Final = "control.sock"
PROTOCOL_VERSION: Final = 1
_CONNECT_RETRY_S: Final = 0.02
_CHUNK_BYTES: Final = 256 * 1024
_UCRED: Final = struct.Struct("3i")
"""Process, user and group of the other end (unix(7), SO_PEERCRED)."""


class NodeNotRunningError(NetworkError):
    """No node serves the data dir: there is no socket, or no process listens on it any more."""

    default_reason = Reason.NODE_UNREACHABLE


def call(data_dir: Path, method: str, params: Mapping[str, JsonValue], timeout_ms: int | None) -> JsonValue:
    """Send a request to the node that owns ``data_dir`` and return its result.

    A ``timeout_ms`` of None waits without a limit. Raises NodeNotRunningError when there is no node, UsageError for a
    request beyond the bound, and the CrabnetError that the node answers. Raises NodeTimeoutError when no answer comes;
    it is then unknown whether the operation took effect.
    """
    line = _request_line(method, params)
    deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            _connect(sock, data_dir, deadline)
            sock.settimeout(_left_s(deadline))
            sock.sendall(line)
            answer = _read_line(sock, deadline)
        except TimeoutError:
            raise NodeTimeoutError(
                f"the node did not answer {method} within {timeout_ms} ms; it is not known whether it took effect"
            ) from None
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
    if not answer:
        raise NodeTimeoutError(
            f"the node closed the connection before it answered {method}; it is not known whether it took effect",
            Reason.NODE_STOPPING,
        )
    return _unwrap(_parsed(answer))


class NodeProcess:
    """The process of the node that owns ``data_dir``, to wait for its end. Use it as a context manager.

    ``process_id`` is 0 if the process is in another container, so that its id is not known here. Entering raises
    NodeNotRunningError when there is no node.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._fd = -1
        self.process_id = 0

    def __enter__(self) -> Self:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            _connect(sock, self._data_dir, None)
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            self.process_id = _UCRED.unpack(credentials)[0]
            if self.process_id:
                try:
                    # The node holds the connection, so this is its process and not a later one with the same id.
                    self._fd = os.pidfd_open(self.process_id)
                except OSError:
                    self._fd = -1
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def wait(self, timeout_ms: int) -> bool:
        """Wait until the process has ended, or nothing serves the socket if the process cannot be watched.

        Returns False if that takes longer than ``timeout_ms``.
        """
        if self._fd >= 0:
            ended = select.poll()
            ended.register(self._fd, select.POLLIN)
            return bool(ended.poll(timeout_ms))
        deadline = time.monotonic() + timeout_ms / 1000
        while time.monotonic() < deadline:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                    _connect(sock, self._data_dir, deadline)
            except NodeNotRunningError:
                return True
            except TimeoutError:
                return False
            time.sleep(_CONNECT_RETRY_S)
        return False


def stream(
    data_dir: Path, method: str, params: Mapping[str, JsonValue], idle_ms: int | None = None
) -> Iterator[JsonValue]:
    """The items of a stream of the node that owns ``data_dir``, as they come. Closing the iterator ends the stream.

    With ``idle_ms``, yields None whenever no item has come for so long. Raises NodeNotRunningError when there is no
    node, and the CrabnetError that the node answers. Raises NodeTimeoutError if the node ends before the stream does.
    """
    line = _request_line(method, params)
    buffer = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            _connect(sock, data_dir, None)
            sock.settimeout(None if idle_ms is None else idle_ms / 1000)
            sock.sendall(line)
            while True:
                try:
                    chunk = sock.recv(_CHUNK_BYTES)
                except TimeoutError:
                    yield None
                    continue
                if not chunk:
                    break
                buffer += chunk
                while (end := buffer.find(b"\n")) >= 0:
                    answer = _parsed(bytes(buffer[:end]))
                    del buffer[: end + 1]
                    if "item" not in answer:
                        _unwrap(answer)
                        return
                    yield answer["item"]
                if len(buffer) > limits.CONTROL_RESPONSE_BYTES_MAX:
                    raise CrabnetError(f"an item has more than {limits.CONTROL_RESPONSE_BYTES_MAX} bytes")
        except (BrokenPipeError, ConnectionResetError):
            pass
    raise NodeTimeoutError(f"the node ended before the stream of {method}", Reason.NODE_STOPPING)


def _request_line(method: str, params: Mapping[str, JsonValue]) -> bytes:
    request = {"v": PROTOCOL_VERSION, "id": 1, "method": method, "params": dict(params)}
    line = json.dumps(request, separators=(",", ":")).encode("utf-8") + b"\n"
    if len(line) > limits.CONTROL_LINE_BYTES_MAX:
        raise UsageError(
            f"the request has {len(line)} bytes; at most {limits.CONTROL_LINE_BYTES_MAX} are allowed", Reason.TOO_LARGE
        )
    return line


def _connect(sock: socket.socket, data_dir: Path, deadline: float | None) -> None:
    path = data_dir / SOCKET_NAME
    waited = False
    try:
        with short_socket_path(path) as address:
            while True:
                _left_s(deadline)
                sock.setblocking(False)
                try:
                    sock.connect(address)
                    return
                except BlockingIOError:
                    # The queue of waiting connections is full (unix(7), EAGAIN).
                    waited = True
                    time.sleep(_CONNECT_RETRY_S)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        if waited:
            raise NodeTimeoutError(
                f"the node on {data_dir} ended before it took the request; nothing was done", Reason.NODE_STOPPING
            ) from None
        raise NodeNotRunningError(f"no node runs on {data_dir}; start one with `crabnet listen`") from None
    except TimeoutError:
        raise
    except OSError as error:
        if error.errno in {errno.ENOTSOCK, errno.EPROTOTYPE}:
            raise NodeNotRunningError(f"{path} is not the control socket of a node") from None
        if error.errno == errno.ENAMETOOLONG or (error.errno == errno.EACCES and not os.access(data_dir, os.X_OK)):
            # The code that opens the data dir next meets the same error and reports it.
            raise NodeNotRunningError(f"{data_dir} cannot be opened: {error.strerror}") from None
        raise NetworkError(f"the node at {path} cannot be reached: {error.strerror}", Reason.NODE_UNREACHABLE) from None


@contextmanager
def short_socket_path(path: Path) -> Iterator[str]:
    """A name for ``path`` that fits into a socket address, however long ``path`` is (Linux).

    ``sun_path`` holds 107 bytes (unix(7)). For a longer path the name goes through a descriptor of its directory.
    Raises OSError when the directory cannot be opened.
    """
    if len(os.fsencode(path)) <= limits.SOCKET_PATH_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _left_s(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _read_line(sock: socket.socket, deadline: float | None) -> bytes:
    """Read up to the newline; empty when the connection ends before it."""
    chunks: list[bytes] = []
    size = 0
    while True:
        sock.settimeout(_left_s(deadline))
        chunk = sock.recv(_CHUNK_BYTES)
        if not chunk:
            return b""
        chunks.append(chunk)
        size += len(chunk)
        if b"\n" in chunk:
            return b"".join(chunks)
        if size > limits.CONTROL_RESPONSE_BYTES_MAX:
            raise CrabnetError(f"the node's answer has more than {limits.CONTROL_RESPONSE_BYTES_MAX} bytes")


def _parsed(line: bytes) -> dict[str, JsonValue]:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or len(answer.keys() & {"result", "error", "item"}) != 1:
        raise CrabnetError(
            "the node's answer does not follow the control protocol; check that the node runs the same version"
        )
    return answer


def _unwrap(answer: dict[str, JsonValue]) -> JsonValue:
    if "error" in answer:
        raise error_from_json(answer["error"])
    return answer.get("result")


def error_from_json(value: JsonValue) -> CrabnetError:
    """The exception that an error object describes."""
    if not isinstance(value, dict):
        return CrabnetError("the node answered with a malformed error")
    reasons = {reason.value: reason for reason in Reason}
    reason = reasons.get(str(value.get("reason")), Reason.INTERNAL)
    classes = {int(code): error for code, error in ERRORS_BY_EXIT_CODE.items()}
    exit_code = value.get("exit_code")
    error = classes.get(exit_code, CrabnetError) if isinstance(exit_code, int) else CrabnetError
    return error(str(value.get("message")), reason)


def error_to_json(error: CrabnetError) -> dict[str, JsonValue]:
    """The error object of the control protocol and of ``--json``."""
    return {"reason": error.reason.value, "message": error.message, "exit_code": int(error.exit_code)}
