"""A stand-in for a node under attack: runs commands as a node does, and watches what it holds dear.

A process of its own (``python node.py ORDER``), so that it can run as another user and can be killed. It takes one
line of JSON for each run, in any number at once, and answers each with the outcome and with ``state``: what an
attacker may have changed or left. It is a subreaper: whatever outlives a run becomes its child and is seen.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import resource
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import trio

from crabnet.runner.execute import run_command
from crabnet.runner.landlock import abi_version
from crabnet.runner.outcome import RunRequest
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.sandbox.cgroups import find_places, hold
from crabnet.runner.sandbox.model import NO_FENCE, CgroupPlaces, Fence, Mode, Profile, RunLimits
from crabnet.runner.supervisor.spawn import NOBODY_UID
from crabnet.runner.supervisor.tree import children_of

MIB = 1024 * 1024
_OF_TESTS = re.compile(r"/run/netns|.*/ct-[^/]+/t/")
"""Where other tests mount things: named network namespaces, and the directories of ``tests.support.leftovers``."""
LIMITS = RunLimits(
    memory_bytes=128 * MIB,
    processes=32,
    cpu_time_s=30,
    cpu_percent=100,
    file_bytes=8 * MIB,
    open_files=128,
    workdir_bytes=24 * MIB,
    tmp_bytes=8 * MIB,
)


class Treasures:
    """What the node holds: a key, sockets, memory, and files that others left on the host."""

    def __init__(self, directory: Path, secret: str) -> None:
        self.secret = secret
        self.data = directory / "data"
        self.data.mkdir(mode=0o700)
        self.key = self.data / "key"
        self.restore()
        self.tmp = directory / "tmp"
        self.tmp.mkdir()
        os.environ["TMPDIR"] = str(self.tmp)
        self.tmp_file = self.tmp / "file"
        self.tmp_file.write_text(secret)
        self.shm_file = Path("/dev/shm", f"crabnet-probe-{os.getpid()}")
        self.shm_file.write_text(secret)
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.sysv_key = 0x43000000 + os.getpid()
        self.sysv_leave = 0x44000000 + os.getpid()
        self.segment = self.libc.shmget(self.sysv_key, 4096, 0o1600)
        self.stream = socket.create_server(("127.0.0.1", 0))
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", 0))
        self.abstract_name = f"crabnet-probe-{os.getpid()}"
        self.abstract = self._listen("\0" + self.abstract_name)
        self.path_socket = self._listen(str(self.data / "control"))
        self.abstract_datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.abstract_datagrams.bind("\0" + self.abstract_name + "-datagrams")
        # Left open for whoever inherits it.
        os.dup2(os.open(self.key, os.O_RDONLY), 200, inheritable=True)
        self.signals = self.visits = 0
        signal.signal(signal.SIGURG, self._count_signal)

    def restore(self) -> None:
        """Put the key in its place, wherever an attack has left it."""
        self.data.chmod(0o700)
        self.key.unlink(missing_ok=True)
        self.key.write_text(self.secret)
        self.key.chmod(0o600)

    @staticmethod
    def _listen(address: str) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.bind(address)
        server.listen()
        return server

    def _count_signal(self, number: int, frame: object) -> None:
        self.signals += 1

    def told(self) -> dict[str, object]:
        """What an attacker is told of them."""
        return {
            "pid": os.getpid(),
            "secret": self.secret,
            "key": str(self.key),
            "data": str(self.data),
            "parent": str(self.tmp),
            "tmp_file": str(self.tmp_file),
            "shm_file": str(self.shm_file),
            "sysv_key": self.sysv_key,
            "sysv_leave": self.sysv_leave,
            "tcp": self.stream.getsockname()[1],
            "udp": self.datagrams.getsockname()[1],
            "abstract": self.abstract_name,
            "socket": str(self.data / "control"),
            "hostname": os.uname().nodename,
        }

    async def serve(self) -> None:
        async with trio.open_nursery() as nursery:
            for server in (self.stream, self.abstract, self.path_socket):
                nursery.start_soon(self._serve_streams, server)
            for server in (self.datagrams, self.abstract_datagrams):
                nursery.start_soon(self._serve_datagrams, server)

    async def _serve_streams(self, server: socket.socket) -> None:
        server.setblocking(False)
        listener = trio.socket.from_stdlib_socket(server)
        while True:
            client, _ = await listener.accept()
            self.visits += 1
            with client, suppress(OSError):
                await client.recv(16)
                await client.send(b"host")

    async def _serve_datagrams(self, server: socket.socket) -> None:
        server.setblocking(False)
        own = trio.socket.from_stdlib_socket(server)
        while True:
            _, address = await own.recvfrom(64)
            self.visits += 1
            if address:
                await own.sendto(b"host", address)

    def state(self) -> dict[str, object]:
        """Everything here stays the same, whatever is run."""
        directory = self.data.stat()
        return {
            "key": self._key_state(),
            "data": [sorted(os.listdir(self.data)), directory.st_mode, directory.st_ctime_ns],
            "tmp": sorted(os.listdir(self.tmp)),
            "shm": [self.shm_file.read_text() == self.secret, sorted(_left_in("/dev/shm"))],
            "mounts": hashlib.sha256("\n".join(_mounts()).encode()).hexdigest(),
            "limits": [resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
            "priority": os.getpriority(os.PRIO_PROCESS, 0),
            "processors": sorted(os.sched_getaffinity(0)),
            "scheduler": os.sched_getscheduler(0),
            "signals": self.signals,
            "system v": [self._exists(call) for call in ("shmget", "semget", "msgget")],
        }

    def _key_state(self) -> list[object]:
        if not self.key.exists():
            return ["gone"]
        found = self.key.stat()
        kept = (found.st_mode, found.st_uid, found.st_gid, found.st_nlink, found.st_mtime_ns, found.st_ctime_ns)
        return [self.key.read_text() == self.secret, *kept, os.listxattr(self.key)]

    def _exists(self, call: str) -> bool:
        arguments = (0, 0) if call == "msgget" else (0, 0, 0)
        return int(getattr(self.libc, call)(self.sysv_leave, *arguments[1:])) >= 0

    def clear(self) -> None:
        self.shm_file.unlink()
        self.libc.shmctl(self.segment, 0, None)
        self.libc.shmctl(self.libc.shmget(self.sysv_leave, 0, 0), 0, None)
        self.libc.semctl(self.libc.semget(self.sysv_leave, 0, 0), 0, 0)
        self.libc.msgctl(self.libc.msgget(self.sysv_leave, 0), 0, None)


def _mounts() -> list[str]:
    """Without those that other tests make meanwhile: in their own directories, and of named network namespaces."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if not _OF_TESTS.match(line.split()[4])]


