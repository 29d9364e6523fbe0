"""Attempts to use up the host, or to outlive the run: a program that runs inside a sandbox.

Standard library only, in one file: its text is the command, with the name of an abuse as its argument. ``ABUSES``
holds them by name. Each goes on until something stops it; one that ends by itself prints how far it got.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

MIB = 1024 * 1024
ABUSES: dict[str, Callable[[], None]] = {}


def abuse(function: Callable[[], None]) -> Callable[[], None]:
    ABUSES[function.__name__] = function
    return function


def hold() -> None:
    while True:
        signal.pause()


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def in_a_child(action: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        action()
        os._exit(0)
    return pid


# --- processes ---------------------------------------------------------------------------------------------


@abuse
def fork_bomb() -> None:
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)


@abuse
def forks_and_ends() -> None:
    """As many as may be, and then it is over at once."""
    children: list[int] = []
    try:
        while len(children) < 5_000:
            children.append(in_a_child(hold))
    except OSError:
        say("up")
    for pid in children:
        os.kill(pid, signal.SIGKILL)


@abuse
def forks_that_run_away() -> None:
    """Every process lives a moment: what looks for them finds them gone, and their children elsewhere."""
    os.setsid()
    while True:
        try:
            if os.fork():
                os._exit(0)
            os.setsid()
        except OSError:
            pass


@abuse
def thread_bomb() -> None:
    started = 0
    threading.stack_size(64 * 1024)
    try:
        while True:
            threading.Thread(target=hold, daemon=True).start()
            started += 1
    except RuntimeError:
        say(f"stopped after {started < 5000}")
        hold()


@abuse
def zombies() -> None:
    try:
        while True:
            in_a_child(lambda: os._exit(0))
    except OSError:
        hold()


# --- memory ------------------------------------------------------------------------------------------------


def fill(size: int) -> bytearray:
    block = bytearray(size)
    block[::4096] = b"x" * len(range(0, size, 4096))
    return block


@abuse
def memory_in_one_process() -> None:
    held = []
    while True:
        held.append(fill(8 * MIB))


@abuse
def memory_in_many_processes() -> None:
    """Each stays below what one process may have."""

    def some() -> None:
        held = fill(24 * MIB)
        hold()
        del held

    for _ in range(16):
        in_a_child(some)
    hold()


@abuse
def memory_in_memfds() -> None:
    """No process has these pages mapped, so only a control group counts them."""
    for _ in range(64):
        fd = os.memfd_create("x")
        for _ in range(6):
            os.write(fd, b"x" * MIB)
    hold()


def unreadable(code: str) -> None:
    """Go on as a program that may be executed and not read: others may not look into its processes."""
    made = os.open("program", os.O_WRONLY | os.O_CREAT, 0o111)
    with open("/proc/self/exe", "rb") as program, open(made, "wb") as copy:
        copy.write(program.read())
    os.execve("program", ["program", "-I", "-S", "-c", code], {"PYTHONHOME": sys.base_prefix})


@abuse
def unseen_memory() -> None:
    """Shared by none, though it could be: it is in no count that everybody may read."""
    unreadable(
        "import mmap, os, signal\n"
        "for _ in range(12):\n"
        "    if os.fork() == 0:\n"
        "        held = mmap.mmap(-1, 100 << 20)\n"
        "        for at in range(0, 100 << 20, 4096):\n"
        "            held[at] = 1\n"
        "        signal.pause()\n"
        "signal.pause()\n"
    )


@abuse
def unseen_removed_files() -> None:
    unreadable(
        "import os, signal\n"
        "held = []\n"
        "try:\n"
        "    for number in range(40):\n"
        "        held.append(os.open(str(number), os.O_WRONLY | os.O_CREAT))\n"
        "        os.unlink(str(number))\n"
        "        os.write(held[-1], b'x' * (8 << 20))\n"
        "except OSError:\n"
        "    pass\n"
        "signal.pause()\n"
    )


@abuse
def memory_shared_by_processes() -> None:
    held = []
    for _ in range(8):
        held.append(mmap.mmap(-1, 24 * MIB))
        held[-1][::4096] = b"x" * (24 * MIB // 4096)
    in_a_child(hold)
    hold()


@abuse
def memory_in_segments() -> None:
    """System V segments that nobody is attached to."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    for _ in range(16):
        segment = libc.shmget(0, ctypes.c_size_t(24 * MIB), 0o1600)
        if segment < 0:
            raise OSError(ctypes.get_errno(), "shmget")
        address = libc.shmat(segment, None, 0)
        ctypes.memset(address, 1, 24 * MIB)
        libc.shmdt(ctypes.c_void_p(address))
    hold()


@abuse
def memory_in_pipes() -> None:
    ends = []
    try:
        while True:
            ends.append(os.pipe2(os.O_NONBLOCK))
            os.write(ends[-1][1], b"x" * 65536)
    except OSError:
        say(f"few: {len(ends) < 1000}")


