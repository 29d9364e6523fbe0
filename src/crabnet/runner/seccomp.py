"""The system calls that a run may not make: builds seccomp(2) filters as classic BPF. Pure.

``filter_program`` returns the bytes for ``bwrap --seccomp FD`` and for ``landlock.install_filter``. A filter refuses
calls and hides nothing. Mount namespaces or ``landlock`` protect files.

Every profile refuses calls that lead out of a sandbox or into rarely used kernel code: namespaces, mounts, tracing,
keys, BPF, io_uring, modules, clocks, handles of files, special files, set-user-ID bits, and sockets other than those
that the profile names. Calls that are newer than this table fail with ENOSYS. Programs of a foreign architecture,
including 32-bit programs, are killed.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from enum import Enum
from functools import cache
from typing import Final, NamedTuple

from crabnet.runner.syscalls import SYSCALLS


class SyscallProfile(Enum):
    """The kind of confinement for which a filter is made."""

    STRICT = "strict"
    """For a run in its own namespaces, without a network."""
    NETWORK = "network"
    """For a run in its own namespaces, but in the host's network: TCP and UDP over IPv4 and IPv6."""
    LANDLOCK = "landlock"
    """For a run among the host's processes, behind ``landlock``. It also refuses what Landlock does not cover."""


class Comparison(Enum):
    """How an argument is compared. All except ``NOT_NULL`` compare its lower 32 bits, as the kernel does."""

    ANY_BIT = "any bit of value is set"
    EQUAL = "equal to value under mask"
    NOT_EQUAL = "not equal to value under mask"
    NOT_NULL = "any of 64 bits is set"


class Condition(NamedTuple):
    """One comparison with an argument of a system call. Arguments are counted from 0."""

    argument: int
    test: Comparison
    value: int = 0
    mask: int = 0xFFFF_FFFF


class Rule(NamedTuple):
    """``calls`` fail with ``error`` when all conditions ``when`` are true. Without conditions they always fail."""

    calls: str
    """Names, separated by white space."""
    error: int
    when: tuple[Condition, ...] = ()


_X32_BIT: Final = 0x4000_0000
_FIRST_UNKNOWN_CALL: Final = 457
"""The first call of Linux 6.7. Calls from here on were not reviewed. Their numbers are equal on all architectures."""

