"""Attempts to gain privileges, or to reach rarely used parts of the kernel."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial

from tests.sandbox.escapes.kit import (
    Attempt,
    Host,
    call,
    escape,
    then,
    write,
)


@escape
def nested_namespaces(host: Host, attempt: Attempt) -> None:
    kinds = {"user": 0x10000000, "mount": 0x20000, "net": 0x40000000, "pid": 0x20000000, "time": 0x80}
    for name, flag in kinds.items():
        attempt(f"unshare {name}", partial(call, host, "unshare", flag))
    attempt("user and mount", lambda: call(host, "unshare", 0x10020000))
    attempt("clone", lambda: forked(call(host, "clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)))
    attempt("clone3", lambda: call(host, "clone3", bytes([0, 0, 0, 0x10]) + b"\0" * 60, 64))
    attempt("the program unshare", lambda: os.system("unshare -Ur true 2>/dev/null") == 0)
    for name in ("user", "mnt", "net", "pid"):
        attempt(f"join {name}", partial(joined, host, f"/proc/1/ns/{name}"))


def joined(host: Host, path: str) -> object:
    return call(host, "setns", os.open(path, os.O_RDONLY), 0)


def forked(pid: int) -> object:
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return True


@escape
def mounts(host: Host, attempt: Attempt) -> None:
    attempt("tmpfs", lambda: call(host, "mount", b"x", b".", b"tmpfs", 0, None))
    attempt("/usr writable", lambda: call(host, "mount", b"", b"/usr", b"", 0x1020, None))
    attempt("/dev writable", lambda: call(host, "mount", b"", b"/dev", b"", 0x1020, None))
    attempt("proc", lambda: call(host, "mount", b"proc", b".", b"proc", 0, None))
    attempt("detach /proc", lambda: call(host, "umount2", b"/proc", 2))
    attempt("detach /usr", lambda: call(host, "umount2", b"/usr", 2))
    attempt("a tree", lambda: call(host, "open_tree", -100, b"/usr", 1))
    attempt("a new one", lambda: call(host, "fsopen", b"tmpfs", 0))
    attempt("swap", lambda: call(host, "swapon", b"./swap", 0))


@escape
def privileges(host: Host, attempt: Attempt) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    attempt("user 0", lambda: os.getuid() == 0 or os.geteuid() == 0 or os.getgid() == 0)
    attempt("group 0", lambda: 0 in os.getgroups())
    attempt("setuid", lambda: os.setuid(0))
    attempt("setgid", lambda: os.setgid(0))
    attempt("setgroups", lambda: os.setgroups([0]))
    attempt("may gain privileges", lambda: libc.prctl(39, 0, 0, 0, 0) != 1)
    attempt("dumps of set-user-ID programs", lambda: libc.prctl(3, 0, 0, 0, 0) == 2)
    capabilities = ctypes.create_string_buffer(24)
    libc.capget(ctypes.c_char_p((0x20080522).to_bytes(4, "little") + b"\0" * 4), capabilities)
    attempt("capabilities", lambda: any(capabilities.raw))
    attempt("ambient capabilities", lambda: any(libc.prctl(47, 1, number, 0, 0) == 1 for number in range(41)))
    attempt("su", lambda: os.system("su -c true >/dev/null 2>&1 </dev/null") == 0)


@escape
def set_user_id_files(host: Host, attempt: Attempt) -> None:
    """No such file may be left behind, whoever it belongs to."""

    def made(action: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            try:
                action()
            finally:
                bits = os.stat("suid").st_mode & 0o6000 if os.path.exists("suid") else 0
                if os.path.exists("suid"):
                    os.unlink("suid")
            return bool(bits)

        return run

    flags = os.O_CREAT | os.O_WRONLY
    attempt("open", made(lambda: os.close(os.open("suid", flags, 0o4755))))
    attempt("chmod", made(lambda: then(lambda: write("suid"), lambda: os.chmod("suid", 0o4755))))
    attempt("fchmod", made(lambda: os.fchmod(os.open("suid", flags, 0o755), 0o4755)))
    attempt("set-group-ID", made(lambda: os.fchmod(os.open("suid", flags, 0o755), 0o2755)))
    attempt(
        "chmod of a link", made(lambda: then(lambda: write("suid"), lambda: os.chmod("/proc/self/cwd/suid", 0o6755)))
    )
    attempt("mknod", made(lambda: os.mknod("suid", 0o104755)))
    attempt(
        "fchmodat2",
        made(lambda: then(lambda: write("suid"), lambda: call(host, "fchmodat2", -100, b"suid", 0o4755, 0))),
    )
    attempt(
        "openat2",
        made(
            lambda: call(
                host, "openat2", -100, b"suid", flags.to_bytes(8, "little") + (0o4755).to_bytes(16, "little"), 24
            )
        ),
    )
    attempt("the program", made(lambda: os.system("cp /usr/bin/true suid && chmod u+s suid 2>/dev/null")))
    attempt(
        "capability",
        made(
            lambda: then(
                lambda: write("suid"), lambda: os.setxattr("suid", "security.capability", b"\1\0\0\2" + b"\xff" * 16)
            )
        ),
    )


@escape
def device_nodes(host: Host, attempt: Attempt) -> None:
    attempt("make null", lambda: os.mknod("node", 0o020666, os.makedev(1, 3)))
    attempt("make memory", lambda: os.mknod("node", 0o020666, os.makedev(1, 1)))
    attempt("make a disk", lambda: os.mknod("node", 0o060666, os.makedev(254, 0)))
    for name in (
        "mem",
        "kmsg",
        "port",
        "sda",
        "vda",
        "vdb",
        "nvme0n1",
        "loop-control",
        "fuse",
        "kvm",
        "net/tun",
        "tty1",
    ):
        attempt(name, partial(os.open, "/dev/" + name, os.O_RDONLY | os.O_NONBLOCK))
    attempt("make in /dev", lambda: write("/dev/probe"))
    attempt("remove from /dev", lambda: os.unlink("/dev/null"))
    attempt("mode of /dev/null", lambda: os.chmod("/dev/null", 0o600))
    attempt("terminal", lambda: os.open("/dev/tty", os.O_RDWR))


@escape
def rare_system_calls(host: Host, attempt: Attempt) -> None:
    for name, arguments in {
        "bpf": (0, None, 0),
        "perf_event_open": (None, 0, -1, -1, 0),
        "userfaultfd": (1,),
        "io_uring_setup": (4, b"\0" * 120),
        "kexec_load": (0, 0, None, 0),
        "init_module": (None, 0, b""),
        "finit_module": (-1, b"", 0),
        "delete_module": (b"probe", 0),
        "swapoff": (b"probe",),
        "reboot": (0, 0, 0, None),
        "clock_settime": (0, None),
        "settimeofday": (None, b"\0" * 8),
        "sethostname": (b"probe", 5),
        "acct": (None,),
        "quotactl": (0x80000100, None, 0, None),
        "syslog": (10, None, 0),
        "iopl": (0,),
        "personality": (0x0040000,),
        "fanotify_init": (0, 0),
        "name_to_handle_at": (-100, b".", b"\0" * 136, b"\0" * 8, 0),
        "memfd_secret": (0,),
        "move_pages": (0, 0, None, None, None, 0),
        "lookup_dcookie": (0, None, 0),
    }.items():
        if host["calls"][name] is not None:
            attempt(name, partial(call, host, name, *arguments))


@escape
def keyrings(host: Host, attempt: Attempt) -> None:
    attempt("add", lambda: call(host, "add_key", b"user", b"probe", b"x", 1, -3))
    attempt("request", lambda: call(host, "request_key", b"user", b"probe", None, 0))
    attempt("join", lambda: call(host, "keyctl", 1, None))
    attempt("search", lambda: call(host, "keyctl", 10, -4, b"user", b"probe", 0))


@escape
def terminal_input(host: Host, attempt: Attempt) -> None:
    for fd in (0, 1, 2):
        attempt(f"type into {fd}", partial(fcntl.ioctl, fd, 0x5412, b"x"))
        attempt(f"paste into {fd}", partial(fcntl.ioctl, fd, 0x541C, b"\x03"))
    attempt("take a terminal", lambda: fcntl.ioctl(0, 0x540E, 1))


@escape
def shared_memory_of_the_host(host: Host, attempt: Attempt) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def segment(key: int, flags: int) -> object:
        found = libc.shmget(ctypes.c_int(key), ctypes.c_size_t(0), ctypes.c_int(flags))
        if found < 0:
            raise OSError(ctypes.get_errno(), "shmget")
        return True

    attempt("of the host", lambda: segment(host["sysv_key"], 0))
    attempt("list of /dev/shm", lambda: os.path.basename(host["shm_file"]) in os.listdir("/dev/shm"))
    attempt("file in /dev/shm", lambda: os.open(host["shm_file"], os.O_WRONLY))


@escape
def system_v_objects_left(host: Host, attempt: Attempt) -> None:
    """Kept by the kernel after the run, unless they have a namespace of their own. The test looks for them."""
    libc = ctypes.CDLL(None, use_errno=True)

    def unseen(action: Callable[[], object]) -> Callable[[], object]:
        return lambda: then(action, lambda: False)

    attempt("memory", unseen(lambda: libc.shmget(host["sysv_leave"], 4096, 0o1600)))
    attempt("semaphore", unseen(lambda: libc.semget(host["sysv_leave"], 1, 0o1600)))
    attempt("queue", unseen(lambda: libc.msgget(host["sysv_leave"], 0o1600)))


@escape
def clock_and_names(host: Host, attempt: Attempt) -> None:
    attempt("clock", lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))
    attempt("host name", lambda: socket.sethostname("probe"))
    attempt("own host's name", lambda: os.uname().nodename == host["hostname"])
