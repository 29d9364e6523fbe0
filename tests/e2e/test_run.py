"""`crabnet run` and `crabnet attach` with real nodes: output, exit codes, Ctrl-C, restarts, with and without a node."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from crabnet.cli.purchase import RunExit
from crabnet.control.client import short_socket_path
from tests.support.nodes import CRABNET, DEADLINE_S, Json, NodeProcess, Nodes, environment, wait_for
from tests.support.polling import readable

pytestmark = pytest.mark.deep
ALLOWED = "sh,sleep,echo,printf,cat,head"


class Market:
    """A buyer, and two workers that run what it buys."""

    def __init__(self, directory: Path) -> None:
        self.nodes = Nodes(directory)
        self.buyer = self.nodes.start("buyer")
        self.workers = [self.worker("cheap", "2"), self.worker("dear", "3")]
        wait_for("the nodes know one another", lambda: cast(int, self.buyer.ask("status")["peers"]) >= 2)

    def worker(self, name: str, price: str) -> NodeProcess:
        words = ("--join", self.buyer.listen, "--allow", ALLOWED, "--price", price)
        node = self.nodes.make(name, [], *words)
        node.command = "work"
        return node.start()

    def begin(self, *words: str, command: str = "run", **popen: object) -> subprocess.Popen[bytes]:
        """A command of the buyer, under way."""
        line = [*CRABNET, command, "--data-dir", str(self.buyer.data_dir), *words]
        streams: dict[str, object] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(line, env=environment(), **{**streams, **popen})  # type: ignore[call-overload, no-any-return]

    def run(self, *words: str, command: str = "run") -> subprocess.CompletedProcess[bytes]:
        """A command of the buyer, to its end."""
        return ended(self.begin(*words, command=command))

    def task(self, title: str, *statuses: str) -> str:
        """The task of the buyer with this title, once it has one of these statuses."""

        def found() -> str | None:
            seeds = cast(list[Json], self.buyer.ask("seed.list", limit=20)["seeds"])
            return next((str(s["id"]) for s in seeds if s["title"] == title and s["status"] in statuses), None)

        return wait_for(f"{title} is {statuses}", found)


def ended(process: subprocess.Popen[bytes]) -> subprocess.CompletedProcess[bytes]:
    try:
        out, err = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert b"Traceback" not in (err or b""), err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(name="market", scope="module")
def _market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    market = Market(tmp_path_factory.mktemp("market"))
    yield market
    market.nodes.close()


def test_the_exit_code_is_that_of_the_command(market: Market) -> None:
    codes = {0: 0, 7: 7, 239: 239, 240: 250, 245: 250, 250: 250, 251: 251, 255: 255}
    scripts = {code: f"echo out; echo err >&2; exit {code}" for code in codes}
    begun = {code: market.begin("--award", "first", "--", "sh", "-c", script) for code, script in scripts.items()}
    for code, process in begun.items():
        done = ended(process)
        assert done.returncode == codes[code]
        assert done.stdout == b"out\n"
        own = f"crabnet: the command ended with the exit code {code}\n" if 240 <= code <= 250 else ""
        assert done.stderr.decode() == f"err\n{own}"


def test_output_is_passed_on_byte_for_byte(market: Market) -> None:
    script = r"printf '\000\377\200\r\n\033[31m'; printf '\377\000' >&2"
    done = market.run("--award", "first", "--", "sh", "-c", script)
    assert (done.stdout, done.stderr) == (b"\x00\xff\x80\r\n\x1b[31m", b"\xff\x00")


@pytest.mark.parametrize("words", [["a", "b  c", "d'e", '"', "*", "$HOME", "", "--json", "a;b|c", "日本", "\t", "#x"]])
def test_words_reach_the_worker_as_they_are(market: Market, words: list[str]) -> None:
    done = market.run("--award", "first", "--", "printf", "<%s>", *words)
    assert done.stdout.decode() == "".join(f"<{word}>" for word in words)


def test_one_word_is_a_command_line(market: Market) -> None:
    assert market.run("--award", "first", "--", "echo 'a  b' c").stdout == b"a  b c\n"


def test_output_that_is_cut_is_a_failure(market: Market) -> None:
    done = market.run("--award", "first", "--", "head", "-c", "3000000", "/dev/zero")
    assert done.returncode == RunExit.OUTPUT_INCOMPLETE
    assert done.stdout.startswith(b"\x00" * 1000)
    assert done.stderr.startswith(b"crabnet: output_cut: ")


def test_big_output_comes_whole(market: Market) -> None:
    done = market.run("--award", "first", "--", "sh", "-c", "head -c 30000 /dev/zero | cat; echo end")
    assert (done.returncode, done.stdout) == (0, b"\x00" * 30_000 + b"end\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--max-price", "1", "--bid-window", "1s", "echo"], RunExit.NO_DEAL, "no_bids: no worker has bid: "),
        (["--bid-window", "1s", "nosuch"], RunExit.NO_DEAL, "2 do not allow nosuch"),
        (["--award", "first", "--retries", "0", "--expect-exit", "1", "echo"], RunExit.REJECTED, "exit_code_differs"),
        (["--nosuch"], RunExit.USAGE, "invalid_argument: "),
        ([], RunExit.USAGE, "Missing argument"),
        (["--timeout", "soon", "echo"], RunExit.USAGE, "'soon'"),
        (["--", " "], RunExit.USAGE, "the command is empty"),
    ],
)
def test_own_failures(market: Market, words: list[str], code: RunExit, said: str) -> None:
    done = market.run(*words)
    assert done.returncode == code
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("crabnet: ")
    assert said in line


def test_the_next_worker_is_tried_after_a_rejection(market: Market) -> None:
    words = ["--bid-wait", "1s", "--retries", "1", "--check", "false", "--json", "--", "echo", "hello"]
    done = market.run(*words)
    assert done.returncode == RunExit.REJECTED
    shown = json.loads(done.stdout)
    assert (shown["exit_code"], shown["tries"], shown["reason"]) == (None, 2, "check_failed")
    second = market.buyer.seed(shown["seed_id"])
    first = market.buyer.seed(str(second["follows"]))
    assert (first["status"], second["status"]) == ("Rejected", "Rejected")
    assert {first["claimed_by"], second["claimed_by"]} == {worker.node_id for worker in market.workers}


def test_json_tells_all(market: Market) -> None:
    done = market.run("--award", "first", "--json", "--", "sh", "-c", "echo out; exit 245")
    shown = json.loads(done.stdout)
    assert done.returncode == RunExit.NOT_PASSED_ON
    assert (shown["exit_code"], shown["stage"], shown["result"]["stdout"]) == (245, "settled", "out\n")
    failed = market.run("--json", "--nosuch")
    assert json.loads(failed.stderr)["error"]["exit_code"] == failed.returncode == RunExit.USAGE


# --- leaving and coming back ------------------------------------------------------------------------------


def test_a_purchase_is_left_to_the_node_and_taken_up_again(market: Market) -> None:
    detached = market.run("--detach", "--award", "first", "--", "sh", "-c", "sleep 1; echo late; exit 5")
    assert (detached.returncode, detached.stderr) == (0, b"")
    seed_id = detached.stdout.decode().strip()
    for given in (seed_id, seed_id[:8], "@last"):
        done = market.run(given, command="attach")
        assert (done.returncode, done.stdout, done.stderr) == (5, b"late\n", b"")
    stranger = market.workers[0].publish("echo x")
    wait_for("it is known", lambda: market.buyer.status(stranger))
    refused = market.run(stranger, command="attach")
    assert refused.returncode == RunExit.REFUSED
    assert b"is not a task of this node" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_purchase_goes_on_when_the_terminal_dies(market: Market, number: int) -> None:
    title = f"dies by {number}"
    process = market.begin("--title", title, "--award", "first", "--", "sh", "-c", "sleep 3; echo done")
    seed_id = market.task(title, "Running")
    process.send_signal(number)
    ended(process)
    wait_for("it is settled", lambda: market.buyer.status(seed_id) == "Accepted")
    assert market.run(seed_id, command="attach").stdout == b"done\n"


@pytest.mark.parametrize("stage", ["published", "awarded", "running"])
def test_ctrl_c_withdraws_and_says_so(market: Market, stage: str) -> None:
    words = ["nosuch"] if stage == "published" else ["--award", "first", "sleep", "60"]
    process = market.begin("--title", f"taken back when {stage}", *words)
    status = {"published": "Open", "awarded": "Claimed", "running": "Running"}[stage]
    seed_id = market.task(f"taken back when {stage}", status, "Running")
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert done.returncode == RunExit.WITHDRAWN
    assert done.stdout == b""
    assert done.stderr.decode() == f"crabnet: withdrawn: the task {seed_id} is taken back\n"
    assert market.buyer.status(seed_id) == "Expired"


def test_ctrl_c_after_the_result_says_what_happens_instead(market: Market) -> None:
    """A check that takes a while holds the purchase in judgement."""
    process = market.begin("--title", "slow check", "--award", "first", "--check", "sleep 3", "--", "echo", "hello")
    seed_id = market.task("slow check", "Done")
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert (done.returncode, done.stdout) == (0, b"hello\n")
    assert done.stderr.startswith(b"crabnet: not withdrawn: ")
    assert market.buyer.status(seed_id) == "Accepted"


def test_a_second_ctrl_c_leaves_at_once(market: Market) -> None:
    process = market.begin("--title", "slower", "--award", "first", "--check", "sleep 6", "--", "echo", "hello")
    assert process.stderr is not None
    seed_id = market.task("slower", "Done")
    process.send_signal(signal.SIGINT)
    assert readable([process.stderr.fileno()], DEADLINE_S)
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert done.returncode == RunExit.LEFT
    assert f"crabnet: left: the task goes on: crabnet attach {seed_id}" in done.stderr.decode()
    assert market.run(seed_id, command="attach").stdout == b"hello\n"


def test_a_progress_line_is_rewritten_in_place_and_removed(market: Market) -> None:
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    process = market.begin("--award", "first", "--", "sh", "-c", "sleep 2; echo out", stderr=theirs)
    os.close(theirs)
    written = b""
    while readable([own], DEADLINE_S):
        try:
            chunk = os.read(own, 65_536)
        except OSError:
            break
        written += chunk
    os.close(own)
    done = ended(process)
    assert (done.returncode, done.stdout) == (0, b"out\n")
    lines = written.decode().split("\r")
    assert b"\n" not in written
    assert any("running for" in line for line in lines)
    assert all(len(line) < 40 for line in lines)
    screen = [" "] * 40
    for line in lines:
        screen[: len(line)] = line
    assert not "".join(screen).strip()


# --- restarts -----------------------------------------------------------------------------------------------


def test_a_restart_of_the_node_goes_on_with_everything(nodes: Nodes, tmp_path: Path) -> None:
    market = Market(tmp_path / "market")
    try:
        waiting = market.begin("--title", "first", "--award", "first", "--", "sh", "-c", "sleep 3; echo first")
        first = market.task("first", "Running")
        detached = market.run("--detach", "--bid-wait", "4s", "--", "echo", "second")
        second = detached.stdout.decode().strip()
        market.buyer.kill()
        market.buyer.start()
        done = ended(waiting)
        assert (done.returncode, done.stdout) == (0, b"first\n")
        assert market.run(second, command="attach").stdout == b"second\n"
        for seed_id in (first, second):
            assert len(market.buyer.rows(seed_id, "claims")) == 1
            assert len(market.buyer.rows(seed_id, "settlements")) == 1
    finally:
        market.nodes.close()


# --- without a running node -----------------------------------------------------------------------------------


def alone(data_dir: Path, peer: NodeProcess, *words: str, command: str = "run") -> subprocess.Popen[bytes]:
    line = [*CRABNET, command, "--data-dir", str(data_dir), "--join", peer.listen, "--listen-addr", "127.0.0.1:0"]
    return subprocess.Popen(
        [*line, *words], env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_without_a_node_the_command_is_one_until_the_end(market: Market, tmp_path: Path) -> None:
    data_dir = tmp_path / "alone"
    peer = market.workers[0]
    done = ended(alone(data_dir, peer, "--award", "first", "--", "sh", "-c", "echo hello; exit 3"))
    assert (done.returncode, done.stdout, done.stderr) == (3, b"hello\n", b"")

    first = alone(data_dir, peer, "--award", "first", "--", "sh", "-c", "sleep 2; echo first")
    wait_for("its node serves", lambda: (data_dir / "control.sock").exists() or None)
    second = alone(data_dir, peer, "--award", "first", "--", "sh", "-c", "sleep 5; echo second")
    assert ended(first).stdout == b"first\n"
    assert ended(second).stdout == b"second\n"

    left = alone(data_dir, peer, "--detach", "--award", "first", "--", "echo", "later")
    told = ended(left)
    assert b"no node runs here" in told.stderr
    again = ended(alone(data_dir, peer, told.stdout.decode().strip(), command="attach"))
    assert (again.returncode, again.stdout) == (0, b"later\n")


def test_a_node_that_ends_before_it_answers_is_not_the_end_of_the_command(market: Market, tmp_path: Path) -> None:
    """The node of another command may end at any moment. This command then is the next node, and publishes once."""
    data_dir = tmp_path / "alone"
    data_dir.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as ending, short_socket_path(data_dir / "control.sock") as address:
        ending.bind(address)
        ending.listen()
        ending.settimeout(DEADLINE_S)
        process = alone(data_dir, market.workers[0], "--award", "first", "--", "echo", "once")
        asked, _ = ending.accept()
        with asked:
            while b"seed.publish" not in asked.recv(100_000):
                pass
            (data_dir / "control.sock").unlink()
            ending.close()
    done = ended(process)
    assert (done.returncode, done.stdout) == (0, b"once\n")
    seeds = cast(list[Json], market.workers[0].ask("seed.list", limit=20)["seeds"])
    assert [seed["title"] for seed in seeds].count("echo once") == 1


def test_ctrl_c_without_a_node(market: Market, tmp_path: Path) -> None:
    process = alone(tmp_path / "alone", market.workers[0], "--award", "first", "--", "sleep", "60")
    seen = market.workers[0]
    wait_for("it runs", lambda: any(
        seed["status"] == "Running" and seed["title"] == "sleep 60"
        for seed in cast(list[Json], seen.ask("seed.list", limit=20)["seeds"])
    ))  # fmt: skip
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert done.returncode == RunExit.WITHDRAWN
    wait_for("the worker hears of it", lambda: all(
        seed["status"] != "Running" for seed in cast(list[Json], seen.ask("seed.list", limit=20)["seeds"])
    ))  # fmt: skip


def test_the_command_needs_no_more_modules_than_it_did() -> None:
    """Its start is a large part of what a short command takes."""
    script = "import sys, crabnet.cli.run; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    names = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"msgspec", "trio", "asyncio", "sqlite3", "cryptography", "starlette"} & set(names)