_CLONE_NAMESPACES: Final = 0x7E02_0000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. Only clone3 and unshare have NEWTIME."""
_O_MAKES_FILE: Final = 0o100 | 0o20000000
"""O_CREAT and __O_TMPFILE. open reads its mode argument only with one of these."""
_SET_ID_BITS: Final = 0o6000
_FILE_TYPE: Final = 0o170000
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_SEQPACKET, _SOCK_TYPE = 1, 2, 5, 0xF
_IPPROTO_TCP, _IPPROTO_UDP = 6, 17

_NEVER: Final = (
    Rule(
        "unshare setns mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick "
        "mount_setattr ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise process_mrelease "
        "migrate_pages move_pages bpf perf_event_open userfaultfd keyctl add_key request_key kexec_load "
        "kexec_file_load init_module finit_module delete_module reboot swapon swapoff syslog acct quotactl quotactl_fd "
        "name_to_handle_at open_by_handle_at iopl ioperm modify_ldt settimeofday clock_settime adjtimex clock_adjtime "
        "lookup_dcookie vhangup sethostname setdomainname fanotify_init fanotify_mark memfd_secret",
        errno.EPERM,
    ),
    # ENOSYS makes programs use older calls, whose arguments a filter can see.
    Rule("clone3 openat2 io_uring_setup io_uring_enter io_uring_register", errno.ENOSYS),
    Rule("create_module query_module get_kernel_syms nfsservctl _sysctl uselib ustat sysfs", errno.ENOSYS),
    Rule("clone", errno.EPERM, (Condition(0, Comparison.ANY_BIT, _CLONE_NAMESPACES),)),
    # Every change of the execution domain, except to 0, the default. The query is allowed.
    Rule(
        "personality",
        errno.EPERM,
        (Condition(0, Comparison.NOT_EQUAL, 0), Condition(0, Comparison.NOT_EQUAL, 0xFFFF_FFFF)),
    ),
    # Terminals: TIOCSTI types into one, TIOCLINUX pastes, TIOCCONS takes the console, TIOCSETD loads a discipline.
    *(
        Rule("ioctl", errno.EPERM, (Condition(1, Comparison.EQUAL, number),))
        for number in (0x5412, 0x541C, 0x541D, 0x5423)
    ),
    Rule("chmod fchmod", errno.EPERM, (Condition(1, Comparison.ANY_BIT, _SET_ID_BITS),)),
    Rule("fchmodat fchmodat2", errno.EPERM, (Condition(2, Comparison.ANY_BIT, _SET_ID_BITS),)),
    Rule("creat mknod", errno.EPERM, (Condition(1, Comparison.ANY_BIT, _SET_ID_BITS),)),
    Rule("mknodat", errno.EPERM, (Condition(2, Comparison.ANY_BIT, _SET_ID_BITS),)),
    *(Rule("mknod", errno.EPERM, (Condition(1, Comparison.EQUAL, kind, _FILE_TYPE),)) for kind in (0o020000, 0o060000)),
    *(
        Rule("mknodat", errno.EPERM, (Condition(2, Comparison.EQUAL, kind, _FILE_TYPE),))
        for kind in (0o020000, 0o060000)
    ),
    Rule(
        "open",
        errno.EPERM,
        (Condition(1, Comparison.ANY_BIT, _O_MAKES_FILE), Condition(2, Comparison.ANY_BIT, _SET_ID_BITS)),
    ),
    Rule(
        "openat",
        errno.EPERM,
        (Condition(2, Comparison.ANY_BIT, _O_MAKES_FILE), Condition(3, Comparison.ANY_BIT, _SET_ID_BITS)),
    ),
    # Connected pairs only. A socket of a datagram pair could send to the address of any other socket.
    Rule("socketpair", errno.EAFNOSUPPORT, (Condition(0, Comparison.NOT_EQUAL, _AF_UNIX),)),
    Rule(
        "socketpair",
        errno.EPERM,
        (
            Condition(1, Comparison.NOT_EQUAL, _SOCK_STREAM, _SOCK_TYPE),
            Condition(1, Comparison.NOT_EQUAL, _SOCK_SEQPACKET, _SOCK_TYPE),
        ),
    ),
)

_NO_SOCKETS: Final = (
    Rule("socket", errno.EAFNOSUPPORT),
    Rule("connect bind listen accept accept4", errno.EPERM),
)

# No Unix sockets: in the host's network namespace, sockets with abstract names reach the host's services.
_INTERNET_SOCKETS: Final = (
    Rule(
        "socket",
        errno.EAFNOSUPPORT,
        (Condition(0, Comparison.NOT_EQUAL, _AF_INET), Condition(0, Comparison.NOT_EQUAL, _AF_INET6)),
    ),
    Rule(
        "socket",
        errno.EPERM,
        (
            Condition(1, Comparison.NOT_EQUAL, _SOCK_STREAM, _SOCK_TYPE),
            Condition(1, Comparison.NOT_EQUAL, _SOCK_DGRAM, _SOCK_TYPE),
        ),
    ),
    Rule(
        "socket",
        errno.EPROTONOSUPPORT,
        (
            Condition(2, Comparison.NOT_EQUAL, 0),
            Condition(2, Comparison.NOT_EQUAL, _IPPROTO_TCP),
            Condition(2, Comparison.NOT_EQUAL, _IPPROTO_UDP),
        ),
    ),
)

# Calls on other processes of the same user, and on files by their path, that Landlock does not restrict.
_BESIDE_LANDLOCK: Final = (
    Rule(
        "chmod fchmodat fchmodat2 chown lchown fchownat utime utimes futimesat "
        "setxattr lsetxattr removexattr lremovexattr inotify_add_watch",
        errno.EPERM,
    ),
    Rule("utimensat", errno.EPERM, (Condition(1, Comparison.NOT_NULL),)),
    Rule(
        "prlimit64 sched_setaffinity sched_setscheduler sched_setparam sched_setattr",
        errno.EPERM,
        (Condition(0, Comparison.NOT_EQUAL, 0),),
    ),
    *(
        Rule(call, errno.EPERM, (Condition(argument, Comparison.NOT_EQUAL, value),))
        # Only PRIO_PROCESS and IOPRIO_WHO_PROCESS of the caller itself are allowed.
        for call, argument, value in (("setpriority", 0, 0), ("setpriority", 1, 0), ("ioprio_set", 0, 1))
    ),
    Rule("ioprio_set", errno.EPERM, (Condition(1, Comparison.NOT_EQUAL, 0),)),
    # Objects that would outlive the run.
    Rule("shmget shmat shmctl semget semop semctl msgget msgsnd msgrcv msgctl mq_open mq_unlink", errno.EPERM),
)
# Memory that the supervisor cannot count by watching processes, and calls that hide a process from it. The supervisor
# cannot inspect a process that is not "dumpable" (PR_SET_DUMPABLE, proc(5)).
_UNCOUNTED: Final = (
    Rule("memfd_create", errno.ENOSYS),
    Rule("shmget shmat shmctl", errno.EPERM),
    Rule("prctl", errno.EPERM, (Condition(0, Comparison.EQUAL, 4), Condition(1, Comparison.NOT_EQUAL, 1))),
)
_TRUNCATE_BY_PATH: Final = Rule("truncate", errno.EPERM)
_SIGNALS_TO_OTHERS: Final = (
    Rule("kill", errno.EPERM, (Condition(0, Comparison.NOT_EQUAL, 0),)),
    Rule("tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal", errno.EPERM),
    # F_SETOWN, F_SETSIG, F_SETOWN_EX, FIOSETOWN, SIOCSPGRP: they send a signal through an input event.
    *(Rule("fcntl", errno.EPERM, (Condition(1, Comparison.EQUAL, command),)) for command in (8, 10, 15)),
    *(Rule("ioctl", errno.EPERM, (Condition(1, Comparison.EQUAL, command),)) for command in (0x8901, 0x8902)),
)
_LANDLOCK_ABI_TRUNCATE: Final = 3
_LANDLOCK_ABI_SIGNALS: Final = 6

_AUDIT_ARCH: Final = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
MACHINES: Final = tuple(_AUDIT_ARCH)
"""The machines for which there are filters, as ``platform.machine()`` names them."""

_LD, _JEQ, _JGE, _JSET, _AND, _RET = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_RET_ALLOW, _RET_ERRNO, _RET_KILL_PROCESS = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16


class _Instruction(NamedTuple):
    """``struct sock_filter`` of linux/filter.h."""

    code: int
    jump_true: int
    jump_false: int
    value: int


def rules_of(
    profile: SyscallProfile, landlock_abi: int = _LANDLOCK_ABI_SIGNALS, *, counted: bool = True
) -> tuple[Rule, ...]:
    """Return the rules of a profile. The first rule for a call whose conditions are true decides.

    ``landlock_abi`` matters only for ``LANDLOCK``: the rules refuse what an older Landlock does not cover. ``counted``
    is true if a control group limits the memory of the run. Without one, memory that belongs to no process is refused.
    """
    rest = () if counted else _UNCOUNTED
    if profile is SyscallProfile.NETWORK:
        return (*_NEVER, *_INTERNET_SOCKETS, *rest)
    if profile is SyscallProfile.STRICT:
        return (*_NEVER, *_NO_SOCKETS, *rest)
    older: tuple[Rule, ...] = ()
    if landlock_abi < _LANDLOCK_ABI_TRUNCATE:
        older += (_TRUNCATE_BY_PATH,)
    if landlock_abi < _LANDLOCK_ABI_SIGNALS:
        older += _SIGNALS_TO_OTHERS
    return (*_NEVER, *_NO_SOCKETS, *_BESIDE_LANDLOCK, *older, *rest)


@cache
def filter_program(
    profile: SyscallProfile,
    *,
    machine: str | None = None,
    landlock_abi: int = _LANDLOCK_ABI_SIGNALS,
    counted: bool = True,
) -> bytes:
    """Return the filter as an array of ``struct sock_filter``, in the byte order of x86_64 and aarch64.

    ``landlock_abi`` and ``counted`` are those of ``rules_of``. ``machine`` is one of ``MACHINES``, by default this
    machine. Raises ``OSError`` (ENOSYS) for other machines.
    """
    machine = os.uname().machine if machine is None else machine
    if machine not in _AUDIT_ARCH:
        raise OSError(errno.ENOSYS, f"there is no system call filter for {machine} machines")
    rules_by_number: dict[int, list[Rule]] = {}
    for rule in rules_of(profile, landlock_abi, counted=counted):
        for name in rule.calls.split():
            number = SYSCALLS[name].x86_64 if machine == "x86_64" else SYSCALLS[name].aarch64
            if number is not None:
                rules_by_number.setdefault(number, []).append(rule)
    program = [
        _Instruction(_LD, 0, 0, _OFFSET_ARCH),
        _Instruction(_JEQ, 1, 0, _AUDIT_ARCH[machine]),
        _Instruction(_RET, 0, 0, _RET_KILL_PROCESS),
        _Instruction(_LD, 0, 0, _OFFSET_NUMBER),
    ]
    if machine == "x86_64":
        program += [_Instruction(_JGE, 0, 1, _X32_BIT), _refusal(errno.ENOSYS)]
    program += [_Instruction(_JGE, 0, 1, _FIRST_UNKNOWN_CALL), _refusal(errno.ENOSYS)]
    for number, rules in rules_by_number.items():
        body = list(_body(rules))
        program += [_Instruction(_JEQ, 0, len(body), number), *body]
    program.append(_Instruction(_RET, 0, 0, _RET_ALLOW))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _body(rules: list[Rule]) -> Iterator[_Instruction]:
    for rule in rules:
        tests = [instruction for condition in rule.when for instruction in _test(condition)]
        for index, instruction in enumerate(tests):
            yield _linked(instruction, to_next_rule=len(tests) - index)
        yield _refusal(rule.error)
        if not rule.when:
            return
    yield _Instruction(_RET, 0, 0, _RET_ALLOW)


_FAIL: Final = 255
"""A placeholder for a jump to the next rule, until its distance is known."""


def _test(condition: Condition) -> Iterator[_Instruction]:
    low = _OFFSET_ARGUMENTS + 8 * condition.argument
    yield _Instruction(_LD, 0, 0, low)
    if condition.mask != 0xFFFF_FFFF:
        yield _Instruction(_AND, 0, 0, condition.mask)
    match condition.test:
        case Comparison.ANY_BIT:
            yield _Instruction(_JSET, 0, _FAIL, condition.value)
        case Comparison.EQUAL:
            yield _Instruction(_JEQ, 0, _FAIL, condition.value)
        case Comparison.NOT_EQUAL:
            yield _Instruction(_JEQ, _FAIL, 0, condition.value)
        case Comparison.NOT_NULL:
            yield _Instruction(_JEQ, 0, 2, 0)
            yield _Instruction(_LD, 0, 0, low + 4)
            yield _Instruction(_JEQ, _FAIL, 0, 0)


def _linked(instruction: _Instruction, to_next_rule: int) -> _Instruction:
    return instruction._replace(
        jump_true=to_next_rule if instruction.jump_true == _FAIL else instruction.jump_true,
        jump_false=to_next_rule if instruction.jump_false == _FAIL else instruction.jump_false,
    )


def _refusal(error: int) -> _Instruction:
    return _Instruction(_RET, 0, 0, _RET_ERRNO | error)
