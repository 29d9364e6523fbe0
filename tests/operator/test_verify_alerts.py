"""``crabnet config verify`` knows what is wrong with the targets of alerts, and shows no secret of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from crabnet.cli.main import main
from tests.support.nodes import crabnet, environment

LOOPBACK = ["--listen-addr", "127.0.0.1:0", "--announce-addr", ""]
LONG = "x" * 32


def verify(capsys: pytest.CaptureFixture[str], data_dir: Path, *words: str) -> tuple[int, str, list[dict[str, str]]]:
    """The exit code, all that was printed, and the checks of alerts."""
    code = main(["config", "verify", "--json", "--data-dir", str(data_dir), *LOOPBACK, *words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err, alert_rows(captured.out)


def alert_rows(out: str) -> list[dict[str, str]]:
    return [row for row in json.loads(out)["checks"] if row["name"].startswith("alert")]


@pytest.mark.parametrize(
    ("urls", "commands", "verdict", "reason", "said"),
    [
        ("https://host/s3cr3t", "", "ok", None, "1 https://host/…: try it"),
        ("http://host:80/s3cr3t", "", "warn", None, "without TLS"),
        ("", "true s3cr3t", "ok", None, "1 true …: try it"),
        ("", "/no/where s3cr3t", "warn", "spawn_failed", "the command /no/where cannot be found"),
        ("nosuch://s3cr3t", "", "warn", "invalid_config", "apprise does not know this service"),
        ("tgram://123456789:abcdefs3cr3t/123", "", "ok", None, "1 tgram://…: try it"),
    ],
)
def test_each_target_has_a_line(
    tmp_path: Path,
    urls: str,
    commands: str,
    verdict: str,
    reason: str | None,
    said: str,
) -> None:
    env = environment(CRABNET_ALERT_URLS=urls, CRABNET_ALERT_COMMANDS=commands)
    done = crabnet("config", "verify", "--json", "--data-dir", str(tmp_path / "d"), *LOOPBACK, env=env)
    assert done.returncode == 0, done.stderr
    [row] = alert_rows(done.stdout)
    assert (row["verdict"], row["reason"]) == (verdict, reason)
    assert said in row["detail"]
    assert "s3cr3t" not in done.stdout + done.stderr


def test_a_missing_extra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)  # as if it were not installed
    monkeypatch.setenv("CRABNET_ALERT_URLS", f"tgram://123456789:s3cr3t/12315544 https://host/{LONG}")
    _, shown, rows = verify(capsys, tmp_path / "d")
    assert [(row["verdict"], row["reason"]) for row in rows] == [("warn", "unavailable"), ("ok", None)]
    assert "pip install 'crabnet-node[alerts]'" in rows[0]["detail"]
    assert "s3cr3t" not in shown


@pytest.mark.parametrize(
    ("content", "mode", "reason", "said"),
    [
        ("https://host/s3cr3t\n", 0o644, "unsafe_permissions", "run chmod 600"),
        ("https://host/x\nhttps://ho st/s3cr3t\n", 0o600, "invalid_config", "has a line (number 2) that is not a URL"),
        ("https://host:99999/s3cr3t\n", 0o600, "invalid_config", "has a line (number 1) that has no valid port"),
        (
            "https://h/s3cr3t\n" + "".join(f"https://h/{n}\n" for n in range(16)),
            0o600,
            "invalid_config",
            "more than 16",
        ),
        ("x" * 70_000, 0o600, "invalid_config", "more than 65536 bytes"),
        (None, 0, "invalid_config", "cannot be read: No such file"),
    ],
)
def test_a_file_of_targets_that_cannot_be_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None, mode: int, reason: str, said: str
) -> None:
    kept = tmp_path / "urls"
    if content is not None:
        kept.write_text(content)
        kept.chmod(mode)
    _, shown, rows = verify(capsys, tmp_path / "d", "--alert-urls-file", str(kept))
    [row] = rows
    assert (row["name"], row["verdict"], row["reason"]) == ("alert_urls_file", "warn", reason)
    assert said in row["detail"]
    assert "s3cr3t" not in shown


def test_a_pipe_in_the_place_of_the_file_does_not_block(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "urls", 0o600)
    _, _, rows = verify(capsys, tmp_path / "d", "--alert-urls-file", str(tmp_path / "urls"))
    assert "is not a regular file" in rows[0]["detail"]


def test_a_short_secret_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CRABNET_ALERT_SECRET", "s3cr3t")
    monkeypatch.setenv("CRABNET_ALERT_URLS", "https://host/")
    _, shown, rows = verify(capsys, tmp_path / "d")
    assert rows[0]["name"] == "alert_secret"
    assert "s3cr3t" not in shown
    monkeypatch.setenv("CRABNET_ALERT_SECRET", LONG)
    assert [row["name"] for row in verify(capsys, tmp_path / "d")[2]] == ["alert_urls"]