def _left_in(directory: str) -> list[str]:
    """Files of those who run commands: this user, or, for root, the users that runs have."""
    found = []
    for entry in os.scandir(directory):
        if entry.name.startswith(("crabnet-probe-", "ct-")):
            continue  # of another node of these tests, or of another run of them
        with suppress(FileNotFoundError):
            uid = entry.stat(follow_symlinks=False).st_uid
            if uid == os.getuid() != 0 or (os.getuid() == 0 and uid >= NOBODY_UID):
                found.append(entry.name)
    return found


def fence_of(mode: Mode, places: CgroupPlaces | None) -> Fence:
    if mode is Mode.NONE:
        return NO_FENCE
    bwrap = next((path for path in map(Path, ("/usr/bin/bwrap", "/usr/local/bin/bwrap")) if path.exists()), None)
    return Fence(mode, places, bwrap if mode is Mode.BWRAP else None, abi_version() if mode is Mode.LANDLOCK else 0)


def groups(places: CgroupPlaces | None) -> list[str]:
    if places is None:
        return []
    directories = {*places.parents.values(), *([places.kill_parent] if places.kill_parent else [])}
    return sorted(str(entry) for directory in directories for entry in directory.iterdir() if entry.is_dir())


class Node:
    """Runs what it is told to."""

    def __init__(self, mode: Mode, profile: Profile, directory: Path, secret: str) -> None:
        self.treasures = Treasures(directory, secret)
        self.tag = f"probe-{os.getpid()}"
        self.places = find_places(self.tag) if mode is not Mode.NONE else None
        self.held = None if self.places is None else hold(self.places)
        self.fence = fence_of(mode, self.places)
        self.policy = RunnerPolicy(
            allowed_commands=frozenset({"*"}),
            command_chars_max=64 * 1024,
            output_bytes_max=64 * 1024,
            output_total_bytes_max=MIB,
            kill_wait_ms=200,
            profiles=(profile,),
            limits=LIMITS,
        )

    def greeting(self) -> dict[str, object]:
        enforced = sorted(self.places.parents) if self.places is not None else []
        return {"host": self.treasures.told(), "cgroups": enforced, "state": self.state()}

    def state(self) -> dict[str, object]:
        return {**self.treasures.state(), "cgroups": groups(self.places), "processes": children_of(os.getpid())}

    async def run(self, order: dict[str, Any], busy: set[int]) -> None:
        policy = replace(self.policy, limits=replace(LIMITS, **order.get("limits", {})))
        request = RunRequest(str(order["id"]), order["command"], order.get("timeout_ms", 20_000), "", self.tag)
        stop = trio.Event()
        busy.add(order["id"])
        if order.get("restore"):
            self.treasures.restore()
        async with trio.open_nursery() as nursery:
            if "cancel_ms" in order:
                nursery.start_soon(self._cancel_later, stop, order["cancel_ms"])
            outcome = await run_command(request, policy, self.fence, stop=stop)
            nursery.cancel_scope.cancel()
        busy.remove(order["id"])
        answer: dict[str, object] = {"id": order["id"], "outcome": asdict(outcome)}
        if not busy:
            answer["state"] = self.state()
        print(json.dumps(answer), flush=True)

    @staticmethod
    async def _cancel_later(stop: trio.Event, after_ms: int) -> None:
        await trio.sleep(after_ms / 1000)
        stop.set()

    async def serve(self) -> None:
        busy: set[int] = set()
        print(json.dumps(self.greeting()), flush=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.treasures.serve)
            rest = b""
            async with trio.lowlevel.FdStream(os.dup(0)) as orders:
                async for chunk in orders:
                    *lines, rest = (rest + bytes(chunk)).split(b"\n")
                    for line in lines:
                        nursery.start_soon(self.run, json.loads(line), busy)
            while busy:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    def clear(self) -> None:
        self.treasures.clear()
        for directory in {*self.places.parents.values(), self.places.kill_parent} if self.places is not None else ():
            if directory is not None:
                directory.rmdir()


def main(order: dict[str, str]) -> None:
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    node = Node(Mode(order["mode"]), Profile(order["profile"]), Path(order["directory"]), order["secret"])
    try:
        trio.run(node.serve)
    finally:
        node.clear()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
