"""A node tells the service manager that started it what it does, and nothing that it starts can do so in its name."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from crabnet.node.service_manager import ServiceManager
from tests.support.nodes import CRABNET, DEADLINE_S, NodeProcess, Nodes, crabnet, environment, quiet, wait_for

WATCHDOG_S = 1
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Manager:
    """A service manager: a datagram socket with a path, or with an abstract name."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.settimeout(DEADLINE_S)

    def environment(self, **more: str) -> dict[str, str]:
        """The environment that it gives to a service."""
        return environment(NOTIFY_SOCKET=self.address, **more)

    def message(self) -> dict[str, str]:
        """The next message."""
        return dict(line.split("=", 1) for line in self.socket.recv(65_536).decode().splitlines())

    def await_message(self, wanted: Callable[[dict[str, str]], bool]) -> list[dict[str, str]]:
        """All messages up to the first that is wanted."""
        found = [self.message()]
        deadline = time.monotonic() + DEADLINE_S
        while not wanted(found[-1]):
            assert time.monotonic() < deadline, found
            found.append(self.message())
        return found

    def rest(self) -> list[dict[str, str]]:
        """The messages that have come already."""
        found = []
        self.socket.setblocking(False)
        try:
            while True:
                found.append(self.message())
        except BlockingIOError:
            return found
        finally:
            self.socket.settimeout(DEADLINE_S)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"@crabnet-test-{os.getpid()}-{time.monotonic_ns()}"
    made = Manager(str(tmp_path / "notify") if request.param == "path" else name)
    yield made
    made.socket.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    made.close()


def is_ready(message: dict[str, str]) -> bool:
    return message.get("READY") == "1"


def test_from_the_start_to_the_end(manager: Manager, nodes: Nodes) -> None:
    node = nodes.make("node", env=manager.environment(WATCHDOG_USEC=str(WATCHDOG_S * 1_000_000)))
    node.launch()
    before = manager.await_message(is_ready)
    node_id = str(node.ask("id")["node_id"])  # it answers at once: ready means ready
    node.ready()
    assert before[0] == {"STATUS": f"opening {node.data_dir}"}
    assert [message for message in before if "READY" in message] == [
        {"READY": "1", "STATUS": f"node {node_id} listens on {node.listen}"}
    ]
    assert any(int(message.get("EXTEND_TIMEOUT_USEC", 0)) > 0 for message in before)
    alive = [manager.message() for _ in range(3)]
    assert alive == [{"WATCHDOG": "1"}] * 3
    assert node.end() == 0
    after = [message for message in manager.rest() if message != {"WATCHDOG": "1"}]
    assert after
    assert all(message["STOPPING"] == "1" for message in after)


def test_a_drain_gets_the_time_that_it_may_take(manager: Manager, nodes: Nodes) -> None:
    drain_ms = 600_000
    node = nodes.make("node", (), "--runner-drain-ms", str(drain_ms), env=manager.environment()).start()
    seed_id = claimed(node, "sleep 600")
    run = subprocess.Popen([*CRABNET, "seed", "run", seed_id, "--data-dir", str(node.data_dir)], env=environment())
    wait_for("the run begins", lambda: node.events("run_started"))
    manager.rest()
    process = node.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    stopping = manager.await_message(lambda message: "STOPPING" in message)[-1]
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) > drain_ms * 1000
    assert stopping["STATUS"] == "1 run(s) may end"
    assert node.end() == 0  # the second signal ends the run at once
    run.wait(DEADLINE_S)


def test_nothing_that_the_node_starts_can_speak_for_it(manager: Manager, nodes: Nodes) -> None:
    words = (
        "--runner-sandbox",
        "none",
        "--runner-environment",
        ",".join(VARIABLES),
        "--runner-allowed-commands",
        "env",
    )
    watchdog = {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}
    node = nodes.make("node", (), *words, env=manager.environment(**watchdog)).start()
    seed_id = claimed(node, "env")
    node.ask("seed.run", seed_id=seed_id)
    output = str(node.rows(seed_id, "results")[0]["stdout"])
    assert "PATH=" in output
    assert not any(name in output for name in VARIABLES)


def test_a_watchdog_of_another_process_is_none(manager: Manager, nodes: Nodes) -> None:
    node = nodes.make("node", env=manager.environment(WATCHDOG_USEC="1000", WATCHDOG_PID="1")).start()
    assert node.end() == 0
    assert not any("WATCHDOG" in message for message in manager.rest())


def test_a_command_beside_the_node_says_nothing(manager: Manager, tmp_path: Path) -> None:
    words = ["seed", "publish", "--title", "t", "--cmd", "echo hi", "--bid-window-ms", "600000"]
    done = crabnet(*words, *quiet(tmp_path / "data"), env=manager.environment(WATCHDOG_USEC="1000"))
    assert done.returncode == 0, done.stderr
    assert manager.rest() == []


@pytest.mark.parametrize(
    ("address", "said"), [("/nowhere/notify", "No such file or directory"), ("vsock:2:1", "neither a path nor")]
)
def test_a_node_goes_on_without_its_service_manager(nodes: Nodes, address: str, said: str) -> None:
    node = nodes.make("node", env=environment(NOTIFY_SOCKET=address, WATCHDOG_USEC="20000")).start()
    node.publish()
    assert node.end() == 0
    assert node.errors().count(said) == 1


def test_the_signs_of_life_stop_with_the_loop(manager: Manager) -> None:
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}

    async def live() -> None:
        service = ServiceManager.taken_from(environ, pytest.fail)
        async with trio.open_nursery() as nursery:
            await service.ready("")
            nursery.start_soon(service.keep_informed)
            while len(found) < 3:
                await trio.sleep(0)
                found.extend(manager.rest())
            manager.socket.settimeout(0.5)
            with pytest.raises(TimeoutError):
                manager.message()  # while it waits here, the loop stands still
            while not manager.rest():
                await trio.sleep(0)
            nursery.cancel_scope.cancel()

    found: list[dict[str, str]] = []
    trio.run(live)
    assert environ == {}


def test_a_status_is_one_line(manager: Manager) -> None:
    async def say() -> None:
        await ServiceManager(pytest.fail, manager.address).status("first\nREADY=1\rlast")

    trio.run(say)
    assert manager.rest() == [{"STATUS": "first READY=1 last"}]


def claimed(node: NodeProcess, command: str) -> str:
    """A seed that the node has claimed for itself."""
    seed_id = node.publish(command, timeout_ms=900_000)
    node.ask("seed.claim", seed_id=seed_id, bid_id=node.bid(seed_id, 1))
    return seed_id
