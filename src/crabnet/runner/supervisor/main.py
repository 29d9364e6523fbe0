"""The supervisor of one run, in a separate process that ``template`` forks. Standard library only.

Protocol on the socket ``control``. The node sends one line of JSON (``order.Order``), then single bytes. ``G`` opens
the gate of a sandbox. ``T`` asks the command's process group to end (SIGTERM). ``K`` or the end of the stream kills
everything (SIGKILL). The supervisor sends events, each as one line of JSON:

- ``{"event": "ready", "root_pid": int}``: a sandbox was made and waits for ``G``;
- ``{"event": "forked", "pid": int}``: the command is about to be executed, sent only without bwrap;
- ``{"event": "started", "pid": int}`` or ``{"event": "failed", "errno": int, "sandbox": bool, "detail": str}``;
- ``{"event": "limit", "limits_hit": [...]}``: the supervisor ends the run because of these limits of the whole run;
- ``{"event": "exited", "status": int}`` with the wait status of the command;
- ``{"event": "gone", "cpu_ms": int, "memory_peak_bytes": int, "limits_hit": [...]}``: no process is left.

When the command has ended and no ``T`` was sent, the supervisor kills the processes that the command left running.
After ``T`` it does so only on ``K``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import struct
import time

from crabnet.runner.supervisor.cgroup import CgroupUsage, RunCgroup
from crabnet.runner.supervisor.cgroup_join import Membership
from crabnet.runner.supervisor.order import ORDER_BYTES_MAX, Order, decode
from crabnet.runner.supervisor.spawn import (
    Abandoned,
    Descriptors,
    SetupError,
    Started,
    become_subreaper,
    drop_root,
    run_uid,
    start_bwrap,
    start_plain,
)
from crabnet.runner.supervisor.tree import (
    NAMES_MAX,
    TreeUsage,
    children_of,
    disk_beneath,
    memory_beneath,
    removed_beneath,
    usage_beneath,
)

KILL_RETRY_MS = 50
WATCH_MS = 100
"""The time between two checks of what a run uses, if the kernel enforces the limit of memory."""
WATCH_CLOSELY_MS = 20
"""The time between two checks if only these checks enforce it."""
WATCH_DISK_MS = 200
FULL_BYTES = 64 * 1024
"""A file system with less free space than this counts as full."""
BWRAP_PROCESSES = 2
"""The processes of bwrap: bwrap itself and process 1 of its sandbox."""
_PIDFD_GET_INFO = 0xC040_FF0B
"""ioctl_pidfd(2), since Linux 6.13. Since 6.15 it also reports the exit of processes that are not children."""
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("=QQ11Ii")
_EXITED_BY_SIGNAL = 128
_SIGNAL_MAX = 64


class Supervisor:
    """Supervises one run. It must run in the only thread of its process."""

    def __init__(self, given: Descriptors) -> None:
        self._given = given
        self._control = given.control
        self._started = Started(0, 0, 0, -1)
        self._root_pidfd = self._command_pidfd = -1
        self._cgroup: RunCgroup | None = None
        self._disks: list[int] = []
        self._main_alive = False
        self._terminating = False
        self._killing = False
        self._kill_user_at_s = self._disk_look_at_s = self._memory_look_at_s = 0.0
        self._failed = False
        self._reaped_cpu_s = 0.0
        self._unheard_cpu_ms = 0.0
        self._unseen: frozenset[int] = frozenset()
        self._looked_at_s = time.monotonic()
        self._cpu_ms = 0
        self._memory_peak_bytes = 0
        self._limits_hit: dict[str, None] = {}

    def run(self) -> None:
        """Supervise one run, from its order to the end of its last process."""
        become_subreaper()
        wake = _wake_on_child_exit()
        line = self._read_line()
        if line is None:
            return
        self._order = order = decode(line)
        try:
            self._start(order)
        except SetupError as error:
            self._clear()
            self._tell({"event": "failed", "errno": error.number, "sandbox": error.sandbox, "detail": error.detail})
            return
        except Abandoned:
            self._clear()
            return
        self._tell({"event": "started", "pid": self._started.pid})
        self._supervise(wake)
        self._disk_look_at_s = 0.0
        self._look()
        self._look_for_full_file()
        self._clear()
        self._tell(
            {
                "event": "gone",
                "cpu_ms": self._cpu_ms,
                "memory_peak_bytes": self._memory_peak_bytes,
                "limits_hit": list(self._limits_hit),
            }
        )

    def _read_line(self) -> bytes | None:
        data = b""
        while not data.endswith(b"\n"):
            chunk = os.read(self._control, 65_536)
            if not chunk or len(data) > ORDER_BYTES_MAX:
                return None
            data += chunk
        return data

    def _start(self, order: Order) -> None:
        spare = BWRAP_PROCESSES if order.fence == "bwrap" else 0
        if order.cgroup is not None:
            try:
                self._cgroup = RunCgroup(order.cgroup, order.bounds, spare)
            except OSError as error:
                number = error.errno or errno.EIO
                raise SetupError(number, sandbox=True, detail=f"its control group: {os.strerror(number)}") from error
        if order.drop_root and os.geteuid() == 0:
            self._give_output_away()
        groups = self._cgroup.membership if self._cgroup is not None else Membership()
        if order.fence == "bwrap":
            self._started = start_bwrap(order, self._given, groups)
        else:
            self._started = start_plain(
                order, self._given, groups, lambda pid: self._tell({"event": "forked", "pid": pid})
            )
        self._main_alive = True
        os.close(self._given.stdout)
        os.close(self._given.stderr)
        if self._given.stdin >= 0:
            os.close(self._given.stdin)
        if order.fence == "bwrap":
            self._open_gate(order)

    def _give_output_away(self) -> None:
        """Make the run's user the owner of the output pipes, because programs reopen /dev/stdout and /dev/stderr."""
        for fd in (self._given.stdout, self._given.stderr):
            with contextlib.suppress(OSError):
                os.fchown(fd, run_uid(), -1)

    def _open_gate(self, order: Order) -> None:
        started = self._started
        try:
            self._root_pidfd = os.pidfd_open(started.root_pid)
            self._command_pidfd = os.pidfd_open(started.command_pid)
            for path in order.tmpfs:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                self._disks.append(os.open(f"/proc/{started.root_pid}/root{path}", flags))
        except OSError as error:
            raise SetupError(error.errno or errno.EIO, sandbox=True, detail=str(error)) from error
        self._tell({"event": "ready", "root_pid": started.root_pid})
        if os.read(self._control, 1) != b"G":
            raise Abandoned
        with contextlib.suppress(BrokenPipeError):
            os.write(started.gate, b"\n")
        os.close(started.gate)

    def _supervise(self, wake: int) -> None:
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        watch_ms = WATCH_MS if self._counted else WATCH_CLOSELY_MS
        while self._reap():
            if not self._main_alive and not self._terminating:
                self._killing = True
            if self._killing:
                self._kill()
            for fd, _ in poll.poll(KILL_RETRY_MS if self._killing else watch_ms):
                if fd == wake:
                    os.read(wake, 4096)
                elif not self._obey():
                    poll.unregister(self._control)
            self._look()

    def _reap(self) -> bool:
        """Collect the children that have ended. Returns False when no child is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._reaped_cpu_s += usage.ru_utime + usage.ru_stime
            self._memory_peak_bytes = max(self._memory_peak_bytes, usage.ru_maxrss * 1024)
            if pid == self._started.pid:
                self._main_alive = False
                self._failed = status != 0
                self._tell({"event": "exited", "status": self._command_status(status), "lost": self._is_lost(status)})

    def _is_lost(self, status: int) -> bool:
        """Whether something outside of the sandbox has killed its launcher, which the command cannot reach."""
        return self._root_pidfd >= 0 and os.WIFSIGNALED(status) and not self._killing

    def _command_status(self, status: int) -> int:
        """Return the wait status of the command, if possible from the kernel. bwrap exits with 128 + N for signal N."""
        if self._command_pidfd < 0:
            return status
        with contextlib.suppress(OSError):
            info = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, *[0] * 13))
            fcntl.ioctl(self._command_pidfd, _PIDFD_GET_INFO, info)
            mask, *_, exit_status = _PIDFD_INFO.unpack(info)
            if mask & _PIDFD_INFO_EXIT:
                return int(exit_status)
        code = os.waitstatus_to_exitcode(status)
        return code - _EXITED_BY_SIGNAL if 0 < code - _EXITED_BY_SIGNAL <= _SIGNAL_MAX else status

    def _obey(self) -> bool:
        """Carry out the node's requests. Returns False when the node will send no more."""
        try:
            orders = os.read(self._control, 16)
        except OSError:
            orders = b""
        if b"T" in orders:
            self._terminating = True
            if self._main_alive:
                group = self._started.root_pid or self._started.pid
                with contextlib.suppress(PermissionError, ProcessLookupError):
                    os.killpg(group, signal.SIGTERM)
                    os.killpg(group, signal.SIGCONT)
        if b"K" in orders or not orders:
            self._killing = True
        return bool(orders)

    def _look(self) -> None:
        """Record what the run uses, and end it when it exceeds a limit."""
        bounds = self._order.bounds
        spare = BWRAP_PROCESSES if self._root_pidfd >= 0 else 0
        tree = usage_beneath(os.getpid())
        group = self._cgroup.usage() if self._cgroup is not None else CgroupUsage(0, 0, 0, 0)
        self._count_unheard(tree, group)
        own_ms = round(self._reaped_cpu_s * 1000 + self._unheard_cpu_ms) + tree.cpu_ms
        self._cpu_ms = max(self._cpu_ms, group.cpu_ms, own_ms)
        self._memory_peak_bytes = max(
            self._memory_peak_bytes, group.memory_peak_bytes, tree.private_bytes, self._shared_too(tree)
        )
        if group.fork_refusals or tree.threads - spare >= bounds.processes:
            self._limits_hit.setdefault("processes")
        if any(is_full(fd) for fd in self._disks):
            self._limits_hit.setdefault("disk")
        fatal = []
        if group.oom_kills or (not self._counted and self._memory_peak_bytes >= bounds.memory_bytes):
            fatal.append("memory")
        if self._cpu_ms > bounds.cpu_ms:
            fatal.append("cpu")
        if self._overfull(bounds.workdir_bytes) or (not self._counted and any(map(_is_crowded, self._disks))):
            fatal.append("disk")
        fresh = [limit for limit in fatal if limit not in self._limits_hit]
        if fresh:
            self._limits_hit.update(dict.fromkeys(fresh))
            self._tell({"event": "limit", "limits_hit": fresh})
            self._killing = True

    def _count_unheard(self, tree: TreeUsage, group: CgroupUsage) -> None:
        """Count the time of one processor while processes do not wait for their children.

        This applies only if no control group counts processor time. What these children use cannot be measured.
        """
        now_s = time.monotonic()
        if tree.unheard and not group.cpu_ms:
            self._unheard_cpu_ms += (now_s - self._looked_at_s) * 1000
        self._looked_at_s = now_s

    @property
    def _counted(self) -> bool:
        """True if a control group limits the memory of the whole run."""
        return self._cgroup is not None and self._cgroup.limits_memory

    def _shared_too(self, tree: TreeUsage) -> int:
        """Return the memory of the run including shared memory, if nothing else counts it, else 0.

        It measures only when the resident memory reaches the limit, and at most every ``WATCH_MS``.
        """
        now_s = time.monotonic()
        if self._counted or tree.resident_bytes < self._order.bounds.memory_bytes or now_s < self._memory_look_at_s:
            return 0
        found = memory_beneath(os.getpid())
        self._memory_look_at_s = time.monotonic() + WATCH_MS / 1000
        return found

    def _look_for_full_file(self) -> None:
        """Note the limit ``file_size`` if a failed command made a file of the maximum size.

        The kernel reports this limit only to the command.
        """
        if self._failed and self._order.bounds.file_bytes and "disk" not in self._limits_hit:
            places = self._disks or ([self._given.workdir] if self._order.bounds.workdir_bytes else [])
            if any(disk_beneath(fd).largest_bytes >= self._order.bounds.file_bytes for fd in places):
                self._limits_hit.setdefault("file_size")

    def _overfull(self, bytes_max: int) -> bool:
        """True if the work dir on the host's disk exceeds a bound, or if a process may hide its use of the disk.

        That is a process whose open files could not be read in two consecutive checks. The check walks the work dir,
        so it runs at most every ``WATCH_DISK_MS``.
        """
        if not bytes_max or time.monotonic() < self._disk_look_at_s:
            return False
        found = disk_beneath(self._given.workdir)
        removed = removed_beneath(os.getpid(), os.fstat(self._given.workdir).st_dev)
        hidden, self._unseen = self._unseen & removed.unseen, removed.unseen
        self._disk_look_at_s = time.monotonic() + WATCH_DISK_MS / 1000
        return bool(hidden) or found.used_bytes + removed.used_bytes > bytes_max or found.names > NAMES_MAX

    def _kill(self) -> None:
        """Kill every process of the run. Orphans become children of this process, wake it, and are killed next.

        When process 1 of a sandbox dies, the kernel kills all its other processes. Without a sandbox, processes of
        another user (a set-user-ID program) cannot be killed. They remain until they end.
        """
        if self._root_pidfd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._root_pidfd, signal.SIGKILL)
        if self._cgroup is not None:
            self._cgroup.kill()
        if self._main_alive:
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.killpg(self._started.pid, signal.SIGKILL)
        if self._order.drop_root and os.geteuid() == 0:
            self._kill_user_in_turn()
        for pid in children_of(os.getpid()):
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _kill_user_in_turn(self) -> None:
        """Call ``_kill_user`` at most every ``KILL_RETRY_MS``.

        With a sandbox, the first call comes that much later: the death of process 1 should end the others first.
        """
        now_s = time.monotonic()
        due = now_s >= self._kill_user_at_s if self._kill_user_at_s else self._root_pidfd < 0
        if due or not self._kill_user_at_s:
            self._kill_user_at_s = now_s + KILL_RETRY_MS / 1000
        if due:
            self._kill_user()

    @staticmethod
    def _kill_user() -> None:
        """Kill all processes of the run's own user id in one call, so that none can escape by forking."""
        uid = run_uid()
        pid = os.fork()
        if pid == 0:
            try:
                drop_root(uid)
                if os.geteuid() == uid:  # not the user nobody, which other processes may also have
                    os.kill(-1, signal.SIGKILL)
            finally:
                os._exit(0)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)

    def _clear(self) -> None:
        """Kill and reap all processes and remove the control group."""
        while self._reap_quietly():
            self._kill()
            select.select([], [], [], KILL_RETRY_MS / 1000)
        if self._cgroup is not None:
            self._cgroup.kill()
            self._cgroup.remove()

    @staticmethod
    def _reap_quietly() -> bool:
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    return True
            except ChildProcessError:
                return False

    def _tell(self, event: dict[str, object]) -> None:
        try:
            os.write(self._control, json.dumps(event).encode() + b"\n")
        except OSError:
            self._killing = True


def _wake_on_child_exit() -> int:
    wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return wake


def is_full(fd: int) -> bool:
    """Whether the file system of an open file has no room left, or no inode."""
    with contextlib.suppress(OSError):
        found = os.fstatvfs(fd)
        return found.f_bavail * found.f_frsize < FULL_BYTES or found.f_favail == 0
    return False


def _is_crowded(fd: int) -> bool:
    """True if a file system has too many files. They need memory that the file system's size does not include."""
    with contextlib.suppress(OSError):
        found = os.fstatvfs(fd)
        return found.f_files - found.f_ffree > NAMES_MAX
    return False
