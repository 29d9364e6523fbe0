"""System call filters: programs run under them, and their meaning on both architectures."""

from __future__ import annotations

import errno
import json
import platform
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.runner.seccomp import MACHINES, Comparison, Condition, Rule, SyscallProfile, filter_program, rules_of
from crabnet.runner.syscalls import SYSCALLS

EVERYWHERE = tuple(SyscallProfile)
STRICT, NETWORK, LANDLOCK = EVERYWHERE
here = pytest.mark.skipif(platform.machine() not in MACHINES, reason=f"no filter for {platform.machine()}")

PRELUDE = """
import ctypes, errno, json, os, resource, signal, socket, subprocess, sys, threading, time
from crabnet.runner.landlock import install_filter
libc = ctypes.CDLL(None, use_errno=True)
work = sys.argv[2]
os.chdir(work)
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "ok"
def attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
if sys.argv[1]:
    install_filter(bytes.fromhex(sys.argv[1]))
"""


def under(program: bytes, code: str, work: Path) -> subprocess.CompletedProcess[str]:
    """Run Python ``code`` under a filter; nothing when ``program`` is empty."""
    arguments = [sys.executable, "-c", PRELUDE + code, program.hex(), str(work)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)


def answers(program: bytes, attempts: dict[str, str], work: Path) -> dict[str, str]:
    body = ", ".join(f"{name!r}: {expression}" for name, expression in attempts.items())
    done = under(program, f"print(json.dumps({{{body}}}))", work)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@here
@pytest.mark.parametrize("profile", EVERYWHERE)
def test_calls_that_lead_out_are_refused(profile: SyscallProfile, tmp_path: Path) -> None:
    """Every call that is refused whatever its arguments, made with arguments that could do no harm."""
    expected = {
        name: errno.errorcode[rule.error]
        for rule in rules_of(profile)
        if not rule.when
        for name in rule.calls.split()
        if SYSCALLS[name][MACHINES.index(platform.machine())] is not None
    }

    numbers = {name: SYSCALLS[name][MACHINES.index(platform.machine())] for name in expected}
    found = answers(
        filter_program(profile),
        {name: f"call({number}, -1, -1, -1, -1, -1)" for name, number in numbers.items()},
        tmp_path,
    )

    assert found == expected
    assert {"mount", "ptrace", "bpf", "io_uring_setup", "keyctl", "setns", "open_by_handle_at"} <= set(found)


ATTEMPTS = {
    "new user namespace by clone": ("call(SYS_clone, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)", "EPERM"),
    "new mount namespace by clone": ("call(SYS_clone, 0x00020000 | signal.SIGCHLD, 0, 0, 0, 0)", "EPERM"),
    "another personality": ("call(SYS_personality, 0x0040000)", "EPERM"),
    "asking for the personality": ("call(SYS_personality, 0xffffffff)", "ok"),
    "typing into a terminal": ("call(SYS_ioctl, 0, 0x5412, 0)", "EPERM"),
    "typing, with high bits that the kernel ignores": ("call(SYS_ioctl, 0, 0x100005412, 0)", "EPERM"),
    "pasting into a console": ("call(SYS_ioctl, 0, 0x541c, 0)", "EPERM"),
    "opening with a mode": ("attempt(lambda: os.close(os.open('plain', os.O_CREAT | os.O_WRONLY, 0o755)))", "ok"),
    "opening a set-user-ID file": (
        "attempt(lambda: os.open('suid', os.O_CREAT | os.O_WRONLY, 0o4755))",
        "EPERM",
    ),
    "an unnamed set-group-ID file": ("attempt(lambda: os.open('.', os.O_TMPFILE | os.O_RDWR, 0o2755))", "EPERM"),
    "opening what is there, mode unread": ("call(SYS_openat, -100, b'/dev/null', 0, 0o6777)", "ok"),
    "set-user-ID by fchmod": ("attempt(lambda: os.fchmod(os.open('f', os.O_CREAT), 0o4711))", "EPERM"),
    "fchmod": ("attempt(lambda: os.fchmod(os.open('f', os.O_CREAT), 0o711))", "ok"),
    "set-user-ID by chmod": ("attempt(lambda: os.chmod('f', 0o4711))", "EPERM"),
    "set-group-ID by fchmodat2": ("call(SYS_fchmodat2, -100, b'f', 0o2711, 0)", "EPERM"),
    "a set-user-ID file by mknod": ("attempt(lambda: os.mknod('n', 0o104755))", "EPERM"),
    "a character device": ("attempt(lambda: os.mknod('n', 0o020666, os.makedev(1, 5)))", "EPERM"),
    "a block device": ("attempt(lambda: os.mknod('n', 0o060666, os.makedev(7, 0)))", "EPERM"),
    "a fifo": ("attempt(lambda: os.mkfifo('fifo'))", "ok"),
    "starting a program": ("attempt(lambda: subprocess.run(['true'], check=True))", "ok"),
    "starting a thread": ("attempt(lambda: threading.Thread(target=int).start())", "ok"),
    "a pair of sockets": ("attempt(socket.socketpair)", "ok"),
    "a pair of datagram sockets": ("attempt(lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))", "EPERM"),
    "packets": ("attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))", "EAFNOSUPPORT"),
    "netlink": ("attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))", "EAFNOSUPPORT"),
    "virtual machine sockets": ("attempt(lambda: socket.socket(40, socket.SOCK_STREAM))", "EAFNOSUPPORT"),
    "kernel cryptography": ("attempt(lambda: socket.socket(38, socket.SOCK_SEQPACKET))", "EAFNOSUPPORT"),
    "a Unix socket": ("attempt(lambda: socket.socket(socket.AF_UNIX))", "EAFNOSUPPORT"),
    "a call from the future": ("call(460, -1)", "ENOSYS"),
}
INTERNET = {
    "TCP": "attempt(lambda: socket.socket(socket.AF_INET))",
    "UDP over IPv6": "attempt(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))",
}
BESIDE = {
    "chmod of a path": ("attempt(lambda: os.chmod('f', 0o711))", "EPERM"),
    "chown of a path": ("attempt(lambda: os.chown('f', 1, 1))", "EPERM"),
    "times of a path": ("attempt(lambda: os.utime('f'))", "EPERM"),
    "times of a descriptor": ("attempt(lambda: os.utime(os.open('f', os.O_WRONLY)))", "ok"),
    "attributes of a path": ("attempt(lambda: os.setxattr('f', 'user.x', b''))", "EPERM"),
    "limits of another process": (
        "attempt(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0)))",
        "EPERM",
    ),
    "own limits": ("attempt(lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))", "ok"),
    "priority of all processes of the user": ("attempt(lambda: os.setpriority(os.PRIO_USER, 0, 1))", "EPERM"),
    "priority of another process": ("attempt(lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 1))", "EPERM"),
    "own priority": ("attempt(lambda: os.setpriority(os.PRIO_PROCESS, 0, 1))", "ok"),
    "processors of another process": ("attempt(lambda: os.sched_setaffinity(os.getppid(), {0}))", "EPERM"),
    "shared memory": ("call(SYS_shmget, 0, 4096, 0o1600)", "EPERM"),
}
OLD = {
    "a signal to another": ("attempt(lambda: os.kill(os.getppid(), 0))", "EPERM"),
    "a signal to a descriptor": ("attempt(lambda: signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0))", "EPERM"),
    "a signal by input": ("call(SYS_fcntl, 0, 8, os.getppid())", "EPERM"),
    "truncating by path": ("attempt(lambda: os.truncate('f', 0))", "EPERM"),
}