# --- disk --------------------------------------------------------------------------------------------------


def fill_file(path: str) -> None:
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * MIB)


@abuse
def one_large_file() -> None:
    fill_file("large")


@abuse
def many_large_files() -> None:
    number = 0
    while True:
        number += 1
        with open(f"file{number}", "wb", buffering=0) as file:
            for _ in range(4):
                file.write(b"x" * MIB)


@abuse
def many_empty_files() -> None:
    number = 0
    while True:
        number += 1
        os.close(os.open(f"file{number}", os.O_CREAT | os.O_WRONLY))


@abuse
def removed_open_files() -> None:
    """No walk through the work dir finds them."""
    held = []
    try:
        while True:
            held.append(os.open("file", os.O_CREAT | os.O_WRONLY))
            os.unlink("file")
            for _ in range(4):
                os.write(held[-1], b"x" * MIB)
    except OSError:
        time.sleep(1)  # they are gone with this process, and nobody could tell why it failed
        raise


@abuse
def file_larger_than_one_may_be() -> None:
    os.truncate(os.open("giant", os.O_CREAT | os.O_WRONLY), 1 << 44)


@abuse
def full_tmp() -> None:
    number = 0
    while True:
        number += 1
        with open(f"/tmp/file{number}", "wb", buffering=0) as file:
            file.write(b"x" * MIB)


@abuse
def full_shm() -> None:
    fill_file("/dev/shm/file")


@abuse
def deep_directories() -> None:
    try:
        while True:
            os.mkdir("d")
            os.chdir("d")
    except OSError:
        hold()


# --- output, time ------------------------------------------------------------------------------------------


@abuse
def endless_output() -> None:
    while True:
        os.write(1, b"y\n" * 32768)


@abuse
def endless_errors() -> None:
    while True:
        os.write(2, b"y\n" * 32768)


@abuse
def endless_output_by_many() -> None:
    for _ in range(4):
        in_a_child(endless_output)
    os._exit(0)


@abuse
def busy() -> None:
    while True:
        pass


@abuse
def busy_children() -> None:
    for _ in range(3):
        in_a_child(busy)
    hold()


@abuse
def busy_children_unheard() -> None:
    """Nobody waits for them, so the kernel adds nothing up; and each lives shorter than anybody looks."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    def busy_for_a_moment() -> None:
        end = time.monotonic() + 0.008
        while time.monotonic() < end:
            pass

    while True:
        in_a_child(busy_for_a_moment)
        time.sleep(0.006)


@abuse
def opens_its_output() -> None:
    """No abuse, but what programs do."""
    for name in ("/dev/stdout", "/dev/stderr"):
        with open(name, "w") as stream:
            stream.write(f"opened {name}\n")


@abuse
def many_open_files() -> None:
    count = 0
    try:
        while True:
            os.open("/dev/null", os.O_RDONLY)
            count += 1
    except OSError:
        say(f"few: {count < 5000}")


# --- outliving ---------------------------------------------------------------------------------------------


@abuse
def sleeps() -> None:
    say("up")
    hold()


@abuse
def ignores_sigterm() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_IGN)
    say("up")
    hold()


@abuse
def forks_at_sigterm() -> None:
    def again(number: int, frame: object) -> None:
        if os.fork() == 0:
            os.setsid()

    signal.signal(signal.SIGTERM, again)
    say("up")
    while True:
        time.sleep(60)


@abuse
def stops_itself() -> None:
    say("up")
    os.kill(os.getpid(), signal.SIGSTOP)


@abuse
def stops_its_group() -> None:
    in_a_child(hold)
    say("up")
    os.killpg(0, signal.SIGSTOP)


@abuse
def closed_stdio() -> None:
    for fd in (0, 1, 2):
        os.close(fd)
    hold()


@abuse
def daemon() -> None:
    """Double fork, session of its own, everything closed."""

    def second() -> None:
        os.setsid()
        in_a_child(closed_stdio)

    os.waitpid(in_a_child(second), 0)
    say("left a daemon")


@abuse
def background_child_with_stdout() -> None:
    in_a_child(hold)
    say("done")


@abuse
def daemon_that_writes() -> None:
    def second() -> None:
        os.setsid()
        while True:
            os.write(1, b"later\n")
            time.sleep(0.01)

    in_a_child(second)
    say("done")


@abuse
def kills_everybody() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(-1, signal.SIGKILL)
    say("still here")


@abuse
def kills_its_parents() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(1, signal.SIGKILL)
    say("still here")
    hold()


@abuse
def stops_its_parents() -> None:
    for pid in (os.getppid(), 1):
        os.kill(pid, signal.SIGSTOP)
    say("still here")
    hold()


@abuse
def dies_of_a_signal() -> None:
    ctypes.string_at(0)


@abuse
def parent_death_signal_off() -> None:
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
    os.setsid()
    in_a_child(hold)
    say("up")
    hold()


if __name__ == "__main__":
    ABUSES[sys.argv[1]]()
