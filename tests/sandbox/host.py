"""Which sandboxes this machine has, for which users, and starting ``node`` in each."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from crabnet.runner.landlock import abi_version
from crabnet.runner.remove_tree import remove_tree
from crabnet.runner.syscalls import SYSCALLS

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
UNPRIVILEGED_UID = 61_234 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""A user that has nothing on any system; one for each test process, since limits count all processes of a user."""
ROOM_FOR_OTHERS = {"processes": 1_000}
"""Limits of runs that may not fail for what others do: Landlock counts the processes of the same user outside, too."""
INSIDE_PYTHON = "/usr/bin/python3"
"""What probes are run by: a sandbox shows ``/usr`` only."""


@dataclass(frozen=True)
class Place:
    """A kind of sandbox, and as which user the node runs."""

    mode: str
    profile: str
    user: str

    def __str__(self) -> str:
        return f"{self.mode}-{self.profile}-{self.user}"


PLACES = [
    Place(mode, profile, user)
    for user in ("root", "unprivileged")
    for mode, profile in (("bwrap", "strict"), ("bwrap", "network"), ("landlock", "strict"))
]
STRICT = Place("bwrap", "strict", "unprivileged")
FALLBACK = Place("landlock", "strict", "unprivileged")
OPEN = Place("none", "strict", "unprivileged")
"""No sandbox: where attacks must work, or they would prove nothing."""


def skip_unless_possible(place: Place) -> None:
    """Skip a test by the name of the feature that this machine lacks."""
    if place.user == "root" and os.geteuid() != 0:
        pytest.skip("a node of root: these tests do not run as root")
    if not Path(INSIDE_PYTHON).exists():
        pytest.skip(f"no {INSIDE_PYTHON} for the probes")
    if python_of(place.user) is None:
        pytest.skip("no Python of this version that an unprivileged user may start")
    if place.mode == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    if place.mode == "bwrap" and not namespaces_for(place.user):
        pytest.skip(f"the kernel gives no user namespaces to the {place.user} user")
    if place.mode == "landlock" and abi_version() == 0:
        pytest.skip("the kernel has no Landlock")


def identity(user: str) -> dict[str, Any]:
    """How to start a process as this user."""
    if user == "root" or os.geteuid() != 0:
        return {}
    return {"user": UNPRIVILEGED_UID, "group": UNPRIVILEGED_UID, "extra_groups": []}


@cache
def python_of(user: str) -> str | None:
    """An interpreter of the present version that the user may start: the present one may lie in a home."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        if not Path(candidate).exists():
            continue
        command = [candidate, "-c", "import trio, msgspec"]
        try:
            tried = subprocess.run(
                command, env=environment(), cwd="/", capture_output=True, check=False, **identity(user)
            )
        except PermissionError:
            continue
        if tried.returncode == 0:
            return candidate
    return None


@cache
def namespaces_for(user: str) -> bool:
    tried = subprocess.run(["unshare", "-U", "true"], capture_output=True, check=False, **identity(user))
    return tried.returncode == 0


def environment() -> dict[str, str]:
    """For a Python that is not the one of this environment. Holds a secret, as a node's may."""
    packages = [path for path in sys.path if Path(path).name == "site-packages"]
    paths = [str(ROOT), str(ROOT / "src"), *packages]
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


class Attacked:
    """A running ``node`` and its other end."""

    def __init__(self, place: Place, process: subprocess.Popen[str], marker: str) -> None:
        self.place = place
        self.process = process
        greeting = self._read()
        self.cgroups: list[str] = greeting["cgroups"]
        calls = {
            name: call.x86_64 if os.uname().machine == "x86_64" else call.aarch64 for name, call in SYSCALLS.items()
        }
        self.host: dict[str, object] = {**greeting["host"], "calls": calls, "reversed_marker": marker[::-1]}
        self.state: dict[str, object] = greeting["state"]
        self._ids = iter(range(1, 1 << 30))

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the node is gone, {self.process.poll()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, command: str, **order: object) -> int:
        """Order a run; the answer comes by ``answers``."""
        assert self.process.stdin is not None
        number = next(self._ids)
        self.process.stdin.write(json.dumps({"id": number, "command": command, **order}) + "\n")
        self.process.stdin.flush()
        return number

    def answers(self, count: int) -> list[Result]:
        found = [self._read() for _ in range(count)]
        return [Result(answer["id"], answer["outcome"], answer.get("state")) for answer in found]

    def run(self, command: str, **order: object) -> Result:
        self.ask(command, **order)
        return self.answers(1)[0]


@dataclass(frozen=True)
class Result:
    id: int
    outcome: dict[str, Any]
    state: dict[str, object] | None = field(repr=False)

    @property
    def cause(self) -> str:
        return str(self.outcome["termination"]["cause"])

    @property
    def hit(self) -> list[str]:
        return list(self.outcome["termination"]["limits_hit"])


@contextmanager
def scratch(place: Place) -> Iterator[Path]:
    """A directory of the user of ``place``; skips the test if this machine has no such place."""
    skip_unless_possible(place)
    directory = Path(tempfile.mkdtemp(prefix="crabnet-probes-"))
    try:
        directory.chmod(0o711)
        if place.user != "root" and os.geteuid() == 0:
            os.chown(directory, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
        yield directory
    finally:
        assert remove_tree(directory)


@contextmanager
def attacked(place: Place) -> Iterator[Attacked]:
    """Start a node, and end it."""
    secret, marker = secrets.token_hex(16), secrets.token_hex(16)
    with scratch(place) as directory:
        order = {"mode": place.mode, "profile": place.profile, "directory": str(directory), "secret": secret}
        process = subprocess.Popen(
            [python_of(place.user) or sys.executable, str(HERE / "node.py"), json.dumps(order), marker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env=environment() | {"CRABNET_PROBE_SECRET": secret},
            **identity(place.user),
        )
        try:
            yield Attacked(place, process, marker)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(30)
            finally:
                process.kill()
                process.wait()
                assert process.stdout is not None
                process.stdout.close()


def python_command(text: str, *arguments: str) -> str:
    """A command that runs Python text inside a sandbox."""
    return shlex.join([INSIDE_PYTHON, "-I", "-S", "-c", text, *arguments])
