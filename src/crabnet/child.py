"""What a process does that a node has started: the other end of ``node.children``.

The node gives each child one socket, its lifeline, as file descriptor 0. The node first sends the length of what it
gives to the child (4 bytes, little endian) and then these bytes. The child's first line on it is its handshake:
``{"ready": {…}}`` or ``{"failed": {"reason", "message", "retry"}}``. From then on the two use the socket as they have
agreed. When the node closes its end, or dies, the child ends.

This module imports little, because every child waits for it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from importlib import import_module
from typing import Final, NoReturn

from crabnet.errors import Reason

LIFELINE_FD: Final = 0
LENGTH: Final = struct.Struct("<I")
"""The length of what the node gives to a child."""
_PR_SET_PDEATHSIG: Final = 1
_LOADER: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from importlib import import_module;"
    " module, _, name = sys.argv.pop(1).partition(':'); getattr(import_module(module), name)()"
)


class Retry(StrEnum):
    """What a child that cannot work says about another try."""

    SOON = "soon"
    """The cause may be gone at any moment: the pauses between tries grow."""
    SLOWLY = "slowly"
    """Somebody must do something first, such as end the program that uses the port: the pauses are long."""
    NEVER = "never"
    """Only a restart of the node can help."""


class Lifeline:
    """The child's end of the socket to its node."""

    def __init__(self, connection: socket.socket, given: bytes) -> None:
        self.socket = connection
        """A blocking socket. It is free for any use once ``ready`` has returned."""
        self.given = given
        """What the node has given to this child: its configuration, and secrets if it needs any."""
        self._greeted = False

    def ready(self, *, detail: str = "", addresses: Sequence[str] = ()) -> None:
        """Tell the node that this child works. Call it once, before any other use of the socket.

        ``detail`` is one line for the operator, ``addresses`` are those at which the child can be reached. Raises
        OSError if the node is gone.
        """
        self._greet({"ready": {"detail": detail, "addresses": list(addresses)}})

    def fail(self, reason: Reason, message: str, retry: Retry = Retry.SOON) -> NoReturn:
        """Tell the node instead of ``ready`` why this child cannot work, and end this process. Raises SystemExit."""
        self._greet({"failed": {"reason": reason.value, "message": message, "retry": retry.value}})
        raise SystemExit(1)

    def _greet(self, handshake: dict[str, object]) -> None:
        self._greeted = True
        self.socket.sendall(json.dumps(handshake).encode() + b"\n")

    def work(self, entry: str) -> None:
        """Call ``entry``, ``module:function``, with this lifeline. An error before the handshake is the handshake."""
        module, _, name = entry.partition(":")
        try:
            serve: Callable[[Lifeline], None] = getattr(import_module(module), name)
            serve(self)
        except ModuleNotFoundError as error:
            if self._greeted:
                raise
            self.fail(Reason.UNAVAILABLE, f"the Python module {error.name} is not installed", Retry.NEVER)
        except Exception as error:
            if not self._greeted:
                self._greet({"failed": {"reason": Reason.INTERNAL.value, "message": _brief(error)}})
            raise


def python_command(entry: str, *arguments: str) -> list[str]:
    """The command that calls ``entry``, ``module:function``, in a process with the interpreter and the module search
    path of this one, whatever the environment says. Raises FileNotFoundError if the interpreter is not known.
    """
    if not sys.executable:
        raise FileNotFoundError(errno.ENOENT, "this program does not know its Python interpreter")
    places = [os.path.abspath(place) for place in sys.path if place]  # noqa: PTH100 - most are no directories
    return [sys.executable, "-I", "-X", "utf8", "-c", _LOADER, json.dumps(places), entry, *arguments]


def main() -> None:
    """The program of every child. Its arguments are the entry, and how long an orderly end may take in milliseconds.

    SIGINT is ignored, because the node handles the signals of the terminal. SIGTERM asks for an orderly end: the
    watcher raises it when the lifeline ends.
    """
    entry, stop_ms = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection = _take()
    _end_with_node(connection, int(stop_ms))
    Lifeline(connection, _given(connection)).work(entry)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent dies. SIGKILL ends it also while it is stopped.

    More exactly: when the thread ends that has started this process. The node starts children in the thread of its
    loop, which ends last. The processes that a child starts do not inherit this. Raises OSError.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _take() -> socket.socket:
    """The lifeline at another descriptor, so that no process that this one starts inherits it as its input."""
    connection = socket.socket(fileno=os.dup(LIFELINE_FD))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, LIFELINE_FD)
    os.close(nothing)
    return connection


def _end_with_node(connection: socket.socket, stop_ms: int) -> None:
    """End this process when the node closes the lifeline or dies, also if it has died before this call."""
    die_with_parent()
    lifeline = select.poll()
    lifeline.register(os.dup(connection.fileno()), select.POLLRDHUP)
    if lifeline.poll(0):
        raise SystemExit(1)
    threading.Thread(target=_watch, args=(lifeline, stop_ms / 1000), daemon=True, name="lifeline").start()


def _watch(lifeline: select.poll, stop_s: float) -> None:
    lifeline.poll()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(stop_s)
    os.killpg(0, signal.SIGKILL)  # a child leads its own group


def _given(connection: socket.socket) -> bytes:
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    return _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    taken = b""
    while len(taken) < count:
        more = connection.recv(count - len(taken))
        if not more:
            raise SystemExit(1)  # the node is gone
        taken += more
    return taken


def _brief(error: Exception) -> str:
    """The type and the place of an error. Its text is left out, because it may hold secrets or what a stranger sent."""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        place = f" in {trace.tb_frame.f_globals.get('__name__', '?')}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return f"unexpected {type(error).__name__}{place}"
