"""The command line with the real node, as processes on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from crabnet.control.client import call
from crabnet.errors import CrabnetError, Reason, UsageError
from crabnet.operations.table import OPERATIONS
from tests.support.nodes import crabnet, sweep_runs

CRABNET = [sys.executable, "-m", "crabnet"]
PUBLISH = ["seed", "publish", "--title", "t", "--cmd", "echo hi", "--bid-window-ms", "600000"]
Json = dict[str, object]
Start = Callable[..., "Node"]


class Node:
    """A ``crabnet listen`` process."""

    def __init__(self, data_dir: Path, *words: str) -> None:
        quiet = ["--listen-addr", "127.0.0.1:0", "--announce-addr", ""]
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [*CRABNET, "listen", "--data-dir", str(data_dir), *quiet, *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()

    @property
    def address(self) -> str:
        return self.first_line.strip().removeprefix("listen started on Udp:")

    def stop(self, signum: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Signal, wait, and return exit code and what was left on stdout and stderr."""
        self.process.send_signal(signum)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture
def start() -> Iterator[Start]:
    nodes: list[Node] = []

    def make(data_dir: Path, *words: str) -> Node:
        nodes.append(Node(data_dir, *words))
        return nodes[-1]

    yield make
    for node in nodes:
        node.process.kill()
        node.process.communicate()
        sweep_runs(node.data_dir)


