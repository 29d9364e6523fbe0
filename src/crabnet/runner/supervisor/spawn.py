"""Forking, and how the new process prepares itself before it executes anything. Standard library only.

With bwrap the command does not start at once. A shell inside the sandbox, the gate, reports that it runs and waits for
a line. If the supervisor dies before it writes the line, the gate reads an end of file and exits. The supervisor writes
the line only after process 1 of the sandbox has asked the kernel to kill it with its parent. bwrap does that shortly
*after* it has started the command. From then on the death of any process above ends the sandbox. A process loses
PDEATHSIG when it changes its user, so it requests the signal afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from crabnet.runner.landlock import Grant, abi_version, install_filter, prctl, restrict
from crabnet.runner.supervisor import cgroup_join
from crabnet.runner.supervisor.cgroup_join import Membership, fork_into, join
from crabnet.runner.supervisor.order import Order
from crabnet.runner.supervisor.tree import children_of, status_field

RUN_UID_BASE = 0x7000_0000
"""User and group ids from here to 2**31 are unused on a host that follows systemd's "Users, Groups, UIDs and GIDs".
Each run of a root node has its own id: this number plus the supervisor's process id. So no other process on the host
has the same id, and a signal to all processes of that id reaches only the run."""
NOBODY_UID = 65_534
"""The id for runs where the host lacks such a number, as in a container with few ids."""
GATE = 'echo >&3; exec 3>&-; read -r go || exit 125; exec "$@" </dev/null'
"""The gate's program, which a shell in the sandbox runs. It waits for the line on descriptor 0 and reports on 3."""
STDIN_GATE = 'echo >&3; exec 3>&-; read -r go || exit 125; exec "$@" <&4 4<&-'
"""The gate of a command that gets something on its stdin. It has that on descriptor 4."""
SETUP_WAIT_S = 9.0
"""The time in which bwrap must have made the sandbox. Less than ``limits.RUNNER_SPAWN_WAIT_MS``."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_POLL_S = 0.001
_FIRST_FREE_FD = 10


class Abandoned(Exception):  # noqa: N818 - the end of a run, not an error
    """The node has ended, so the run does not start."""


class SetupError(Exception):
    """The command could not be started. ``sandbox`` is true if the sandbox caused this, not the command."""

    def __init__(self, number: int, *, sandbox: bool, detail: str = "") -> None:
        self.number = number
        self.sandbox = sandbox
        self.detail = detail
        super().__init__(detail)


class Started(NamedTuple):
    """A running command. ``root_pid`` is process 1 of a sandbox, else 0. Writing a line to ``gate`` opens the gate."""

    pid: int
    root_pid: int
    command_pid: int
    gate: int


class Descriptors(NamedTuple):
    """The descriptors that a supervisor gets: the socket to the node, and those for the command."""

    control: int
    stdout: int
    stderr: int
    workdir: int = -1
    """An open directory of the host, -1 if a sandbox makes one by itself."""
    stdin: int = -1
    """A sealed file, -1 for ``/dev/null``."""


def warm_up() -> None:
    """Load in the template what otherwise each start of a run would load."""
    prctl(_PR_SET_PDEATHSIG, 0)
    abi_version()
    cgroup_join.warm_up()


def become_subreaper() -> None:
    """Make every orphan of the run a child of this process."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def run_uid() -> int:
    """Return the user id for this supervisor's run, for a supervisor that is root."""
    return RUN_UID_BASE + os.getpid()


def drop_root(uid: int) -> None:
    """Permanently become a user that owns nothing. Raises OSError."""
    os.setgroups([])
    try:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        os.setresgid(NOBODY_UID, NOBODY_UID, NOBODY_UID)
        os.setresuid(NOBODY_UID, NOBODY_UID, NOBODY_UID)


def start_plain(order: Order, given: Descriptors, groups: Membership, announce: Callable[[int], None]) -> Started:
    """Start the command itself, with Landlock or without a sandbox. Raises SetupError.

    ``announce`` gets the process id before the command is executed, because the command may kill this process at once.
    """
    if order.own_workdir and order.drop_root and os.geteuid() == 0:
        with contextlib.suppress(OSError):
            os.fchown(given.workdir, run_uid(), run_uid())
    go, go_write = os.pipe2(os.O_CLOEXEC)
    try:
        pid = _fork(order, given, groups, _Plain(go, go_write, announce))
    finally:
        os.close(go)
        os.close(go_write)
    return Started(pid, 0, pid, -1)


