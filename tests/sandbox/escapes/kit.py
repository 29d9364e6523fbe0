"""Attempts to get out of a sandbox: a program that runs inside one, as a stranger's command would.

Standard library only, in one file: its text is the command. ``ESCAPES`` holds the probes by name; each calls
``attempt`` for every way it tries. An attempt that raises ``OSError`` or answers False was held off; everything else
counts as having got out. The program prints what each probe made of it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

Host = dict[str, Any]
"""What the test tells about the host, see ``tests.sandbox.node``: where the node's treasures lie."""
Attempt = Callable[[str, Callable[[], object]], None]
Probe = Callable[[Host, Attempt], None]

ESCAPES: dict[str, Probe] = {}
ALONE: set[str] = set()
"""Probes that would hurt others in the same sandbox."""


def escape(function: Probe) -> Probe:
    ESCAPES[function.__name__] = function
    return function


def alone(function: Probe) -> Probe:
    ALONE.add(function.__name__)
    return escape(function)


def read(path: str | int) -> bytes:
    fd = path if isinstance(path, int) else os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    return os.read(fd, 65536)


def write(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))


def call(host: Host, name: str, *arguments: int | bytes | None) -> int:
    """A system call by number. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    values = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(libc.syscall(ctypes.c_long(host["calls"][name]), *values))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def listed(path: str) -> object:
    return bool(os.listdir(path))


def then(*actions: Callable[[], object]) -> object:
    """The answer of the last of them."""
    return [action() for action in actions][-1]


def visible_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def is_node(host: Host) -> bool:
    """Whether the process of that number is the node, not one of this sandbox."""
    return host["reversed_marker"][::-1].encode() in read(f"/proc/{host['pid']}/cmdline")


own_descriptors: set[int] = set()
"""Opened by this program itself."""
