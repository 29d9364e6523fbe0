"""The README is true: its session is typed into real nodes, its program run, its make targets and files are there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from crabnet.control.client import call
from tests.docs.pages import ROOT, Step, blocks, page, steps
from tests.docs.session import Session
from tests.support.dht import needs_libp2p
from tests.support.nodes import CRABNET, DEADLINE_S, environment, wait_for

_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z ", re.MULTILINE)
"""A terminal, as on the page, gets no time stamps; the file of this test does."""
PORTS = ("9101", "9102", "9103", "9301", "9302")
READING = ("seed list", "seed show", "status", "events", "id", "peers")


def free_ports(count: int) -> list[str]:
    """UDP ports that nobody used a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [str(sock.getsockname()[1]) for sock in sockets]


class Typist:
    """Types the steps of the page in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.session = Session(dict(zip(PORTS, free_ports(len(PORTS)), strict=True)))
        self.nodes: list[subprocess.Popen[str]] = []

    def type(self, step: Step) -> None:
        """Do a step and compare what it prints."""
        command = self.session.real(step.command)
        if command.endswith("&"):
            self.listen(command, step.shown)
        elif command.startswith("crabnet seed publish"):
            self.acquainted()
            self.once(command, step.shown)
        elif command.startswith("kill "):
            self.stop()
        else:
            self.once(command, step.shown)

    def acquainted(self) -> None:
        """All nodes have heard of one another: whoever types by hand takes longer than that."""
        names = ("alice", "bob", "carol")[: len(self.nodes)]
        others = len(names) - 1
        wait_for("all hear all", lambda: all(self.ask(name, "status")["peers"] == others for name in names))

    def ask(self, name: str, method: str) -> dict[str, object]:
        """A method of the node with this data dir."""
        return cast(dict[str, object], call(self.directory / "net" / name, method, {}, 10_000))

    def listen(self, command: str, shown: list[str]) -> None:
        """Start a node in the background; its log is what it shows."""
        words = shlex.split(command.removesuffix("&"))
        assert words[0] == "crabnet"
        log = self.directory / f"{len(self.nodes)}.log"
        with log.open("w", encoding="utf-8") as output:
            node = subprocess.Popen(
                [*CRABNET, *words[1:]],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
                env=environment(),
            )
        self.nodes.append(node)

        def differs() -> str:
            assert node.poll() is None, log.read_text(encoding="utf-8")
            return self.session.difference(shown, _STAMP.sub("", log.read_text(encoding="utf-8")).splitlines())

        deadline = time.monotonic() + DEADLINE_S
        while difference := differs():
            assert time.monotonic() < deadline, f"$ {command}\n{difference}"
            time.sleep(0.05)

    def once(self, command: str, shown: list[str]) -> None:
        """Run a command to its end, again for as long as the news that it needs has not come."""
        shell = f'crabnet() {{ {shlex.join(CRABNET)} "$@"; }}\n{command}'
        refused = any(line.startswith("error: ") for line in shown)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            done = subprocess.run(
                ["/bin/sh", "-c", shell],
                cwd=self.directory,
                capture_output=True,
                text=True,
                check=False,
                env=environment(),
                timeout=DEADLINE_S,
            )
            difference = self.session.difference(shown, (done.stdout + done.stderr).splitlines())
            if not difference and refused == (done.returncode != 0):
                return
            again = done.returncode != 0 or command.startswith(tuple(f"crabnet {words}" for words in READING))
            assert again, f"$ {command}\n{difference}"
            assert time.monotonic() < deadline, f"$ {command}\n{done.stdout}{done.stderr}{difference}"
            time.sleep(0.05)

    def stop(self) -> None:
        """End all nodes as `kill` does; each ends in order."""
        for node in self.nodes:
            node.send_signal(signal.SIGTERM)
        assert [node.wait(DEADLINE_S) for node in self.nodes] == [0] * len(self.nodes)
        self.nodes.clear()

    def abandon(self) -> None:
        """End what still runs."""
        for node in self.nodes:
            node.kill()
            node.wait()


@pytest.fixture
def typist(tmp_path: Path) -> Iterator[Typist]:
    made = Typist(tmp_path)
    yield made
    made.abandon()


def test_the_session_goes_as_shown(typist: Typist) -> None:
    """Every command prints what the README shows, and the program behind it publishes to the node there."""
    typed = steps(page("README.md"))
    session = typed[: [step.command for step in typed].index("rm -r net") + 1]
    assert len(session) > 15
    assert session[-2].command.startswith("kill ")
    assert session[-1].command == "rm -r net"
    for step in session[:-2]:
        typist.type(step)

    (program,) = blocks(page("README.md"), "python")
    program = typist.session.real(program)
    environ = environment(PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=typist.directory,
        capture_output=True,
        text=True,
        check=False,
        env=environ,
        timeout=DEADLINE_S,
    )
    found = re.fullmatch(r"published (\S+) by 12D3KooW\w+\n", done.stdout)
    assert found is not None, done.stdout + done.stderr
    typist.once(f"crabnet seed show {found[1]} --data-dir net/alice", [f"id: {found[1]}", "title: From Python", "[…]"])
    for step in session[-2:]:
        typist.type(step)
    assert not (typist.directory / "net").exists()


@needs_libp2p
@pytest.mark.deep
def test_the_session_over_libp2p_goes_as_shown(typist: Typist) -> None:
    session = steps(page("README.md"))
    after = [step.command for step in session].index("rm -r net") + 1
    assert len(session[after:]) > 3
    for step in session[after:]:
        typist.type(step)
    typist.stop()


def test_shell_blocks_name_targets_and_files_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):.*## ", page("Makefile"), re.MULTILINE))
    lines = [line for block in blocks(page("README.md"), "sh") for line in block.splitlines()]
    named = {word for line in lines for word in line.partition("#")[0].split()[1:] if line.startswith("make ")}
    assert named
    assert named <= targets
    files = re.findall(r"-r (\S+)", "\n".join(lines))
    assert files
    assert all((ROOT / name).is_file() for name in files)


def test_the_comparison_finds_differences() -> None:
    """The test of the session is worth nothing if anything passes."""
    first, second = "a" * 64, "b" * 64
    session = Session({})
    assert session.difference([f"hash {first}", "[… more]", "end"], [f"hash {second}", "x", "y", "end"]) == ""
    assert session.real(first) == second
    assert session.difference([f"hash {first}"], [f"hash {first}"]) != ""
    assert session.difference(["one"], ["one", "two"]) != ""
    assert session.difference(["one", "two"], ["one"]) != ""
    assert session.difference(["one [… more]"], ["one and more"]) == ""
    assert session.difference(["one [… more]"], ["two and more"]) != ""
