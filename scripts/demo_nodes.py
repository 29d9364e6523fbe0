"""The nodes of ``make demo``, which are real processes, and the output of the demo."""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TextIO, TypeVar

from crabnet import limits
from crabnet.control.client import JsonValue, call
from crabnet.errors import CrabnetError, Reason
from crabnet.signals import HeldSignals

T = TypeVar("T")

DEADLINE_S = 60
"""The maximum time of one step, also on a slow machine."""
STOP_S = 10
POLL_S = 0.02
COLOURS = {"buyer": 36, "worker": 34, "worker-1": 32, "worker-2": 33, "stranger": 35, "all": 1, "demo": 31}
PR_SET_PDEATHSIG = 1
UDP, DHT = NETWORKS = ("udp", "dht")
_SCHEMES = {UDP: "Udp", DHT: "Dht"}


class DemoError(Exception):
    """A step of the demo has failed."""


class Teller:
    """Prints lines at once to the terminal and, without colours, to the log file."""

    def __init__(self, log: TextIO | None) -> None:
        self.started = time.monotonic()
        self._log = log
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def heading(self, text: str) -> None:
        """Print the heading of a step."""
        self._write(f"\n{text}", 1)

    def say(self, who: str, text: str) -> None:
        """Print lines of one actor. Lines after the first are indented."""
        for index, line in enumerate(text.splitlines() or [""]):
            at = f"{time.monotonic() - self.started:5.1f}s  {who:<10}" if index == 0 else " " * 18
            self._write(f"{at} {line}", COLOURS[who])

    def _write(self, line: str, colour: int) -> None:
        shown = f"\x1b[{colour}m{line}\x1b[0m" if self._colour else line
        with suppress(BrokenPipeError):
            print(shown, flush=True)
        if self._log is not None:
            print(line, file=self._log, flush=True)