def numbered(expression: str) -> str:
    index = MACHINES.index(platform.machine())
    return re.sub(r"SYS_(\w+)", lambda name: str(SYSCALLS[name[1]][index]), expression)


@here
@pytest.mark.parametrize("profile", EVERYWHERE)
def test_arguments_decide(profile: SyscallProfile, tmp_path: Path) -> None:
    table = dict(ATTEMPTS)
    for name, expression in INTERNET.items():
        table[name] = (expression, "ok" if profile is NETWORK else "EAFNOSUPPORT")
    if profile is LANDLOCK:
        table |= BESIDE

    found = answers(filter_program(profile), {name: numbered(made) for name, (made, _) in table.items()}, tmp_path)

    assert found == {name: answer for name, (_, answer) in table.items()}


HARMLESS = (
    "another personality",
    "opening a set-user-ID file",
    "set-user-ID by fchmod",
    "set-user-ID by chmod",
    "a set-user-ID file by mknod",
    "a pair of datagram sockets",
    "a Unix socket",
    "chmod of a path",
    "times of a path",
    "limits of another process",
    "processors of another process",
    *OLD,
)


@here
def test_without_a_filter_the_same_attempts_succeed(tmp_path: Path) -> None:
    """Or the refusals above would prove nothing."""
    table = ATTEMPTS | BESIDE | OLD
    left = {name: numbered(table[name][0]) for name in HARMLESS}

    found = answers(b"", {"f": "attempt(lambda: os.open('f', os.O_CREAT, 0o600))"} | left, tmp_path)

    assert set(found.values()) == {"ok"}, found


@here
def test_an_older_landlock_leaves_more_to_the_filter(tmp_path: Path) -> None:
    attempts = {"f": "attempt(lambda: os.open('f', os.O_CREAT))"} | {
        name: numbered(made) for name, (made, _) in OLD.items()
    }

    old = answers(filter_program(LANDLOCK, landlock_abi=2), attempts, tmp_path)
    new = answers(filter_program(LANDLOCK, landlock_abi=6), attempts, tmp_path)

    assert old == {"f": "ok"} | {name: answer for name, (_, answer) in OLD.items()}
    assert set(new.values()) == {"ok"}