def start_bwrap(order: Order, given: Descriptors, groups: Membership) -> Started:
    """Make the sandbox up to its gate. Raises SetupError, Abandoned."""
    deadline_s = time.monotonic() + SETUP_WAIT_S
    launcher = -1
    gate_read, gate = os.pipe2(os.O_CLOEXEC)
    ready, ready_write = os.pipe2(os.O_CLOEXEC)
    info, info_write = os.pipe2(os.O_CLOEXEC)
    inside = _Inside(gate_read, ready_write, info_write)
    pid = 0
    try:
        pid = _fork(order, given, groups, inside)
        launcher = os.pidfd_open(pid)
        for fd in (gate_read, ready_write, info_write):
            os.close(fd)
        text = b""
        while b"}" not in text:
            text += _read_some(info, given.control, launcher, deadline_s)
        root_pid = int(json.loads(text)["child-pid"])
        _read_some(ready, given.control, launcher, deadline_s)
        _await_init(root_pid, deadline_s)
        commands = children_of(root_pid)
        if len(commands) != 1:
            raise SetupError(errno.ECHILD, sandbox=True, detail="the gate of the sandbox has ended")
        if os.geteuid() != 0:
            _limit_processes(commands[0], order)
    except (SetupError, Abandoned, OSError, ValueError, KeyError) as error:
        os.close(gate)
        if pid:
            _end(pid)
        if isinstance(error, (SetupError, Abandoned)):
            raise
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EPROTO
        raise SetupError(number, sandbox=True, detail=str(error)) from error
    finally:
        os.close(ready)
        os.close(info)
        if launcher >= 0:
            os.close(launcher)
    return Started(pid, root_pid, commands[0], gate)


def _end(pid: int) -> None:
    """Kill bwrap. Its children become children of this process, and the caller must kill them."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def _read_some(fd: int, control: int, launcher: int, deadline_s: float) -> bytes:
    """Wait for bytes on ``fd`` until the deadline.

    Raises SetupError when the time is over or bwrap has ended, and Abandoned when the node has ended.
    """
    poll = select.poll()
    for one in (fd, control, launcher):
        poll.register(one, select.POLLIN)
    while True:
        left_ms = round((deadline_s - time.monotonic()) * 1000)
        events = poll.poll(left_ms) if left_ms > 0 else []
        if not events:
            raise SetupError(errno.ETIMEDOUT, sandbox=True, detail="the sandbox was not ready in time")
        for ready, _ in events:
            if ready == fd:
                data = os.read(fd, 4_096)
                if not data:
                    raise SetupError(errno.EPIPE, sandbox=True, detail="bwrap ended before the command started")
                return data
        if any(ready == launcher for ready, _ in events):
            raise SetupError(errno.EPIPE, sandbox=True, detail="bwrap ended before the command started")
        if not os.read(control, 16):
            raise Abandoned


def _await_init(root_pid: int, deadline_s: float) -> None:
    """Wait until process 1 of the sandbox has its filter. It installs that right after it has requested PDEATHSIG."""
    while status_field(root_pid, "Seccomp") != "2":
        if time.monotonic() > deadline_s or not status_field(root_pid, "Pid"):
            raise SetupError(errno.ETIMEDOUT, sandbox=True, detail="process 1 of the sandbox was not ready in time")
        time.sleep(_POLL_S)


class _Inside(NamedTuple):
    """Descriptors that bwrap inherits."""

    gate: int
    ready: int
    info: int


class _Plain(NamedTuple):
    """Descriptors for a command without bwrap. It waits for a byte from ``go``, which follows its announcement."""

    go: int
    go_write: int
    announce: Callable[[int], None]


def _fork(order: Order, given: Descriptors, groups: Membership, kind: _Inside | _Plain) -> int:
    """Fork and exec. Raises SetupError with the errno of the call that failed."""
    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    supervisor_pid = os.getpid()
    uid = run_uid() if order.drop_root and os.geteuid() == 0 else 0
    try:
        pid, to_join = fork_into(groups)
    except OSError as error:
        raise SetupError(error.errno or errno.EAGAIN, sandbox=True, detail=str(error)) from error
    if pid == 0:
        _become(order, given, to_join, kind, supervisor_pid, uid, error_write)
    os.close(error_write)
    if isinstance(kind, _Plain):
        kind.announce(pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(kind.go_write, b"\n")
    report = os.read(error_read, 16)
    os.close(error_read)
    if report:
        os.waitpid(pid, 0)
        number, _, stage = report.decode().partition(" ")
        raise SetupError(int(number), sandbox=isinstance(kind, _Inside) or stage == "fence")
    return pid


def _become(
    order: Order,
    given: Descriptors,
    groups: Membership,
    kind: _Inside | _Plain,
    supervisor_pid: int,
    uid: int,
    error_write: int,
) -> NoReturn:
    code, stage = errno.EINVAL, "fence"
    try:
        os.setsid()
        join(groups)
        _give_back_signals()
        _keep_descriptors_from_command()
        os.umask(0o077)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if uid:
            drop_root(uid)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor_pid:
            os._exit(127)
        if given.stdin >= 0 and isinstance(kind, _Plain):
            os.dup2(given.stdin, 0)
        os.dup2(given.stdout, 1)
        os.dup2(given.stderr, 2)
        if isinstance(kind, _Inside):
            _limit(order, with_processes=os.geteuid() == uid != 0)
            _exec_bwrap(order, kind, given.stdin)
        os.close(kind.go_write)
        if not os.read(kind.go, 1):
            os._exit(127)
        os.fchdir(given.workdir)
        if order.fence == "landlock":
            grants = [Grant(path, rights) for path, rights in order.grants]
            restrict([*grants, Grant(given.workdir, order.workdir_rights)])
        _limit(order, with_processes=True)
        if order.seccomp:
            install_filter(bytes.fromhex(order.seccomp))
        stage = "exec"
        os.execve(order.executable, order.argv, order.env)  # noqa: S606 - no shell is the point
    except (OSError, ValueError) as error:
        code = (error.errno if isinstance(error, OSError) else None) or code
    finally:
        os.write(error_write, f"{code} {stage}".encode())
        os._exit(127)


def _keep_descriptors_from_command() -> None:
    """Pass on only the standard streams, because an open directory of the host leads out of every sandbox."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)


