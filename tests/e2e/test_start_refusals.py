"""`crabnet config verify` foresees every refusal that a start would give, with the same Reason.

Each case makes a situation, starts `crabnet listen` in it, and asks `crabnet config verify` before.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
import pytest

from crabnet.storage.lock import LockHolder, LockRole
from tests.support.nodes import CRABNET, DEADLINE_S, Nodes, environment, quiet

Case = Callable[[Path], "Iterator[list[str]]"]
CASES: Final[dict[str, tuple[str, Case]]] = {}
"""Name -> the Reason, and a context that makes the situation and gives further flags."""


def case(reason: str) -> Callable[[Case], Case]:
    """Register a situation. The function gets a data dir that a node has used."""

    def register(function: Case) -> Case:
        CASES[function.__name__] = (reason, function)
        return function

    return register


@case("invalid_config")
def settings_that_contradict_each_other(_: Path) -> Iterator[list[str]]:
    yield ["--seen-messages-ttl-s", "1"]


@case("invalid_config")
def the_key_of_a_private_network_is_missing(data_dir: Path) -> Iterator[list[str]]:
    yield ["--network", "dht", "--listen-addr", "127.0.0.1:0", "--dht-network-key-file", str(data_dir / "none")]


@case("data_dir_busy")
def another_process_holds_the_lock(data_dir: Path) -> Iterator[list[str]]:
    hint = msgspec.json.encode(LockHolder(os.getpid(), 0, LockRole.NODE, "test"))
    with (data_dir / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(hint.ljust(512))
        lock.flush()
        yield ["--lock-wait-ms", "0"]


@case("data_dir_busy")
def another_process_writes_the_same_events(data_dir: Path) -> Iterator[list[str]]:
    elsewhere = data_dir.parent / "events"
    elsewhere.mkdir()
    with (elsewhere / "events.lock").open("w+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield ["--monitor-events", str(elsewhere / "events.ndjson")]


@case("data_dir_damaged")
def the_key_is_lost(data_dir: Path) -> Iterator[list[str]]:
    (data_dir / "identity.key").unlink()
    yield []


@case("data_dir_damaged")
def the_key_is_garbage(data_dir: Path) -> Iterator[list[str]]:
    (data_dir / "identity.key").write_text("no key\n")
    yield []


@case("unsafe_permissions")
def others_can_read_the_key(data_dir: Path) -> Iterator[list[str]]:
    (data_dir / "identity.key").chmod(0o644)
    yield []


@case("unsafe_permissions")
def others_can_write_the_data_dir(data_dir: Path) -> Iterator[list[str]]:
    data_dir.chmod(0o777)
    yield []
    data_dir.chmod(0o700)


@case("data_dir_damaged")
def the_key_is_that_of_another_node(data_dir: Path) -> Iterator[list[str]]:
    other = data_dir.parent / "other"
    subprocess.run(
        [*CRABNET, "seed", "publish", "--title", "t", "--cmd", "true", *quiet(other)],
        check=True, capture_output=True, env=environment(), timeout=DEADLINE_S,
    )  # fmt: skip
    shutil.copy2(other / "identity.key", data_dir / "identity.key")
    yield []


@case("data_dir_damaged")
def a_frame_in_the_middle_is_damaged(data_dir: Path) -> Iterator[list[str]]:
    for checkpoint in ("state.json", "state.json.bak"):
        with suppress(FileNotFoundError):
            (data_dir / checkpoint).unlink()
    [segment, *_] = sorted((data_dir / "journal").glob("*.log"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 3] ^= 1
    segment.write_bytes(content)
    yield []


@case("data_dir_newer")
def a_newer_version_has_written_the_checkpoint(data_dir: Path) -> Iterator[list[str]]:
    state = data_dir / "state.json"
    state.write_bytes(state.read_bytes().replace(b'"version":1,', b'"version":2,"new":0,', 1))
    yield []


@case("data_dir_damaged")
def the_journal_is_a_file(data_dir: Path) -> Iterator[list[str]]:
    shutil.rmtree(data_dir / "journal")
    (data_dir / "journal").write_text("")
    yield []


@case("data_dir_damaged")
def the_control_socket_is_a_file(data_dir: Path) -> Iterator[list[str]]:
    (data_dir / "control.sock").write_text("")
    yield []


@case("wrong_namespace")
def the_data_dir_is_of_another_namespace(_: Path) -> Iterator[list[str]]:
    yield ["--namespace", "other"]


@case("missing_signature")
def an_unsigned_state_of_the_old_program(data_dir: Path) -> Iterator[list[str]]:
    shutil.rmtree(data_dir)
    data_dir.mkdir(mode=0o700)
    example = next(Path(__file__).parents[1].joinpath("vectors", "baseline_state").glob("**/*.json"))
    shutil.copy(example, data_dir / "state.json")
    yield []


@case("address_in_use")
def the_port_is_taken(_: Path) -> Iterator[list[str]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        yield ["--listen-addr", f"127.0.0.1:{taken.getsockname()[1]}"]


@case("address_invalid")
def the_address_is_not_one_of_this_machine(_: Path) -> Iterator[list[str]]:
    yield ["--listen-addr", "192.0.2.1:9012"]


@case("storage_failed")
def the_data_dir_cannot_be_made(_: Path) -> Iterator[list[str]]:
    yield ["--data-dir", "/proc/no/data/dir"]


@case("workdir_missing")
def the_work_dir_is_not_there(data_dir: Path) -> Iterator[list[str]]:
    yield ["--runner-workdir-root", str(data_dir / "no"), "--runner-workdir", str(data_dir / "no")]


STARTS_ALL_THE_SAME: Final = {"the_work_dir_is_not_there"}
"""The node starts, but each of its runs is refused with the Reason."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.deep] if number % 8 else []) for number, name in enumerate(CASES)]
)
def test_a_refused_start_is_foreseen(nodes: Nodes, tmp_path: Path, name: str) -> None:
    node = nodes.start("node")
    node.publish()
    node.end()
    reason, make = CASES[name]
    with contextmanager(make)(node.data_dir) as further:
        words = [*quiet(node.data_dir), *further]
        before = _look(node.data_dir)
        checked = _run("config", "verify", "--json", *words)
        assert _look(node.data_dir) == before, "the check has changed something"
        started = None if name in STARTS_ALL_THE_SAME else _run("listen", *words)
    if started is not None:
        assert started.stderr.splitlines()[-1].startswith(f"error: {reason}: "), started.stderr
    if not checked.stdout:  # the settings alone are refused, before any check
        assert json.loads(checked.stderr)["error"]["reason"] == reason
        assert started is not None
        assert checked.returncode == started.returncode
        return
    failed = [row for row in json.loads(checked.stdout)["checks"] if row["verdict"] == "fail"]
    assert reason in {row["reason"] for row in failed}, checked.stdout
    assert all(row["remedy"] for row in failed)
    assert checked.returncode != 0
    if started is not None:
        assert checked.returncode == started.returncode


