"""``crabnet config verify``, ``--verify-config``: what is found before a node starts; nothing is changed."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from crabnet import limits
from crabnet.cli.main import main
from crabnet.errors import ExitCode
from tests.transport.test_udp import need

LOOPBACK = ["--listen-addr", "127.0.0.1:0", "--announce-addr", "127.0.0.1:9"]


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers at the addresses of these tests."""
    monkeypatch.setattr(limits, "PROBE_MS", 100)


def verify(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and (verdict, detail) of each check; of several of one name the worst."""
    code = main(["config", "verify", "--json", *words])
    rows = json.loads(capsys.readouterr().out)["checks"]
    order = ["ok", "warn", "fail"]
    found: dict[str, tuple[str, str]] = {}
    for row in rows:
        known = found.get(row["name"])
        if known is None or order.index(row["verdict"]) > order.index(known[0]):
            found[row["name"]] = (row["verdict"], row["detail"])
    return code, found


def test_good_settings_pass_and_nothing_is_left_behind(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, found = verify(capsys, *LOOPBACK, "--data-dir", str(tmp_path / "new" / "dir"))
    assert code == 0
    assert {verdict for verdict, _ in found.values()} <= {"ok", "warn"}
    assert found["data_dir"][0] == found["listen_addr"][0] == found["announce_addrs"][0] == "ok"
    there = tmp_path / "there"
    there.mkdir()
    assert verify(capsys, *LOOPBACK, "--data-dir", str(there))[0] == 0
    assert sorted(tmp_path.iterdir()) == [there]
    assert list(there.iterdir()) == []


@pytest.mark.parametrize(
    "words", [["--verify-config"], ["--verify-config", "listen"], ["listen", "--verify-config"], ["config", "verify"]]
)
def test_the_flag_does_the_same_as_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str]
) -> None:
    assert main([*words, *LOOPBACK, "--data-dir", str(tmp_path / "new")]) == 0
    out = capsys.readouterr().out
    assert f"ok       data_dir: {tmp_path / 'new'} does not exist yet and can be created\n" in out
    assert not (tmp_path / "new").exists()


def test_a_port_in_use_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, found = verify(capsys, *LOOPBACK, "--listen-addr", address, "--data-dir", str(tmp_path))
    assert code == ExitCode.NETWORK
    assert found["listen_addr"][0] == "fail"
    assert address in found["listen_addr"][1]


def test_an_address_of_ipv6_that_cannot_serve_ipv4_is_a_warning(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    need("::1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        address = f"[::]:{taken.getsockname()[1]}"
        code, found = verify(capsys, *LOOPBACK, "--listen-addr", address, "--data-dir", str(tmp_path))
    assert code == 0
    assert found["listen_addr"][0] == "warn"
    assert "serves IPv6 only" in found["listen_addr"][1]


def test_addresses_that_lead_nowhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--listen-addr", "127.0.0.1:0", "--data-dir", str(tmp_path)]
    code, found = verify(capsys, *words, "--announce-addr", "127.0.0.1:9", "--bootstrap-peers", "no.such.invalid:9")
    assert (code, found["bootstrap_peers"][0]) == (0, "warn")
    code, found = verify(capsys, *words, "--announce-addr", "", "--bootstrap-peers", "no.such.invalid:9")
    assert (code, found["announce_addrs"][0]) == (ExitCode.NETWORK, "fail")
    code, found = verify(capsys, *words, "--announce-addr", "")
    assert (code, found["announce_addrs"][0]) == (0, "warn")


def test_directories_that_cannot_be_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, found = verify(capsys, *LOOPBACK, "--data-dir", "/proc/no/data/dir")
    assert (code, found["data_dir"][0]) == (ExitCode.STORAGE_FAILED, "fail")
    file = tmp_path / "file"
    file.write_text("")
    code, found = verify(capsys, *LOOPBACK, "--data-dir", str(file))
    assert (code, found["data_dir"][0]) == (ExitCode.STORAGE_FAILED, "fail")
    data_dir = tmp_path / "open"
    data_dir.mkdir()
    data_dir.chmod(0o777)
    code, found = verify(capsys, *LOOPBACK, "--data-dir", str(data_dir))
    assert (code, found["data_dir"][0]) == (ExitCode.DAMAGED, "fail")
    data_dir.chmod(0o770)
    code, found = verify(capsys, *LOOPBACK, "--data-dir", str(data_dir))
    assert (code, found["data_dir"][0]) == (0, "warn")
    code, found = verify(capsys, *LOOPBACK, "--data-dir", str(tmp_path), "--runner-workdir-root", str(tmp_path / "no"))
    assert (code, found["runner_workdir_root"][0]) == (ExitCode.USAGE, "fail")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_rights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    code, found = verify(capsys, *LOOPBACK, "--data-dir", str(tmp_path))
    tmp_path.chmod(0o700)
    assert (code, found["data_dir"][0]) == (ExitCode.STORAGE_FAILED, "fail")


def test_a_key_that_others_can_read_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    publish = ["seed", "publish", "--title", "t", "--cmd", "true", "--announce-addr", ""]
    assert main([*publish, "--data-dir", str(tmp_path)]) == 0
    capsys.readouterr()
    assert verify(capsys, *LOOPBACK, "--data-dir", str(tmp_path))[1]["identity"][0] == "ok"
    (tmp_path / "identity.key").chmod(0o644)
    code, found = verify(capsys, *LOOPBACK, "--data-dir", str(tmp_path))
    assert code == ExitCode.DAMAGED
    assert "chmod 600" in found["data_dir"][1]


def test_commands_that_are_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [*LOOPBACK, "--data-dir", str(tmp_path), "--runner-allowed-commands"]
    verdict, detail = verify(capsys, *words, "true,no-such-program,cd")[1]["runner_allowed_commands"]
    assert verdict == "warn"
    assert detail.endswith(": no-such-program")
    assert verify(capsys, *words, "")[1]["runner_allowed_commands"][0] == "warn"


def test_what_confines_runs_is_tried(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, found = verify(capsys, *LOOPBACK, "--data-dir", str(tmp_path))
    assert code == 0
    verdict, detail = found["runner_sandbox"]
    assert (verdict == "ok") == detail.startswith(("bwrap: memory_bytes by ", "landlock: memory_bytes by "))
    verdict, detail = verify(capsys, *LOOPBACK, "--data-dir", str(tmp_path), "--runner-sandbox", "none")[1][
        "runner_sandbox"
    ]
    assert verdict == "warn"
    assert "with the rights of this node's user" in detail