def _limit(order: Order, *, with_processes: bool) -> None:
    """Lower the limits of this process and of all that it starts. RLIMIT_NPROC counts all processes of a user."""
    for kind, soft, hard in order.rlimits:
        if kind != resource.RLIMIT_NPROC or with_processes:
            most = resource.getrlimit(kind)[1]
            if most != resource.RLIM_INFINITY:
                soft, hard = min(soft, most), min(hard, most)
            resource.setrlimit(kind, (soft, hard))


def _limit_processes(pid: int, order: Order) -> None:
    """Set RLIMIT_NPROC inside a sandbox. Its user namespace has a separate count, but bwrap outside does not.

    A root supervisor may lack the capability for this call. It does not need it, because its runs have their own user
    ids.
    """
    for kind, soft, hard in order.rlimits:
        if kind == resource.RLIMIT_NPROC:
            resource.prlimit(pid, kind, (soft, hard))


def _exec_bwrap(order: Order, inside: _Inside, stdin: int) -> NoReturn:
    """Execute bwrap with an empty environment, and pass its arguments in a file.

    The sandbox can read arguments and environment of bwrap as those of its process 1.
    """
    os.chdir("/")
    arguments = [*order.bwrap_args, "--info-fd", str(_for_bwrap(inside.info))]
    if order.seccomp:
        arguments += ["--seccomp", str(_memory_file(bytes.fromhex(order.seccomp)))]
    for name, value in order.env.items():
        arguments += ["--setenv", name, value]
    arguments_fd = _memory_file(b"".join(os.fsencode(argument) + b"\0" for argument in arguments))
    ready = _for_bwrap(inside.ready)
    stdin = _for_bwrap(stdin) if stdin >= 0 else -1
    os.dup2(inside.gate, 0)
    os.dup2(ready, 3)
    os.close(ready)
    if stdin >= 0:
        os.dup2(stdin, 4)
        os.close(stdin)
    command = ["/bin/sh", "-c", GATE if stdin < 0 else STDIN_GATE, order.name, *order.argv]
    os.execve(order.bwrap, ["bwrap", "--args", str(arguments_fd), "--", *command], {})  # noqa: S606


def _for_bwrap(fd: int) -> int:
    """Return an inheritable copy with a number that no other descriptor here uses."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD, _FIRST_FREE_FD)


def _memory_file(content: bytes) -> int:
    """Return an inheritable file with this content, positioned at its beginning."""
    fd = os.memfd_create("crabnet", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return _for_bwrap(fd)


def reset_signals() -> None:
    """Stop ignoring and blocking the signals that this process inherited as such, except those that Python ignores."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, *_IGNORED_BY_PYTHON}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _give_back_signals() -> None:
    """Restore the default action of every signal. execve(2) does that for signals with handlers."""
    signal.set_wakeup_fd(-1)
    for number in _IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
