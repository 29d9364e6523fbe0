"""Attempts to reach other processes: their secrets, descriptors, limits, or themselves."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import stat
from collections.abc import Callable
from functools import partial

from tests.sandbox.escapes.kit import (
    Attempt,
    Host,
    alone,
    call,
    escape,
    is_node,
    own_descriptors,
    read,
    visible_pids,
)


@escape
def environment_of_others(host: Host, attempt: Attempt) -> None:
    def search(directory: str) -> object:
        return host["secret"].encode() in read(directory + "/environ")

    attempt("the node's", lambda: search(f"/proc/{host['pid']}"))
    attempt("the parent's", lambda: search(f"/proc/{os.getppid()}"))
    attempt("the first process's", lambda: search("/proc/1"))
    attempt("anybody's", lambda: any(tolerant(search, f"/proc/{pid}") for pid in visible_pids()))
    attempt("a thread's", lambda: search(f"/proc/{host['pid']}/task/{host['pid']}"))


def tolerant(action: Callable[[str], object], argument: str) -> object:
    try:
        return action(argument)
    except OSError:
        return False


@escape
def environment_of_the_launcher(host: Host, attempt: Attempt) -> None:
    """Of whatever started this: only names that the sandbox sets."""
    known = {b"PATH", b"LANG", b"HOME", b"PWD", b"TMPDIR", b"SHLVL", b"_", b"LC_CTYPE", b"TERM"}

    def foreign(path: str) -> object:
        names = {entry.partition(b"=")[0] for entry in read(path).split(b"\0") if entry}
        return bool(names - known)

    attempt("own", lambda: bool({os.fsencode(name) for name in os.environ} - known))
    attempt("of process 1", lambda: foreign("/proc/1/environ"))
    attempt("of process 2", lambda: foreign("/proc/2/environ"))
    attempt("secret in own", lambda: any(host["secret"] in value for value in os.environ.values()))


@escape
def processes_of_the_host(host: Host, attempt: Attempt) -> None:
    def foreign() -> object:
        marker = host["reversed_marker"][::-1].encode()
        return any(tolerant(lambda path: marker in read(path), f"/proc/{pid}/cmdline") for pid in visible_pids())

    attempt("command lines", foreign)
    attempt("many", lambda: len(visible_pids()) > 30)
    attempt("the node's files", lambda: os.listdir(f"/proc/{host['pid']}/fd") if is_node(host) else False)
    attempt("the node's root", lambda: read(f"/proc/{host['pid']}/root{host['key']}"))
    attempt("the parent's root", lambda: read(f"/proc/{os.getppid()}/root{host['key']}"))
    attempt("the first process's root", lambda: read(f"/proc/1/root{host['key']}"))
    attempt("the first process's directory", lambda: read(f"/proc/1/cwd{host['key']}"))
    attempt("the node's memory", lambda: os.open(f"/proc/{host['pid']}/mem", os.O_RDWR) if is_node(host) else False)


@escape
def switches_in_proc(host: Host, attempt: Attempt) -> None:
    for path in (
        "kernel/core_pattern",
        "kernel/hostname",
        "vm/drop_caches",
        "kernel/modprobe",
        "fs/binfmt_misc/register",
    ):
        attempt(path, partial(os.open, "/proc/sys/" + path, os.O_WRONLY))
    attempt("sysrq", lambda: os.open("/proc/sysrq-trigger", os.O_WRONLY))
    attempt("memory of the kernel", lambda: read("/proc/kcore"))
    attempt("messages of the kernel", lambda: read("/proc/kmsg"))
    attempt("host control groups", lambda: os.listdir("/sys/fs/cgroup"))


@escape
def launcher_overwritten(host: Host, attempt: Attempt) -> None:
    """The program of a process outside, through /proc/PID/exe."""
    for pid in (1, os.getppid(), host["pid"]):
        attempt(f"{pid}", partial(os.open, f"/proc/{pid}/exe", os.O_WRONLY))


@escape
def inherited_descriptors(host: Host, attempt: Attempt) -> None:
    def found() -> object:
        limit = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
        return [fd for fd in range(3, limit) if is_open(fd)] or False

    attempt("any", found)
    attempt("standard input", lambda: stat.S_ISREG(os.fstat(0).st_mode) or stat.S_ISSOCK(os.fstat(0).st_mode))
    attempt("read standard input", lambda: (select.select([0], [], [], 0)[0] and read(0)) or False)
    for fd in (0, 1, 2):
        attempt(f"directory of {fd}", partial(os.open, ".", os.O_RDONLY, dir_fd=fd))
        attempt(f"{fd} is a terminal", partial(os.isatty, fd))


def is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return fd not in own_descriptors


@escape
def traced_processes(host: Host, attempt: Attempt) -> None:
    for what, pid in (("node", host["pid"]), ("parent", os.getppid()), ("first", 1)):
        attempt(f"seize {what}", partial(call, host, "ptrace", 0x4206, pid, 0, 0))
        attempt(f"read {what}", partial(call, host, "process_vm_readv", pid, None, 0, None, 0, 0))
        attempt(f"compare {what}", partial(call, host, "kcmp", pid, pid, 0, 0, 0))


def reaches_node(host: Host) -> bool:
    """Whether the node's number names the node here. Without /proc, assume it."""
    try:
        return is_node(host)
    except FileNotFoundError:
        return False
    except OSError:
        return True


