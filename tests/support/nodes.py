"""Real nodes for tests: `crabnet listen` processes on loopback, on free ports, ended by their process ids."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

from crabnet.control.client import JsonValue, call
from crabnet.errors import CrabnetError, Reason
from crabnet.monitor.events import Event
from crabnet.monitor.reader import read_events
from crabnet.runner import scratch
from crabnet.runner.sandbox import cgroups
from tests.support.polling import readable
from tests.support.warm import run_warm

T = TypeVar("T")
Json = dict[str, JsonValue]

CRABNET = [sys.executable, "-m", "crabnet"]
DEADLINE_S = 60
"""How long a test waits for anything; only a failure takes so long."""
_POLL_S = 0.02


def environment(**changes: str) -> dict[str, str]:
    """The environment for processes under test: ours, without settings that somebody may have exported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CRABNET_")}
    return {**kept, **changes}


def wait_for(what: str, probe: Callable[[], T | None], deadline_s: float = DEADLINE_S) -> T:
    """Ask ``probe`` until it gives something true, and return that. Blocks; fails after the deadline."""
    deadline = time.monotonic() + deadline_s
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {deadline_s} s in vain: {what}")
        time.sleep(_POLL_S)


def earned_by(data_dir: Path) -> int:
    """What the worker that runs here has earned since its start, as far as it has heard of settlements."""
    status = cast(Json, call(data_dir, "work.status", {}, 10_000))
    return cast(int, cast(Json, status["session"])["earned"])


