"""Landlock on real processes: what a run behind it can still do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from crabnet.runner.landlock import abi_version

ABI = abi_version()
pytestmark = pytest.mark.skipif(ABI == 0, reason="the kernel has no Landlock")

PRELUDE = """
import errno, json, os, socket, sys
from crabnet.runner import landlock as ll
work, outside = sys.argv[1:3]
def attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
def write(path):
    with open(path, "w") as file:
        file.write("x")
def connect(family, address):
    with socket.socket(family) as client:
        client.connect(address)
abi = ll.restrict([
    ll.Grant("/usr", ll.READ_EXECUTE), ll.Grant("/lib", ll.READ_EXECUTE), ll.Grant("/lib64", ll.READ_EXECUTE),
    ll.Grant("/dev/null", ll.READ_WRITE), ll.Grant("/no/such/place", ll.READ), ll.Grant("/dev/null/x", ll.READ),
    ll.Grant(os.open(work, os.O_RDONLY | os.O_DIRECTORY), ll.WORK),
])
assert abi == ll.abi_version()
os.chdir(work)
"""


def answers(attempts: dict[str, str], tmp_path: Path) -> dict[str, str]:
    work, outside = tmp_path / "work", tmp_path / "outside"
    body = ", ".join(f"{name!r}: attempt(lambda: {expression})" for name, expression in attempts.items())
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + f"print(json.dumps({{{body}}}))", str(work), str(outside)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture
def places(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "here").write_text("here")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (outside / "program").write_text("#!/bin/sh\n")
    (outside / "program").chmod(0o755)
    return tmp_path


def test_inside_the_work_dir_everything_works(places: Path) -> None:
    attempts = {
        "reading /usr": "os.listdir('/usr/bin')",
        "making a file": "write('new')",
        "making a directory": "os.mkdir('d')",
        "moving between directories": "os.rename('new', 'd/new')",
        "a link": "os.symlink('d/new', 'l')",
        "a fifo": "os.mkfifo('f')",
        "truncating": "os.truncate('here', 0)",
        "removing": "os.unlink('here')",
        "throwing away": "write('/dev/null')",
    }

    found = answers(attempts, places)

    if ABI < 2:
        assert found.pop("moving between directories") == "EXDEV"
    assert set(found.values()) == {"ok"}, found


def test_outside_nothing_works(places: Path) -> None:
    attempts = {
        "reading": "open(outside + '/secret')",
        "reading through a link": "(os.symlink(outside, 'out'), open('out/secret'))",
        "reading upwards": "open('../outside/secret')",
        "listing": "os.listdir(outside)",
        "writing": "write(outside + '/new')",
        "removing": "os.unlink(outside + '/secret')",
        "making a directory": "os.mkdir(outside + '/d')",
        "moving out": "os.rename('here', outside + '/here')",
        "linking in": "os.link(outside + '/secret', 'secret')",
        "processes": "open('/proc/%d/environ' % os.getppid())",
        "writing to /usr": "write('/usr/new')",
        "starting a program": "os.execv(outside + '/program', ['x'])",
    }

    found = answers(attempts, places)

    assert set(found.values()) <= {"EACCES", "EXDEV"}, found
    assert {path.name for path in (places / "outside").iterdir()} == {"secret", "program"}
    assert (places / "outside" / "secret").read_text() == "secret"


@pytest.mark.skipif(ABI < 3, reason=f"Landlock ABI {ABI} does not cover truncation (3)")
def test_truncating_outside_is_refused(places: Path) -> None:
    assert answers({"it": "os.truncate(outside + '/secret', 0)"}, places) == {"it": "EACCES"}
    assert (places / "outside" / "secret").read_text() == "secret"


@pytest.mark.skipif(ABI < 4, reason=f"Landlock ABI {ABI} does not cover TCP (4)")
def test_tcp_is_refused(places: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        attempts = {
            "connecting": f"connect(socket.AF_INET, ('127.0.0.1', {port}))",
            "serving": "socket.create_server(('127.0.0.1', 0))",
        }
        assert answers(attempts, places) == dict.fromkeys(attempts, "EACCES")


@pytest.mark.skipif(ABI < 6, reason=f"Landlock ABI {ABI} does not cover signals and abstract sockets (6)")
def test_signals_and_abstract_sockets_stay_inside(places: Path) -> None:
    name = f"\0crabnet-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        attempts = {
            "a signal": "os.kill(os.getppid(), 0)",
            "a socket": f"connect(socket.AF_UNIX, {name!r})",
            "a signal to itself": "os.kill(os.getpid(), 0)",
        }
        found = answers(attempts, places)
    assert found == {"a signal": "EPERM", "a socket": "EPERM", "a signal to itself": "ok"}
