"""Bad input at every seam: one clear line on stderr, the right exit code, no traceback, nothing done."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.nodes import Nodes, crabnet, environment, quiet, wait_for

PUBLISH: Final = ("seed", "publish", "--title", "t", "--cmd", "true")


def refused(code: int, reason: str, *words: str, env: dict[str, str] | None = None) -> str:
    """Run a command that must fail with this code and reason, in one line; returns its message."""
    if "--json" in words:
        done = crabnet(*words, env=environment(**(env or {})))
        error = json.loads(done.stderr)["error"]
        assert (done.returncode, error["reason"], error["exit_code"]) == (code, reason, code)
        assert (done.stdout, done.stderr.count("\n")) == ("", 1)
        return str(error["message"])
    done = crabnet(*words, env=environment(**(env or {})))
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1, done.stderr
    head, _, message = done.stderr.partition(f"error: {reason}: ")
    assert head == "", done.stderr
    assert len(message) > 10
    return message


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("invalid_argument", ["no-such-command"]),
        ("invalid_argument", [*PUBLISH, "--no-such-flag"]),
        ("invalid_argument", [*PUBLISH, "--min-price", str(2**53)]),
        ("invalid_argument", ["seed", "publish", "--title", "t" * 513, "--cmd", "true"]),
        ("invalid_argument", [*PUBLISH, "--reward", "1_000"]),
        ("invalid_argument", [*PUBLISH, "--reward", "\N{ARABIC-INDIC DIGIT THREE}"]),
        ("invalid_argument", ["seed", "settle", "x", "--accepted", "--rejected", "--json"]),
        ("invalid_config", ["listen", "--listen-addr", "127.0.0.1:70000"]),
        ("invalid_config", ["status", "--network", "dht,quic"]),
        ("invalid_config", ["listen", "--listen-addr", "/ip4/127.0.0.1/tcp/0"]),
        ("invalid_config", ["status", "--config", "/no/such/file.toml"]),
        ("invalid_config", ["listen", "--seen-messages-ttl-s", "10", "--json"]),
        ("invalid_config", ["listen", "--runner-workdir", "/", "--runner-workdir-root", "/tmp"]),
    ],
)
def test_flags(tmp_path: Path, reason: str, words: list[str]) -> None:
    refused(2, reason, *words, "--data-dir", str(tmp_path / "d"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CRABNET_MESSAGE_TTL_SECONDS", "soon"),
        ("CRABNET_SEEN_MESSAGES_CAPACITY", "-1"),
        ("CRABNET_REQUIRE_SIGNATURES", "perhaps"),
        ("CRABNET_ANNOUNCE_ADDRS", "127.0.0.1:9012,,"),
        ("CRABNET_CONFIG", "/no/such/file"),
    ],
)
def test_environment(tmp_path: Path, name: str, value: str) -> None:
    message = refused(2, "invalid_config", "status", "--data-dir", str(tmp_path / "d"), env={name: value})
    assert name in message or value in message


@pytest.mark.parametrize(
    "content",
    [
        b"listen_addr = ",
        b'no_such_setting = "x"\n',
        b"message_ttl_s = 1.5\n",
        b"a = \xff\n",
        b"x" * 2_000_000,
    ],
)
def test_toml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "crabnet.toml").write_bytes(content)
    message = refused(2, "invalid_config", "status", "--data-dir", str(tmp_path))
    assert "crabnet.toml" in message
    assert {path.name for path in tmp_path.iterdir()} == {"crabnet.toml"}


def test_a_configuration_file_that_is_a_directory(tmp_path: Path) -> None:
    refused(2, "invalid_config", "status", "--config", str(tmp_path), "--data-dir", str(tmp_path / "d"))


COMMANDS: Final = (list(PUBLISH), ["listen"])


@pytest.mark.parametrize("words", [pytest.param(COMMANDS[0], marks=pytest.mark.deep), COMMANDS[1]], ids=" ".join)
def test_directories_that_cannot_be_made(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file" / "d", tmp_path / "file"):
        assert str(place) in refused(6, "data_dir_unwritable", *words, *quiet(place))
    assert "name too long" in refused(6, "data_dir_unwritable", *words, *quiet(tmp_path / ("x" * 300)))
    refused(6, "storage_failed", *words, *quiet(Path("/proc/no-such-directory")))


def test_a_directory_of_another_user_that_may_not_be_written(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere: run the tests as an ordinary user for this one")
    tmp_path.chmod(0o500)
    for words in COMMANDS:
        refused(6, "data_dir_unwritable", *words, *quiet(tmp_path / "d"))
    tmp_path.chmod(0o700)


def key_readable(data_dir: Path) -> None:
    (data_dir / "identity.key").chmod(0o644)


def dir_writable(data_dir: Path) -> None:
    data_dir.chmod(0o777)


def key_garbage(data_dir: Path) -> None:
    (data_dir / "identity.key").write_bytes(b"\x00garbage")


def key_empty(data_dir: Path) -> None:
    (data_dir / "identity.key").write_bytes(b"")


def key_gone(data_dir: Path) -> None:
    (data_dir / "identity.key").unlink()


def key_of_another(data_dir: Path) -> None:
    crabnet(*PUBLISH, *quiet(data_dir.with_name("other")))
    (data_dir.with_name("other") / "identity.key").replace(data_dir / "identity.key")


def state_newer(data_dir: Path, version: int = 2) -> None:
    path = data_dir / "state.json"
    text = path.read_text(encoding="utf-8")
    assert text.count('"version":1,') == 1
    path.write_text(text.replace('"version":1,', f'"version":{version},'), encoding="utf-8")


def state_much_newer(data_dir: Path) -> None:
    state_newer(data_dir, 99)


def state_garbage(data_dir: Path) -> None:
    for path in (data_dir / "journal").iterdir():
        path.unlink()
    (data_dir / "state.json").write_bytes(b"{")


def journal_garbage(data_dir: Path) -> None:
    for path in (data_dir / "journal").iterdir():
        path.write_bytes(b"garbage\n" * 10)


@pytest.mark.parametrize(
    ("reason", "damage"),
    [
        pytest.param("unsafe_permissions", key_readable, marks=pytest.mark.deep),
        pytest.param("unsafe_permissions", dir_writable, marks=pytest.mark.deep),
        pytest.param("data_dir_damaged", key_garbage, marks=pytest.mark.deep),
        pytest.param("data_dir_damaged", key_empty, marks=pytest.mark.deep),
        ("data_dir_damaged", key_gone),
        pytest.param("data_dir_damaged", key_of_another, marks=pytest.mark.deep),
        pytest.param("data_dir_newer", state_newer, marks=pytest.mark.deep),
        ("data_dir_newer", state_much_newer),
        pytest.param("data_dir_damaged", state_garbage, marks=pytest.mark.deep),
        ("data_dir_damaged", journal_garbage),
    ],
)
def test_files_that_cannot_be_trusted(tmp_path: Path, reason: str, damage: Callable[[Path], None]) -> None:
    data_dir = tmp_path / "d"
    assert crabnet(*PUBLISH, *quiet(data_dir)).returncode == 0
    damage(data_dir)
    before = {path: path.read_bytes() for path in sorted(data_dir.rglob("*")) if path.is_file()}
    for words in (list(PUBLISH), ["listen", "--json"]):
        refused(5, reason, *words, *quiet(data_dir))
    kept = {path.name: path.read_bytes() for path in before if path.parent.name != "d" or path.name in CONTENT}
    assert kept.items() <= {path.name: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}.items()


CONTENT: Final = {"state.json", "state.json.bak", "identity.key"}


def test_something_else_in_the_place_of_the_socket(tmp_path: Path) -> None:
    data_dir = tmp_path / "d"
    assert crabnet(*PUBLISH, *quiet(data_dir)).returncode == 0
    (data_dir / "control.sock").write_text("mine")
    refused(5, "data_dir_damaged", "listen", *quiet(data_dir))
    assert (data_dir / "control.sock").read_text() == "mine"


def test_a_second_node_names_the_first(nodes: Nodes) -> None:
    node = nodes.start("node")
    assert node.process is not None
    message = refused(4, "data_dir_busy", "listen", *quiet(node.data_dir))
    assert str(node.process.pid) in message
    assert node.running
    assert node.publish()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_port_in_use(tmp_path: Path, family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.socket(family, socket.SOCK_DGRAM) as taken:
        try:
            taken.bind((host, 0))
        except OSError as error:
            pytest.skip(f"this machine has no {host}: {error}")
        port = taken.getsockname()[1]
        address = f"{host}:{port}" if family == socket.AF_INET else f"[{host}]:{port}"
        words = ["--data-dir", str(tmp_path / "d"), "--listen-addr", address, "--announce-addr", ""]
        assert address in refused(7, "address_in_use", "listen", *words)


@pytest.mark.parametrize("address", ["192.0.2.1:0", "nowhere.invalid:9012"])
def test_an_address_that_is_not_ours(tmp_path: Path, address: str) -> None:
    words = ["--data-dir", str(tmp_path / "d"), "--listen-addr", address, "--announce-addr", ""]
    refused(7, "address_invalid", "listen", *words)


def test_bounds_of_texts_name_the_field(tmp_path: Path) -> None:
    message = refused(2, "unworkable", "seed", "publish", "--title", "t", "--cmd", "", *quiet(tmp_path / "d"))
    assert "command" in message
    assert "$" not in message


def test_an_empty_home_is_no_home() -> None:
    assert "--data-dir" in refused(2, "invalid_config", "config", "show", env={"HOME": ""})


def test_a_command_for_another_namespace_than_the_nodes(nodes: Nodes) -> None:
    node = nodes.start("node")
    refused(2, "wrong_namespace", *PUBLISH, "--namespace", "other", *quiet(node.data_dir))
    assert node.seed_ids() == set()
    assert crabnet(*PUBLISH, "--namespace", "default", *quiet(node.data_dir)).returncode == 0


@pytest.fixture
def hangups(request: pytest.FixtureRequest) -> Iterator[None]:
    """What these tests start hears or ignores that its terminal has gone, whatever they were started by."""
    before = signal.signal(signal.SIGHUP, request.param)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("hangups", [signal.SIG_DFL], indirect=True, ids=[""])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)])
@pytest.mark.usefixtures("hangups")
def test_signals_end_a_node_in_order(nodes: Nodes, number: int, code: int) -> None:
    node = nodes.start("node")
    node.publish()
    assert node.end(number) == code
    assert (node.data_dir / "sealed").exists()


@pytest.mark.parametrize("hangups", [signal.SIG_IGN], indirect=True, ids=["nohup"])
@pytest.mark.usefixtures("hangups")
def test_a_node_that_was_started_to_outlive_its_terminal_does(nodes: Nodes) -> None:
    node = nodes.start("node")
    assert node.process is not None
    node.process.send_signal(signal.SIGHUP)
    seed_id = node.publish()
    assert node.seed_ids() == {seed_id}
    assert node.end(signal.SIGTERM) == 0


def test_rules_without_a_node(tmp_path: Path) -> None:
    place = quiet(tmp_path / "d")
    seed_id = crabnet(*PUBLISH, "--min-price", "5", *place).stdout.split()[2]
    refused(3, "price_too_low", "seed", "bid", seed_id, "--price", "4", *place)
    refused(3, "wrong_state", "seed", "settle", seed_id, "--accepted", *place)


def test_rules_beside_a_node(nodes: Nodes) -> None:
    node = nodes.start("node")
    place = quiet(node.data_dir)
    seed_id = node.publish(min_price=5)
    for reason, words in [
        ("unknown_seed", ["seed", "show", "no-such-seed"]),
        ("unknown_seed", ["seed", "bid", "\x1b[31m", "--price", "1"]),
        ("price_too_low", ["seed", "bid", seed_id, "--price", "4"]),
        ("unknown_bid", ["seed", "claim", seed_id, "no-such-bid"]),
        ("wrong_state", ["seed", "run", seed_id]),
        ("wrong_state", ["seed", "settle", seed_id, "--forfeited"]),
    ]:
        assert "\x1b" not in refused(3, reason, *words, *place)
    bid_id = node.bid(seed_id, 5)
    node.ask("seed.claim", seed_id=seed_id, bid_id=bid_id)
    refused(3, "wrong_state", "seed", "claim", seed_id, bid_id, *place)
    refused(3, "not_due", "seed", "settle", seed_id, "--forfeited", *place)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("rm -rf /", "command_not_allowed"),
        ("echo a; rm x", "shell_operator"),
        ("echo " + "x" * 5_000, "command_too_long"),
    ],
)
def test_a_command_that_the_runner_refuses_has_a_result(nodes: Nodes, command: str, reason: str) -> None:
    node = nodes.start("node")
    seed_id = node.publish(command)
    refused = node.cli("seed", "bid", seed_id, "--price", "1")
    assert refused.returncode == 3
    assert refused.stderr.startswith(f"error: {reason}: this worker would not run it: ")
    bid = node.cli("seed", "bid", seed_id, "--price", "1", "--force")
    node.ask("seed.claim", seed_id=seed_id, bid_id=bid.stdout.split()[2])
    done = node.cli("seed", "run", seed_id)
    assert done.returncode == 0
    assert done.stdout.startswith("task result ")
    assert reason in done.stderr
    assert "failed: worker" in done.stderr
    wait_for("the attempt is forfeited", lambda: node.status(seed_id) == "Forfeited")
    [settlement] = node.rows(seed_id, "settlements")
    assert str(settlement["note"]).startswith(f"the worker failed: refused: {reason}: ")
    node.await_event("worker_failed", seed_id=seed_id, attempt=1)
    node.await_event("run_refused", seed_id=seed_id, reason=reason)