def run(data_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    where = ["--data-dir", str(data_dir), "--listen-addr", "127.0.0.1:0", "--announce-addr", ""]
    return crabnet(*words, *where, env=dict(os.environ))


def ok(data_dir: Path, *words: str) -> str:
    done = run(data_dir, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_json(data_dir: Path, *words: str) -> Json:
    return cast(Json, json.loads(ok(data_dir, *words, "--json")))


def refused(data_dir: Path, code: int, *words: str) -> str:
    """The reason of a refusal, which is one line on stderr."""
    done = run(data_dir, *words)
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr.split(": ")[1]


def published(line: str) -> str:
    assert line.startswith("seed published ")
    return line.split()[2]


def listed(data_dir: Path) -> set[str]:
    return {line.split()[0] for line in ok(data_dir, "seed", "list").splitlines()}


def test_without_a_node_everything_works_on_the_data_dir(tmp_path: Path) -> None:
    seed_id = published(ok(tmp_path / "d", *PUBLISH, "--reward", "7"))
    expected = rf"{seed_id} \[OPEN\] cmd=echo hi timeout=120000ms reward=7 bids_until=\S+Z\n"
    assert re.fullmatch(expected, ok(tmp_path / "d", "seed", "list"))
    status = as_json(tmp_path / "d", "status")
    assert (status["running"], status["listen_addr"]) == (False, None)
    identity = as_json(tmp_path / "d", "id")
    assert str(identity["node_id"]).startswith("12D3KooW")
    assert identity["node_id"] == status["node_id"]
    assert not (tmp_path / "d" / "control.sock").exists()


def test_beside_a_node_everything_goes_through_it(tmp_path: Path, start: Start) -> None:
    node = start(tmp_path / "d")
    assert node.first_line.startswith("listen started on Udp:127.0.0.1:")
    seed_id = published(ok(tmp_path / "d", *PUBLISH))
    bid_id = ok(tmp_path / "d", "seed", "bid", seed_id, "--price", "3").split()[2]
    claim_id = ok(tmp_path / "d", "seed", "claim", seed_id, bid_id).split()[2]
    words = ok(tmp_path / "d", "seed", "run", seed_id).split()
    assert words[:2] == ["task", "result"]
    # SHA-256 of "hi\n", as any other program computes it
    assert words[3] == "hash=98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4"
    assert ok(tmp_path / "d", "seed", "settle", seed_id, "--accepted") == f"seed {seed_id} settled as Accepted\n"
    shown = as_json(tmp_path / "d", "seed", "show", seed_id)
    seed = cast(Json, shown["seed"])
    assert (seed["status"], seed["claim_id"], seed["result_id"]) == ("Accepted", claim_id, words[2])
    assert cast(list[Json], shown["bids"])[0] | {"counts": True, "claimed": True} == cast(list[Json], shown["bids"])[0]
    assert as_json(tmp_path / "d", "status")["running"] is True
    code, _, err = node.stop()
    assert code == 0, err
    assert "Traceback" not in err
    assert not (tmp_path / "d" / "control.sock").exists()
    assert as_json(tmp_path / "d", "status")["seeds"] == as_json(tmp_path / "d", "status")["seeds"]
    assert f"{seed_id} [ACCEPTED] " in ok(tmp_path / "d", "seed", "list")


def test_the_control_document_names_all_methods_and_fields(tmp_path: Path, start: Start) -> None:
    text = (Path(__file__).parents[2] / "docs" / "CONTROL.md").read_text(encoding="utf-8")
    start(tmp_path / "d")
    methods = re.findall(r"^### ([a-z.]+)$", text, re.MULTILINE)
    assert methods == [operation.name for operation in OPERATIONS]
    for method in methods:
        try:
            call(tmp_path / "d", method, {"no_such_param": 1}, 30_000)
        except CrabnetError as error:
            assert error.reason is Reason.INVALID_ARGUMENT, (method, error)  # noqa: PT017 - either outcome is judged
        else:
            pytest.fail(f"{method} took an unknown param")
    with pytest.raises(UsageError) as caught:
        call(tmp_path / "d", "no.such.method", {}, 30_000)
    assert caught.value.reason is Reason.UNKNOWN_OPERATION

    seed_id = published(ok(tmp_path / "d", *PUBLISH))
    bid_id = ok(tmp_path / "d", "seed", "bid", seed_id, "--price", "3").split()[2]
    ok(tmp_path / "d", "seed", "claim", seed_id, bid_id)
    ok(tmp_path / "d", "seed", "run", seed_id)
    ok(tmp_path / "d", "seed", "settle", seed_id, "--rejected", "--note", "n")
    shown = as_json(tmp_path / "d", "seed", "show", seed_id)
    objects = [as_json(tmp_path / "d", "status"), as_json(tmp_path / "d", "id"), shown, cast(Json, shown["seed"])]
    for name in ("bids", "claims", "runs", "results", "settlements"):
        items = cast(list[Json], shown[name])
        assert items, name
        objects += items
    objects_text = text.split("## Objects")[1]
    documented = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall(r"`[^`]+`", objects_text))))
    assert {key for item in objects for key in item} - shown.keys() - documented == set()


def test_rules_refuse_with_exit_code_3(tmp_path: Path, start: Start) -> None:
    start(tmp_path / "d")
    seed_id = published(ok(tmp_path / "d", *PUBLISH, "--min-price", "5"))
    assert refused(tmp_path / "d", 3, "seed", "bid", seed_id, "--price", "4") == "price_too_low"
    assert refused(tmp_path / "d", 3, "seed", "bid", "no-such-seed", "--price", "4") == "unknown_seed"
    assert refused(tmp_path / "d", 3, "seed", "claim", seed_id, "no-such-bid") == "unknown_bid"
    assert refused(tmp_path / "d", 3, "seed", "settle", seed_id, "--accepted") == "wrong_state"
    assert refused(tmp_path / "d", 3, "seed", "show", "no-such-seed") == "unknown_seed"
    assert ok(tmp_path / "d", "seed", "settle", seed_id, "--cancelled") == f"seed {seed_id} settled as Expired\n"


