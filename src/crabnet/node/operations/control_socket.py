"""The listening end of the control socket: its file, and the connections of new clients."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
import stat
from pathlib import Path
from typing import Final

import trio

from crabnet import limits
from crabnet.errors import CrabnetError, DataDirDamagedError, StorageFailedError

_BACKLOG: Final = 256
_ACCEPT_RETRY_S: Final = 0.1
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def listening(path: Path) -> tuple[trio.socket.SocketType, int]:
    """The listening socket, and the inode number of its file. Raises StorageFailedError, DataDirDamagedError."""
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


def remove(path: Path, inode: int) -> None:
    """Remove the socket file, if it is still the one with this inode number."""
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except OSError:
        return  # A stale socket file is harmless, because the next node replaces it.


async def accept(listener: trio.socket.SocketType) -> trio.SocketStream:
    """The next connection. Waits while the process has no resources for one."""
    while True:
        try:
            connection, _ = await listener.accept()
            return trio.SocketStream(connection)
        except OSError as error:
            if error.errno == errno.EBADF:
                raise
            if error.errno in _OUT_OF_RESOURCES:
                await trio.sleep(_ACCEPT_RETRY_S)


async def listening_again(path: Path) -> tuple[trio.socket.SocketType, int]:
    """Like ``listening``, tried until it succeeds."""
    while True:
        try:
            return listening(path)
        except CrabnetError:
            await trio.sleep(limits.CONTROL_LOOK_MS / 1000)


async def until_removed(path: Path, scope: trio.CancelScope) -> None:
    """Cancel the scope once ``path`` does not exist any more."""
    while os.path.lexists(path):  # noqa: ASYNC110 - no event reports the removal
        await trio.sleep(limits.CONTROL_LOOK_MS / 1000)
    scope.cancel()
