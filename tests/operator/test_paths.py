"""Files that an operator names: nothing but regular files is read or replaced."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from crabnet.cli.main import main
from crabnet.errors import ExitCode, Reason


@pytest.fixture
def data_dir(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    publish = ["seed", "publish", "--title", "t", "--cmd", "true", "--announce-addr", ""]
    assert main([*publish, "--data-dir", str(tmp_path / "d")]) == 0
    capsys.readouterr()
    return tmp_path / "d"


def odd_places(home: Path) -> dict[str, Path]:
    """What is no file, as a rename would replace it without a word."""
    (home / "directory").mkdir()
    (home / "link").symlink_to("/dev/null")
    os.mkfifo(home / "pipe")
    places = {name: home / name for name in ("directory", "link", "pipe")}
    if os.geteuid() == 0:
        os.mknod(home / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        places["device"] = home / "device"
    return places


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    head, _, message = shown.err.partition(f"error: {Reason.INVALID_ARGUMENT.value}: ")
    assert (head, message.count("\n")) == ("", 1)
    return message


def test_an_export_replaces_nothing_but_files(
    capsys: pytest.CaptureFixture[str], data_dir: Path, tmp_path: Path
) -> None:
    for path in odd_places(tmp_path).values():
        before = path.lstat()
        assert str(path) in refused(capsys, "state", "export", str(path), "--force", "--data-dir", str(data_dir))
        after = path.lstat()
        assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    gone = tmp_path / "no" / "file"
    assert str(gone.parent) in refused(capsys, "state", "export", str(gone), "--data-dir", str(data_dir))
    assert main(["state", "export", str(tmp_path / "file"), "--data-dir", str(data_dir)]) == 0
    assert main(["state", "export", str(tmp_path / "file"), "--force", "--data-dir", str(data_dir)]) == 0


def test_nothing_but_files_is_read(capsys: pytest.CaptureFixture[str], data_dir: Path, tmp_path: Path) -> None:
    places = odd_places(tmp_path)
    for path in (places["directory"], places["pipe"], Path("/dev/zero"), Path("/dev/stdin"), tmp_path / "none"):
        for words in (
            ["state", "import", str(path)],
            ["state", "export", str(tmp_path / "out"), "--vector", str(path)],
            ["audit", "verify", "--from-checkpoint", str(path)],
            ["audit", "proof", "--check", str(path)],
        ):
            refused(capsys, *words, "--data-dir", str(data_dir))
    assert not (tmp_path / "out").exists()
    refused(capsys, "state", "diff", str(places["pipe"]), "live", "--data-dir", str(data_dir))