def crabnet(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """One command, to its end. Whatever it does, it prints no traceback."""
    given = env or environment()
    done = run_warm([*words], given, DEADLINE_S) or subprocess.run(
        [*CRABNET, *words], capture_output=True, text=True, check=False, env=given, timeout=DEADLINE_S
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def quiet(data_dir: Path) -> list[str]:
    """Flags for a command on a data dir that is to send to nobody."""
    return ["--data-dir", str(data_dir), "--listen-addr", "127.0.0.1:0", "--announce-addr", ""]


class NodeProcess:
    """A node on ``data_dir``; ``peers`` are the addresses it announces to. Started anew by ``start`` after its end."""

    def __init__(
        self, data_dir: Path, peers: Iterable[str] = (), *words: str, env: dict[str, str] | None = None
    ) -> None:
        self.data_dir = data_dir
        self.peers = tuple(peers)
        self.words = words
        self.env = env
        self.process: subprocess.Popen[str] | None = None
        self.listen = "127.0.0.1:0"
        self.node_id = ""
        self.program = CRABNET
        self.command = "listen"
        self.limit_file_bytes: int | None = None
        self.netns: str | None = None
        self._errors = data_dir.with_name(f"{data_dir.name}.stderr")

    def launch(self) -> None:
        """Begin to start, without waiting."""
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        words = [self.command, "--data-dir", str(self.data_dir), "--listen-addr", self.listen]
        words += ["--announce-addr", ",".join(self.peers), "--sync-interval-ms", "200", "--feed-wait-ms", "500"]
        words += ["--web-addr", "off"]  # tests of the web process give another address in their words
        words += self.words
        with self._errors.open("a", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [*self._prefix(), *self.program, *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=self.env or environment(),
                start_new_session=True,
            )

    def _prefix(self) -> list[str]:
        words = [] if self.netns is None else ["ip", "netns", "exec", self.netns]
        return words if self.limit_file_bytes is None else [*words, "prlimit", f"--fsize={self.limit_file_bytes}"]

    def ready(self) -> None:
        """Wait until it listens; from then on ``listen`` is its address, also after a restart."""
        process = self.process
        assert process is not None
        assert process.stdout is not None
        line = process.stdout.readline() if readable([process.stdout], DEADLINE_S) else ""
        match = re.fullmatch(r"listen started on Udp:(.+:\d+)\n", line)
        assert match is not None, f"no node on {self.data_dir}: {line!r} {self.errors()}"
        self.listen = match[1]
        self.node_id = str(self.ask("id")["node_id"])

    def start(self) -> NodeProcess:
        """Start and wait until it listens."""
        self.launch()
        self.ready()
        return self

    @property
    def source(self) -> str:
        """How other nodes name it."""
        return f"udp:{self.listen}"

    @property
    def address(self) -> tuple[str, int]:
        """Where it receives."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self.process is not None and self.process.poll() is None

    def errors(self) -> str:
        """Everything it wrote to standard error."""
        return self._errors.read_text(encoding="utf-8") if self._errors.exists() else ""

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal the process, wait for its end, return its exit code."""
        process = self.process
        assert process is not None
        with suppress(ProcessLookupError):
            process.send_signal(number)
        return self.await_end()

    def await_end(self) -> int:
        """Wait for the end of the process, return its exit code."""
        process = self.process
        assert process is not None
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
        self.process = None
        return process.returncode

    def kill(self) -> None:
        """kill -9."""
        self.end(signal.SIGKILL)

    # --- asking and telling ----------------------------------------------------------------------------

    def ask(self, method: str, **params: JsonValue) -> Json:
        """One call over the control socket."""
        return cast(Json, call(self.data_dir, method, params, DEADLINE_S * 1000))

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command on this data dir."""
        return crabnet(*words, "--data-dir", str(self.data_dir))

    def ok(self, *words: str) -> str:
        """The output of a command that must succeed."""
        done = self.cli(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def publish(self, command: str = "echo hi", **params: JsonValue) -> str:
        """Publish over the control socket; the seed's id."""
        given: Json = {"title": "t", "command": command, **params}
        seed = self.ask("seed.publish", **given)["seed"]
        return str(cast(Json, seed)["id"])

    def bid(self, seed_id: str, price: int) -> str:
        """Bid over the control socket; the bid's id."""
        return str(cast(Json, self.ask("seed.bid", seed_id=seed_id, price=price)["bid"])["id"])

    def status(self, seed_id: str) -> str:
        """The status of a seed here, "" while it is unknown."""
        return str(self.seed(seed_id).get("status", ""))

    def seed(self, seed_id: str) -> Json:
        """A seed as it stands here, empty while it is unknown."""
        return cast(Json, self.show(seed_id).get("seed", {}))

    def show(self, seed_id: str) -> Json:
        """All about a seed, empty while it is unknown."""
        try:
            return self.ask("seed.show", seed_id=seed_id)
        except CrabnetError as error:
            if error.reason is Reason.UNKNOWN_SEED:
                return {}
            raise

    def rows(self, seed_id: str, name: str) -> list[Json]:
        """``bids``, ``claims``, ``runs``, ``results`` or ``settlements`` of a seed."""
        return cast(list[Json], self.show(seed_id).get(name, []))

    def seed_ids(self) -> set[str]:
        """All seeds known here."""
        found: set[str] = set()
        after: JsonValue = None
        while True:
            page = self.ask("seed.list", limit=1000, after=after)
            found |= {str(seed["id"]) for seed in cast(list[Json], page["seeds"])}
            after = page["next"]
            if after is None:
                return found

    def state_hash(self) -> str:
        """The hash of everything replicated."""
        return str(self.ask("status")["state_hash"])

    def events(self, *kinds: str, **payload: object) -> list[Event]:
        """Events of these kinds (any, when none is named) whose payload has these values, from the node's files."""
        page = read_events(self.data_dir, kinds=kinds or None)
        return [event for event in page.events if payload.items() <= event.payload.items()]

    def await_event(self, *kinds: str, **payload: object) -> Event:
        """The first such event, waited for."""
        found = wait_for(f"{kinds} {payload} in {self.data_dir.name}", lambda: self.events(*kinds, **payload))
        return found[0]

    def send_to(self, data: bytes, sock: socket.socket | None = None) -> None:
        """Send one datagram to this node from a socket, or from a new one."""
        if sock is not None:
            sock.sendto(data, self.address)
            return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(data, self.address)


def sweep_runs(data_dir: Path) -> None:
    """Remove what a killed node's runs and self-test left, as its next start would do."""
    scratch.sweep(cgroups.owner_tag(data_dir))


class Nodes:
    """Makes nodes and ends whatever of them still runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.made: list[NodeProcess] = []

    def make(self, name: str, peers: Iterable[str] = (), *words: str, env: dict[str, str] | None = None) -> NodeProcess:
        """A node that is not started yet."""
        node = NodeProcess(self.directory / name, peers, *words, env=env)
        self.made.append(node)
        return node

    def start(
        self, name: str, peers: Iterable[str] = (), *words: str, env: dict[str, str] | None = None
    ) -> NodeProcess:
        """A node that listens."""
        return self.make(name, peers, *words, env=env).start()

    def mesh(self, *names: str) -> list[NodeProcess]:
        """Nodes that all know one another."""
        nodes: list[NodeProcess] = []
        for name in names:
            nodes.append(self.start(name, [node.listen for node in nodes]))
        last = len(nodes) - 1
        wait_for(
            "the nodes confirm one another",
            lambda: all(cast(int, node.ask("status")["peers"]) >= last - at for at, node in enumerate(nodes)),
        )
        return nodes

    def close(self) -> None:
        """kill -9 to all that still run, and remove what that leaves."""
        for node in self.made:
            if node.process is not None:
                node.kill()
            sweep_runs(node.data_dir)
        for node in self.made:
            if node.program is CRABNET and node.data_dir.is_dir():
                assert not node.events("fault_contained", "replica_failed")


def converge(nodes: list[NodeProcess], seed_ids: Iterable[str] = (), status: str = "Accepted") -> str:
    """Wait until all nodes hold the same state, with these seeds in this status; returns the state hash."""
    wanted = list(seed_ids)

    def same() -> str | None:
        hashes = {node.state_hash() for node in nodes}
        if len(hashes) != 1 or any(node.status(seed_id) != status for node in nodes for seed_id in wanted):
            return None
        return hashes.pop()

    try:
        return wait_for(f"{len(nodes)} nodes agree", same)
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *(str(node.ask("status")) for node in nodes)])) from None


def whole_job(publisher: NodeProcess, worker: NodeProcess, command: str = "echo hi", **params: JsonValue) -> str:
    """publish, bid, claim, run and settle, each at its node when the news has come there; the seed's id."""
    seed_id = publisher.publish(command, **params)
    wait_for("the seed comes to the worker", lambda: worker.status(seed_id) == "Open")
    bid_id = worker.bid(seed_id, 5)
    wait_for("the bid comes to the publisher", lambda: publisher.rows(seed_id, "bids"))
    publisher.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
    wait_for("the claim comes to the worker", lambda: worker.status(seed_id) == "Claimed")
    worker.ask("seed.run", seed_id=seed_id)
    wait_for("the result comes to the publisher", lambda: publisher.status(seed_id) == "Done")
    publisher.ask("seed.settle", seed_id=seed_id, outcome="Accepted")
    return seed_id


def json_line(text: str) -> Json:
    """One JSON object that a command printed."""
    return cast(Json, json.loads(text))
