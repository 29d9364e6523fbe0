"""Types the sessions of pages into real nodes: on one machine, or on the machines that the prompts name."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from crabnet.control.client import call
from tests.docs.pages import Step
from tests.docs.session import Session
from tests.support.netns import Lab
from tests.support.nodes import CRABNET, DEADLINE_S, earned_by, environment, wait_for
from tests.support.ports import reserved_port

_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z ", re.MULTILINE)
"""A terminal, as on the page, gets no time stamps; the file of the tests does."""
PORTS = ("9101", "9102", "9103", "9301", "9302")
READING = (
    "seed list",
    "seed show",
    "seed logs",
    "status",
    "events",
    "id",
    "peers",
    "why",
    "account",
    "history",
    "work ",
)
"""Commands that may be typed again until the news that they show has come."""
ADDRESSES = {"buyer": "192.0.2.7", "worker": "192.0.2.9"}
"""The addresses of the machines on the pages."""
_INTERRUPT = "^C"
_POLL_S = 0.05


class Running:
    """A command that was left running, and where its output goes."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log
        self.read = 0
        """How many bytes of the output were compared already."""

    def output(self) -> str:
        """What came since then, without time stamps."""
        return _STAMP.sub("", self.log.read_bytes()[self.read :].decode())


class Typist:
    """Types the steps of a page in ``directory``.

    Machines that prompts name have a home of their own each. With ``lab`` they are network namespaces on one local
    network, else they are on loopback, with other ports than those of the page.
    """

    def __init__(self, directory: Path, lab: Lab | None = None, hosts: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.session = Session({port: str(reserved_port()) for port in PORTS})
        self.nodes: list[subprocess.Popen[str]] = []
        self._lab = lab
        self._running: dict[str, list[Running]] = {}
        self._last_code: dict[str, int] = {}
        self._addresses: dict[str, str] = {}
        for host in hosts:
            (directory / host).mkdir()
        if hosts and lab is not None:
            for host in hosts:
                lab.host(host)
            lab.lan(1, *hosts)
            self._addresses = {host: f"10.98.1.{at}:9012" for at, host in enumerate(hosts, start=1)}
        elif hosts:
            self._addresses = {host: f"127.0.0.1:{reserved_port()}" for host in hosts}

    def type(self, step: Step) -> None:
        """Do a step and compare what it prints."""
        command = self.real(step.command)
        if command == _INTERRUPT:
            self.interrupt(step)
        elif command.endswith("&") or (step.host and _stays(command)):
            self.leave_running(command, step)
        elif command.startswith("kill "):
            self.stop()
        else:
            if command.startswith("crabnet seed publish") and not step.host:
                self.acquainted()
            self.once(command, step.shown, step.host)

    def real(self, text: str) -> str:
        """What the page shows, with the addresses and ids of this run."""
        return self.addressed(self.session.real(text))

    def addressed(self, text: str) -> str:
        """What the page shows, with the addresses of this run."""
        for host, address in self._addresses.items():
            text = text.replace(f"{ADDRESSES[host]}:9012", address)
            text = text.replace(ADDRESSES[host], address.partition(":")[0])
        return text

    def acquainted(self) -> None:
        """All nodes have heard of one another: whoever types by hand takes longer than that."""
        names = ("alice", "bob", "carol")[: len(self.nodes)]
        others = len(names) - 1
        wait_for("all hear all", lambda: all(self.ask(name, "status")["peers"] == others for name in names))

    def ask(self, name: str, method: str) -> dict[str, object]:
        """A method of the node with this data dir."""
        return cast(dict[str, object], call(self.directory / "net" / name, method, {}, 10_000))

    def place(self, host: str) -> Path:
        """The directory in which somebody types."""
        return self.directory / host if host else self.directory

    def prefix(self, host: str) -> list[str]:
        """What runs a command on a machine."""
        return ["ip", "netns", "exec", self._lab.namespace(host)] if host and self._lab is not None else []

    def environment(self, host: str) -> dict[str, str]:
        """The environment of a machine: a home of its own, and on loopback another port."""
        if not host:
            return environment()
        settings = {"HOME": str(self.place(host))}
        if self._lab is None:
            settings |= {
                "CRABNET_LISTEN_ADDR": self._addresses[host],
                "CRABNET_ANNOUNCE_ADDRS": "",
                "CRABNET_WEB_ADDR": "off",
            }
        return environment(**settings)

    def leave_running(self, command: str, step: Step) -> None:
        """Start a command that stays, and wait until it has shown what the page shows."""
        words = shlex.split(command.removesuffix("&"))
        assert words[0] == "crabnet"
        log = self.directory / f"{len(self.nodes)}.log"
        with log.open("w", encoding="utf-8") as output:
            node = subprocess.Popen(
                [*self.prefix(step.host), *CRABNET, *words[1:]],
                cwd=self.place(step.host),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                text=True,
                env=self.environment(step.host),
            )
        self.nodes.append(node)
        running = Running(node, log)
        self._running.setdefault(step.host, []).append(running)
        self.await_output(running, step)

    def await_output(self, running: Running, step: Step) -> None:
        """Wait until a command that runs has written what the page shows."""

        wanted = [self.addressed(line) for line in step.shown]

        def differs() -> str:
            assert running.process.poll() in {None, 0, 130}, running.output()
            return self.session.difference(wanted, running.output().splitlines())

        deadline = time.monotonic() + DEADLINE_S
        while difference := differs():
            assert time.monotonic() < deadline, f"$ {step.command}\n{difference}"
            time.sleep(_POLL_S)
        running.read = running.log.stat().st_size

    def interrupt(self, step: Step) -> None:
        """Ctrl-C for the last command that was left running on a machine."""
        running = self._running[step.host].pop()
        if earned := re.search(r"earned (\d+)", "\n".join(step.shown)):
            wait_for(
                "the worker hears of its settlements",
                lambda: earned_by(self.place(step.host) / ".crabnet") == int(earned[1]),
            )
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(DEADLINE_S) == 130, running.output()
        self.nodes.remove(running.process)
        self.await_output(running, step._replace(shown=["[…]", *step.shown]))

    def once(self, command: str, shown: list[str], host: str = "") -> None:
        """Run a command to its end, again for as long as the news that it needs has not come."""
        shell = f'crabnet() {{ {shlex.join(CRABNET)} "$@"; }}\n(exit {self._last_code.get(host, 0)})\n{command}'
        wanted = [self.addressed(line) for line in shown]
        fails = any(line.startswith("error: ") for line in wanted)
        may_fail = fails or host != ""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            done = subprocess.run(
                [*self.prefix(host), "/bin/sh", "-c", shell],
                cwd=self.place(host),
                capture_output=True,
                text=True,
                check=False,
                env=self.environment(host),
                timeout=DEADLINE_S,
            )
            difference = self.session.difference(wanted, (done.stdout + done.stderr).splitlines())
            if not difference and (done.returncode != 0 if fails else done.returncode == 0 or may_fail):
                self._last_code[host] = done.returncode
                return
            again = command.startswith(tuple(f"crabnet {words}" for words in READING)) or (
                done.returncode != 0 and not command.startswith("crabnet run")
            )
            assert again, f"$ {command}\n{done.stdout}{done.stderr}{difference}"
            assert time.monotonic() < deadline, f"$ {command}\n{done.stdout}{done.stderr}{difference}"
            time.sleep(_POLL_S)

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


def _stays(command: str) -> bool:
    """True for a command that runs until it is told to end."""
    words = shlex.split(command, comments=True)
    return words[:2] in (["crabnet", "listen"], ["crabnet", "work"]) and not {"status", "--dry-run", "|"} & set(words)


def lab_or_none(stack: ExitStack) -> Lab | None:
    """Machines as network namespaces, if this user can make them."""
    if os.geteuid() != 0 or shutil.which("ip") is None or not Path("/dev/net/tun").exists():
        return None
    if subprocess.run(["ip", "netns", "add", f"cn{os.getpid()}-probe"], capture_output=True, check=False).returncode:
        return None
    subprocess.run(["ip", "netns", "del", f"cn{os.getpid()}-probe"], capture_output=True, check=False)
    return stack.enter_context(Lab())