def test_too_few_descriptors_are_foreseen(tmp_path: Path) -> None:
    words = quiet(tmp_path / "new")
    few = ["prlimit", "--nofile=64:64"]
    started = _run("listen", *words, prefix=few)
    assert started.stderr.splitlines()[-1].startswith("error: unavailable: ")
    checked = _run("config", "verify", "--json", *words, prefix=few)
    failed = [row for row in json.loads(checked.stdout)["checks"] if row["verdict"] == "fail"]
    assert "unavailable" in {row["reason"] for row in failed}
    assert checked.returncode == started.returncode == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system, and own no data dir")
def test_a_full_disk_and_another_owner_are_foreseen(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(small)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine allows no mounts")
    try:
        assert _foreseen(small / "data") == "disk_full"
    finally:
        subprocess.run(["umount", str(small)], check=True)
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 65_534, 65_534)
    assert _foreseen(theirs) == "wrong_owner"


def _foreseen(data_dir: Path) -> str:
    """The Reason of a refused start, which the check must have given before."""
    checked = _run("config", "verify", "--json", *quiet(data_dir))
    started = _run("listen", *quiet(data_dir))
    reason = started.stderr.splitlines()[-1].split(": ")[1]
    failed = [row for row in json.loads(checked.stdout)["checks"] if row["verdict"] == "fail"]
    assert reason in {row["reason"] for row in failed}, (checked.stdout, started.stderr)
    return reason


def _look(data_dir: Path) -> list[tuple[str, int]]:
    """Names and sizes of everything in a data dir."""
    return sorted((str(path), path.lstat().st_size) for path in data_dir.rglob("*"))


def _run(*words: str, prefix: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*(prefix or []), *CRABNET, *words], capture_output=True, text=True, check=False, env=environment(),
        timeout=DEADLINE_S,
    )  # fmt: skip