@escape
def signals_to_the_node(host: Host, attempt: Attempt) -> None:
    pid = host["pid"]
    if not reaches_node(host):
        pid = 4_000_000  # a number that is nobody's: the node has none here
    attempt("kill", lambda: os.kill(pid, signal.SIGURG))
    attempt("group", lambda: os.killpg(pid, signal.SIGURG))
    attempt("thread", lambda: call(host, "tkill", pid, signal.SIGURG))
    attempt("queue", lambda: call(host, "rt_sigqueueinfo", pid, signal.SIGURG, b"\0" * 8 + b"\xff" * 4 + b"\0" * 128))
    attempt("descriptor", lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGURG))

    def owner() -> object:
        fcntl.fcntl(0, fcntl.F_SETOWN, pid)
        return False  # what counts is that the node gets no signal: the test looks

    attempt("owner", owner)


@alone
def signals_to_everybody(host: Host, attempt: Attempt) -> None:
    """The node counts SIGURG, and the test asks it."""
    signal.signal(signal.SIGURG, signal.SIG_IGN)

    def everybody() -> object:
        os.kill(-1, signal.SIGURG)
        return False

    attempt("all", everybody)


@escape
def limits_of_the_node(host: Host, attempt: Attempt) -> None:
    pid = host["pid"] if reaches_node(host) else 4_000_000
    attempt("files", lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE))
    attempt("core", lambda: resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0)))
    attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    attempt("processors", lambda: os.sched_setaffinity(pid, {0}))
    attempt("scheduler", lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)))
    attempt("disk priority", lambda: call(host, "ioprio_set", 1, pid, 0x4007))
    if pid == host["pid"]:
        attempt("priority of the user", lambda: os.setpriority(os.PRIO_USER, 0, os.getpriority(os.PRIO_USER, 0)))


def unlimited(kind: int) -> object:
    try:
        resource.setrlimit(kind, (resource.RLIM_INFINITY,) * 2)
    except ValueError:  # how Python tells that it is not allowed
        return False
    return True


@escape
def own_limits_raised(host: Host, attempt: Attempt) -> None:
    for name in ("NOFILE", "NPROC", "CPU", "FSIZE", "CORE", "AS", "RTPRIO", "NICE"):
        kind = getattr(resource, "RLIMIT_" + name)
        if resource.getrlimit(kind)[1] != resource.RLIM_INFINITY:
            attempt(name, partial(unlimited, kind))
    attempt("core dumps", lambda: resource.getrlimit(resource.RLIMIT_CORE)[1] != 0)
    attempt("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
    attempt("faster", lambda: os.setpriority(os.PRIO_PROCESS, 0, -1))
