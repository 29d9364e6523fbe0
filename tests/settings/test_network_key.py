"""The file with the key of a private network."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, UsageError
from crabnet.settings.network_key import read_network_key

DIGITS = "0123456789abcdef" * 4
HEAD = "/key/swarm/psk/1.0.0/\n/base16/\n"
MAKING = r"""
digits=$(od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n')
(umask 077; printf '/key/swarm/psk/1.0.0/\n/base16/\n%s\n' "$digits" >"$1")
"""
"""How an operator makes a key, with the tools of every system."""


def written(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    """A file of this content and mode."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "content",
    [
        f"{HEAD}{DIGITS}\n",
        f"{HEAD}{DIGITS}",
        f"{HEAD}{DIGITS}\n".replace("\n", "\r\n"),
        f"{HEAD}{DIGITS.upper()}\n\n",
    ],
)
def test_keys_of_other_programs_are_read(tmp_path: Path, content: str) -> None:
    assert read_network_key(written(tmp_path / "key", content)) == bytes.fromhex(DIGITS)


def test_a_key_is_made_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "key"
    subprocess.run(["sh", "-c", MAKING, "sh", str(path)], check=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(read_network_key(path)) == 32
    before = path.read_bytes()
    subprocess.run(["sh", "-c", MAKING, "sh", str(path)], check=True)
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "first line"),
        (DIGITS, "first line"),
        (b"\xff\xfe/key", "first line"),
        (f"/key/swarm/psk/2.0.0/\n/base16/\n{DIGITS}\n", "first line"),
        (f"/key/swarm/psk/1.0.0/\n/base64/\n{DIGITS}\n", "only encoding"),
        (f"/key/swarm/psk/1.0.0/\n/bin/\n{DIGITS}\n", "only encoding"),
        (HEAD, "0 words"),
        (f"{HEAD}{DIGITS}\n{DIGITS}\n", "2 words"),
        (f"{HEAD}{DIGITS[:-1]}\n", "it has 63 characters"),
        (f"{HEAD}{DIGITS}0\n", "it has 65 characters"),
        (f"{HEAD}{DIGITS[:-1]}g\n", "64 hexadecimal digits"),
        (f"{HEAD}{DIGITS}\n{'x' * 100_000}", "2 words"),
    ],
)
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        read_network_key(written(tmp_path / "key", content))
    assert caught.value.reason is Reason.INVALID_CONFIG
    assert DIGITS[:16] not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o660])
def test_a_key_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(DataDirDamagedError, match="chmod 600") as caught:
        read_network_key(written(tmp_path / "key", f"{HEAD}{DIGITS}\n", mode))
    assert caught.value.reason is Reason.UNSAFE_PERMISSIONS


@pytest.mark.skipif(os.geteuid() != 0, reason="ONLY AS ROOT: files of other users are NOT tested")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "key", f"{HEAD}{DIGITS}\n")
    os.chown(path, 12_345, -1)
    with pytest.raises(DataDirDamagedError, match="the user 12345"):
        read_network_key(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path, says in (
        (tmp_path / "fifo", "regular file"),
        (tmp_path, "regular file"),
        (tmp_path / "none", "No such file"),
    ):
        with pytest.raises(CrabnetError, match=says):
            read_network_key(path)
