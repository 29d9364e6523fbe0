"""Restrictions that a process permanently puts on itself before it executes a run: Landlock and a system call filter.

Landlock (landlock(7)) needs no privilege and works where namespaces are forbidden. It covers opening, executing,
making, removing and moving files, TCP, and, in newer kernels, abstract Unix sockets and signals. It does not cover
modes, owners, times, attributes, stat(2), Unix sockets with a path, or descriptors that are already open. The filter of
``seccomp.SyscallProfile.LANDLOCK`` refuses these calls, except stat, and the caller closes open descriptors. A run
still shares resources with other processes and can see the names of files: see docs/SECURITY.md.

Standard library only and no threads: the supervisor imports this module.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from functools import cache
from typing import Final, NamedTuple

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG, _MAKE_FIFO, _MAKE_SYM = 1 << 7, 1 << 8, 1 << 10, 1 << 12
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FS_RIGHTS_BY_ABI: Final = (0, (1 << 13) - 1, (1 << 14) - 1, (1 << 15) - 1, (1 << 15) - 1, (1 << 16) - 1)
"""All rights over files in each ABI. The index is the ABI. Later ABIs have the same rights as the last one here."""
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
"""The only rights that a rule for something other than a directory may grant."""
_ABI_NET, _ABI_SCOPE = 4, 6
_NET_RIGHTS: Final = 0b11
"""The rights to bind and connect TCP sockets."""
_SCOPES: Final = 0b11
"""Restricts abstract Unix sockets and signals to the processes of the run."""

READ: Final = _READ_FILE | _READ_DIR
READ_EXECUTE: Final = READ | _EXECUTE
READ_WRITE: Final = READ | _WRITE_FILE | _TRUNCATE
"""For existing files, such as ``/dev/null``."""
WORK: Final = (
    READ_EXECUTE | READ_WRITE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_FIFO | _MAKE_SYM | _REFER
)
"""Everything except device nodes, sockets and the controls of devices."""


class Grant(NamedTuple):
    """Rights over a file, or over a directory and everything beneath it."""

    place: str | int
    """A path or an open descriptor. Symbolic links in a path are followed. A missing path grants nothing."""
    rights: int
    """``READ``, ``READ_EXECUTE``, ``READ_WRITE`` or ``WORK``."""


def abi_version() -> int:
    """Return the kernel's Landlock ABI, 0 when Landlock is missing or switched off (landlock(7))."""
    version = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_CREATE_RULESET_VERSION))
    return max(0, int(version))


def restrict(grants: Iterable[Grant]) -> int:
    """Restrict the calling thread, and everything that it starts, to ``grants``, and refuse TCP from ABI 4 on.

    Sets no_new_privs. Open descriptors keep their rights. Returns the ABI that was used. Raises ``OSError``, with
    ENOSYS if the kernel has no Landlock.
    """
    abi = abi_version()
    if abi == 0:
        raise OSError(errno.ENOSYS, "the kernel has no Landlock, or it is switched off")
    handled = _FS_RIGHTS_BY_ABI[min(abi, len(_FS_RIGHTS_BY_ABI) - 1)]
    attributes = struct.pack(
        "=QQQ", handled, _NET_RIGHTS if abi >= _ABI_NET else 0, _SCOPES if abi >= _ABI_SCOPE else 0
    )
    # Older kernels have a shorter structure. They refuse a longer one unless the rest is zero.
    ruleset = _call(_CREATE_RULESET, ctypes.c_char_p(attributes), ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    try:
        for grant in grants:
            _allow(ruleset, grant, handled)
        _set_no_new_privs()
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)
    return abi


def _allow(ruleset: int, grant: Grant, handled: int) -> None:
    if isinstance(grant.place, int):
        _add_rule(ruleset, grant.place, grant.rights & handled)
        return
    try:
        fd = os.open(grant.place, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        _add_rule(ruleset, fd, grant.rights & handled)
    finally:
        os.close(fd)


def _add_rule(ruleset: int, fd: int, rights: int) -> None:
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        rights &= _OF_FILES
    rule = struct.pack("=Qi", rights, fd)
    _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), ctypes.c_char_p(rule), ctypes.c_uint(0))


class _Program(ctypes.Structure):
    """``struct sock_fprog`` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install_filter(program: bytes) -> None:
    """Permanently put a filter of ``seccomp.filter_program`` on the calling thread and everything that it starts.

    Sets no_new_privs. Raises ``OSError``. Install it after ``restrict``.
    """
    argument = _Program(len(program) // 8, program)
    _set_no_new_privs()
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(argument))


def _set_no_new_privs() -> None:
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def prctl(option: int, value: int, address: int = 0) -> None:
    """Set an attribute of the calling thread or its process (prctl(2)). Raises ``OSError``."""
    arguments = (ctypes.c_ulong(value), ctypes.c_void_p(address), ctypes.c_ulong(0), ctypes.c_ulong(0))
    if _libc().prctl(ctypes.c_int(option), *arguments) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def _call(number: int, *arguments: ctypes.c_char_p | ctypes.c_size_t | ctypes.c_uint | ctypes.c_int) -> int:
    result = int(_libc().syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