@here
def test_memory_that_nobody_counts_is_refused(tmp_path: Path) -> None:
    attempts = {
        "memfd": "attempt(lambda: os.close(os.memfd_create('x')))",
        "hiding": numbered("call(SYS_prctl, 4, 0, 0, 0, 0)"),
        "showing": numbered("call(SYS_prctl, 4, 1, 0, 0, 0)"),
    }

    for profile in EVERYWHERE:
        assert answers(filter_program(profile, counted=False), attempts, tmp_path) == {
            "memfd": "ENOSYS",
            "hiding": "EPERM",
            "showing": "ok",
        }
        assert set(answers(filter_program(profile), attempts, tmp_path).values()) == {"ok"}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="not an x86_64 machine")
@pytest.mark.parametrize("profile", EVERYWHERE)
def test_x32_is_refused_and_32_bit_programs_are_killed(profile: SyscallProfile, tmp_path: Path) -> None:
    getpid_x32 = under(filter_program(profile), "print(call(0x40000000 + 39))", tmp_path)
    assert getpid_x32.stdout == "ENOSYS\n"

    # mov $20, %eax (getpid of i386); int $0x80; ret
    enter = """
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000cd80c3"))
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""
    if under(b"", enter, tmp_path).returncode != 0:
        pytest.skip("this kernel runs no 32-bit programs (CONFIG_IA32_EMULATION)")
    assert under(filter_program(profile), enter, tmp_path).returncode == -signal.SIGSYS


def test_other_machines_have_no_filter() -> None:
    with pytest.raises(OSError, match="riscv64") as caught:
        filter_program(STRICT, machine="riscv64")
    assert caught.value.errno == errno.ENOSYS


HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_those_of_the_kernel_headers(machine: str) -> None:
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"no kernel header {header}")
    text = re.sub(r"^#define __NR_\w+ __NR3264_\w+$", "", header.read_text(), flags=re.MULTILINE)
    listed = {name: int(number) for name, number in re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", text, re.M)}
    newest = max(listed.values())
    ours = {name: call[MACHINES.index(machine)] for name, call in SYSCALLS.items()}

    assert {name: number for name, number in ours.items() if number is None or number <= newest} == {
        name: listed.get(name) for name, number in ours.items() if number is None or number <= newest
    }


# --- the meaning of a program, also for the architecture that this machine is not --------------------------

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def run_filter(program: bytes, arch: int, number: int, arguments: list[int]) -> int:
    """What the kernel would do: the few instructions of classic BPF that filters use (linux/filter.h)."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *arguments)
    at = accumulator = 0
    while True:
        code, jump_true, jump_false, value = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x15:
                at += jump_true if accumulator == value else jump_false
            case 0x35:
                at += jump_true if accumulator >= value else jump_false
            case 0x45:
                at += jump_true if accumulator & value else jump_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(code)


def holds(condition: Condition, arguments: list[int]) -> bool:
    argument = arguments[condition.argument]
    low = argument & 0xFFFFFFFF
    match condition.test:
        case Comparison.ANY_BIT:
            return low & condition.value != 0
        case Comparison.EQUAL:
            return low & condition.mask == condition.value
        case Comparison.NOT_EQUAL:
            return low & condition.mask != condition.value
        case Comparison.NOT_NULL:
            return argument != 0


def verdict(rules: tuple[Rule, ...], machine: str, number: int, arguments: list[int]) -> int:
    if number >= 457:
        return 0x50000 | errno.ENOSYS
    for rule in rules:
        numbers = [SYSCALLS[name][MACHINES.index(machine)] for name in rule.calls.split()]
        if number in numbers and all(holds(condition, arguments) for condition in rule.when):
            return 0x50000 | rule.error
    return 0x7FFF0000


VALUES = sorted(
    {c.value for profile in EVERYWHERE for rule in rules_of(profile, 1, counted=False) for c in rule.when}
    | {0, 1, 2, 0o644, 0o100644, 0o4755}
)
ARGUMENT = st.one_of(
    st.sampled_from(VALUES),
    st.sampled_from(VALUES).map(lambda value: value | 1 << 35),
    st.tuples(st.sampled_from(VALUES), st.sampled_from(VALUES)).map(lambda pair: pair[0] | pair[1]),
    st.integers(0, 2**64 - 1),
)


@given(
    profile=st.sampled_from(EVERYWHERE),
    machine=st.sampled_from(MACHINES),
    abi=st.integers(1, 8),
    counted=st.booleans(),
    name=st.sampled_from(sorted(SYSCALLS)),
    other=st.none() | st.integers(0, 600),
    arguments=st.lists(ARGUMENT, min_size=6, max_size=6),
)
def test_a_program_means_its_rules(
    profile: SyscallProfile, machine: str, abi: int, counted: bool, name: str, other: int | None, arguments: list[int]
) -> None:
    program = filter_program(profile, machine=machine, landlock_abi=abi, counted=counted)
    number = SYSCALLS[name][MACHINES.index(machine)] if other is None else other
    if number is None:
        return

    assert run_filter(program, ARCH[machine], number, arguments) == verdict(
        rules_of(profile, abi, counted=counted), machine, number, arguments
    )
    assert run_filter(program, 0x40000003, number, arguments) == 0x80000000