@pytest.mark.parametrize("with_node", [True, pytest.param(False, marks=pytest.mark.deep)])
def test_twenty_publishers_at_once_lose_nothing(tmp_path: Path, start: Start, with_node: bool) -> None:
    if with_node:
        start(tmp_path / "d")
    where = ["--data-dir", str(tmp_path / "d"), "--listen-addr", "127.0.0.1:0", "--announce-addr", ""]
    commands = [
        subprocess.Popen([*CRABNET, *PUBLISH, *where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(20)
    ]
    outputs = [(command.communicate(timeout=100), command.returncode) for command in commands]
    assert [(code, err) for (_, err), code in outputs if code] == []
    seed_ids = {published(out) for (out, _), _ in outputs}
    assert len(seed_ids) == 20
    assert listed(tmp_path / "d") == seed_ids


def test_what_was_printed_survives_kill_9(tmp_path: Path, start: Start) -> None:
    printed: set[str] = set()
    for _ in range(2):
        node = start(tmp_path / "d")
        printed |= {published(ok(tmp_path / "d", *PUBLISH)) for _ in range(3)}
        node.process.kill()
        node.process.wait()
    assert listed(tmp_path / "d") == printed


def test_commands_and_a_node_that_start_together(tmp_path: Path, start: Start) -> None:
    where = ["--data-dir", str(tmp_path / "d"), "--listen-addr", "127.0.0.1:0", "--announce-addr", ""]
    commands = [subprocess.Popen([*CRABNET, *PUBLISH, *where], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    node = start(tmp_path / "d")
    assert [command.communicate(timeout=100)[0].split()[:2] for command in commands] == [["seed", "published"]] * 3
    # The node may have found a command on the data dir, and given up.
    assert node.first_line.startswith("listen started") or node.process.wait(timeout=60) == 4
    assert len(listed(tmp_path / "d")) == 3


def test_a_second_node_on_a_data_dir_is_turned_away(tmp_path: Path, start: Start) -> None:
    start(tmp_path / "d")
    assert refused(tmp_path / "d", 4, "listen", "--lock-wait-ms", "0") == "data_dir_busy"


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [*CRABNET, "listen", "--data-dir", str(tmp_path / "d"), "--listen-addr", address],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 7
    assert done.stderr.splitlines()[-1].startswith("error: address_in_use: ")
    assert address in done.stderr
    assert "Traceback" not in done.stderr


def test_data_dirs_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for words in (PUBLISH, ["listen"]):
        done = run(tmp_path / "file" / "d", *words)
        assert done.returncode in {5, 6}, done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ")
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere: the rest needs an ordinary user")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert run(locked / "d", *PUBLISH).returncode in {5, 6}


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    ok(tmp_path / "d", *PUBLISH)
    (tmp_path / "d" / "identity.key").chmod(0o644)
    assert refused(tmp_path / "d", 5, "id") == "unsafe_permissions"
    assert run(tmp_path / "d", "listen").returncode == 5


def test_ctrl_c_stops_a_node_and_leaves_nothing_behind(tmp_path: Path, start: Start) -> None:
    node = start(tmp_path / "d")
    code, out, err = node.stop(signal.SIGINT)
    assert code in {0, 130}
    assert out == ""
    assert "Traceback" not in err
    assert not (tmp_path / "d" / "control.sock").exists()


def test_listen_as_json(tmp_path: Path, start: Start) -> None:
    node = start(tmp_path / "d", "--json")
    assert json.loads(node.first_line)["listening"].startswith("Udp:127.0.0.1:")


def test_events_tell_what_happened(tmp_path: Path, start: Start) -> None:
    node = start(tmp_path / "d")
    seed_id = published(ok(tmp_path / "d", *PUBLISH))
    node.stop()
    lines = ok(tmp_path / "d", "events", "--json").splitlines()
    kinds = {json.loads(line)["kind"] for line in lines}
    assert {"node_started", "envelope_created", "node_stopped"} <= kinds
    about = ok(tmp_path / "d", "events", "--json", "--seed", seed_id).splitlines()
    assert about
    assert all(json.loads(line)["payload"]["seed_id"] == seed_id for line in about)