class Node:
    """A node as a process of its own, and commands on its data dir."""

    def __init__(self, name: str, directory: Path, tell: Teller, network: str) -> None:
        self.name = name
        self.data_dir = directory / name
        self.node_id = ""
        self.address = ""
        self._network = network
        self._tell = tell
        self._stderr_path = directory / f"{name}.stderr"
        self._process: subprocess.Popen[str] | None = None
        self._command_process: subprocess.Popen[str] | None = None

    def start(self, words: list[str], *, shown: bool = False) -> None:
        """Start the node with a command, on a free port. Returns when it listens. ``shown``: print the command.

        Raises DemoError.
        """
        if shown:
            self._tell.say(self.name, f"$ crabnet {shlex.join(words)}")
        words = [*words, "--listen-addr", "127.0.0.1:0", "--network", self._network, "--web-addr", "off"]
        words += ["--state-dir", str(self.data_dir.with_name("notes"))]
        words += ["--announce-addr", ""] if self._network == UDP else []
        words += ["--sync-interval-ms", "200", "--feed-wait-ms", "500"]
        with self._stderr_path.open("w", encoding="utf-8") as stderr, held_signals():
            self._process = subprocess.Popen(
                self._command(words), stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment(),
                start_new_session=True, preexec_fn=partial(end_with_parent, os.getpid()),  # noqa: PLW1509 - there are no threads here
            )  # fmt: skip
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], DEADLINE_S)
        line = self._process.stdout.readline() if ready else ""
        match = re.fullmatch(rf"listen started on {_SCHEMES[self._network]}:(.+)\n", line)
        if match is None:
            raise DemoError(f"{self.name} did not start: {self.last_words()}")
        self.address = match[1]
        self.node_id = str(self.ask("id")["node_id"])
        self._tell.say(self.name, f"{line.strip()}  (pid {self._process.pid})\nnode id {self.node_id}")

    def _command(self, words: list[str]) -> list[str]:
        own = ["--data-dir", str(self.data_dir)]
        at = words.index("--") if "--" in words else len(words)
        return [sys.executable, "-m", "crabnet", *words[:at], *own, *words[at:]]

    def run(self, *words: str, lines: int = limits.INTEGER_MAX) -> str:
        """Run a command while the node runs. Print it and the first lines of its output. Returns its standard output.

        Raises DemoError.
        """
        done = self._done(words)
        if done.returncode != 0:
            raise DemoError(f"{self.name}: exit code {done.returncode}: {done.stderr.strip()}")
        printed = (done.stdout or done.stderr).splitlines()
        more = [f"… {len(printed) - lines} more lines"] if len(printed) > lines else []
        self._tell.say(self.name, "\n".join([*printed[:lines], *more]))
        return done.stdout

    def refused(self, *words: str) -> None:
        """Run a command that has to fail. Print it and its error. Raises DemoError."""
        done = self._done(words)
        if done.returncode == 0:
            raise DemoError(f"{self.name}: crabnet {shlex.join(words)} should fail")
        self._tell.say(self.name, f"{done.stderr.strip()}\nexit code {done.returncode}")

    def _done(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self._tell.say(self.name, f"$ crabnet {shlex.join(words)}")
        with held_signals():
            self._command_process = process = subprocess.Popen(
                self._command(list(words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=environment(), cwd=self.data_dir.parent,
            )  # fmt: skip
        out, errors = process.communicate(timeout=DEADLINE_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    def knows(self, others: set[str]) -> bool:
        """True if all these nodes are among the peers of this one."""
        peers = self.ask("peers")["peers"]
        found = [peer for peer in peers if isinstance(peer, dict)] if isinstance(peers, list) else []
        return others <= {str(peer["node_id"]) for peer in found}

    def log(self) -> str:
        """What the process has written to standard error, without time stamps."""
        text = self._stderr_path.read_text(encoding="utf-8", errors="replace")
        return re.sub(r"^\S+Z ", "", text, flags=re.MULTILINE)

    def ask(self, method: str, **params: JsonValue) -> dict[str, JsonValue]:
        """Do a method over the control socket. Prints nothing."""
        answer = call(self.data_dir, method, params, DEADLINE_S * 1000)
        if not isinstance(answer, dict):
            raise DemoError(f"{self.name} answered {method} with {json.dumps(answer)}")
        return answer

    def seed(self, seed_id: str) -> dict[str, JsonValue]:
        """The data of this node about a seed; empty if the seed is unknown."""
        try:
            details = self.ask("seed.show", seed_id=seed_id)
        except CrabnetError as error:
            if error.reason is Reason.UNKNOWN_SEED:
                return {}
            raise
        seed = details["seed"]
        return {**details, "status": seed["status"]} if isinstance(seed, dict) else {}

    def bids(self, seed_id: str) -> list[dict[str, JsonValue]]:
        """The bids that this node knows, cheapest first."""
        found = self.seed(seed_id).get("bids", [])
        bids = [bid for bid in found if isinstance(bid, dict)] if isinstance(found, list) else []
        return sorted(bids, key=price_of)

    def last_words(self) -> str:
        """The last line that the process has written to standard error."""
        with suppress(OSError):
            lines = self._stderr_path.read_text(encoding="utf-8", errors="replace").splitlines()
            return lines[-1] if lines else "it wrote nothing"
        return "it wrote nothing"

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """End the node, and a command that still runs. Returns the exit code of the node, None if it never ran."""
        if self._command_process is not None and self._command_process.poll() is None:
            self._command_process.kill()
            self._command_process.wait()
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()
        return process.returncode


@contextmanager
def held_signals() -> Iterator[None]:
    """Let signals wait until the end of this: a process that was just started must be known to whoever ends it."""
    held = HeldSignals()
    held.hold()
    try:
        yield
    finally:
        held.release()


def environment() -> dict[str, str]:
    """The environment of this process without the user's settings of Crabnet."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CRABNET_")}


def end_with_parent(parent: int) -> None:
    """Have the kernel end this process if its parent, the demo, is killed (prctl(2)). Ends it at once if the parent is
    gone already.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def price_of(bid: dict[str, JsonValue]) -> int:
    """The price of a bid."""
    price = bid["price"]
    return price if isinstance(price, int) else limits.INTEGER_MAX


def wait_for(what: str, probe: Callable[[], T | None]) -> T:
    """Call ``probe`` until it returns a true value, and return that. Raises DemoError after DEADLINE_S seconds."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise DemoError(f"this did not happen within {DEADLINE_S} s: {what}")
        time.sleep(POLL_S)
