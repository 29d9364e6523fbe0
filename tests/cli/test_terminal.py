"""What a real terminal gets: tables as wide as it is, colours unless they are not wanted; and what a pipe gets."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from crabnet.cli.tables import width_of
from tests.operator.support import publish, work
from tests.support.nodes import CRABNET, crabnet, environment, quiet
from tests.support.polling import readable

_SILENCE_S = 60


@pytest.fixture(name="data_dir", scope="module")
def _data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("terminal") / "d"

    async def fill(node: object) -> None:
        await publish(node, "title of a stranger \x1b[31m 日本語 🎉 which is long")  # type: ignore[arg-type]

    work(data_dir, fill)
    return data_dir


def on_terminal(columns: int, *words: str, **env: str) -> str:
    """Everything that a command writes to a terminal of its own, stdout and stderr."""
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in environment().items() if name not in {"COLUMNS", "NO_COLOR", "TERM"}}
    process = subprocess.Popen(
        [*CRABNET, *words], stdin=theirs, stdout=theirs, stderr=theirs, env={**kept, "TERM": "xterm-256color", **env}
    )
    os.close(theirs)
    written = b""
    try:
        while readable([own], _SILENCE_S):
            try:
                chunk = os.read(own, 65_536)
            except OSError:  # EIO: the other end is closed
                break
            if not chunk:
                break
            written += chunk
    finally:
        os.close(own)
        process.kill() if process.poll() is None and not written else None
        process.wait()
    return written.decode().replace("\r\n", "\n")


def test_a_list_is_a_table_on_a_terminal_and_lines_in_a_pipe(data_dir: Path) -> None:
    words = ["seed", "list", *quiet(data_dir)]
    table = on_terminal(40, *words, NO_COLOR="1")
    assert table.startswith("ID        STATUS ")
    assert "\x1b" not in table
    assert all(width_of(line) <= 40 for line in table.splitlines())
    piped = crabnet(*words).stdout
    assert "] cmd=" in piped
    assert piped.count("\n") == 1


@pytest.mark.deep
@pytest.mark.parametrize(
    ("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)]
)
def test_colours_are_for_terminals_that_want_them(data_dir: Path, env: dict[str, str], coloured: bool) -> None:
    table = on_terminal(200, "seed", "list", *quiet(data_dir), **env)
    assert ("\x1b[" in table) is coloured
    assert "\x1b[31m 日" not in table
    error = on_terminal(80, "seed", "show", "nonsense", *quiet(data_dir), **env)
    assert error.startswith("\x1b[31merror:\x1b[0m " if coloured else "error: ")


@pytest.mark.deep
@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("words", [["--help"], ["seed", "--help"], ["seed", "publish", "--help"], ["run", "--help"]])
def test_help_is_as_wide_as_the_terminal(columns: int, words: list[str]) -> None:
    shown = on_terminal(columns, *words)
    assert "Usage: crabnet" in shown
    assert "Examples:" in shown
    widest = max(map(width_of, shown.splitlines()))
    assert widest <= columns
    assert widest > min(columns, 120) * 0.7


@pytest.mark.deep
def test_every_form_of_output(data_dir: Path) -> None:
    where = quiet(data_dir)
    as_json = crabnet("seed", "list", "-o", "json", *where)
    assert as_json.stdout == crabnet("--json", "seed", "list", *where).stdout
    assert crabnet("seed", "list", "-o", "yaml", *where).stdout.startswith("---\nseeds:\n  - id: ")
    assert crabnet("seed", "list", "-o", "plain", *where).stdout == crabnet("seed", "list", *where).stdout
    seed_id = crabnet("seed", "list", "-q", *where).stdout.strip()
    wide = crabnet("seed", "list", "-o", "wide", *where).stdout
    assert wide.splitlines()[1].startswith(seed_id)
    shown = crabnet("seed", "show", "@last", *where).stdout
    assert shown.startswith(f"id: {seed_id}\n")
    assert shown == crabnet("seed", "show", seed_id[:4], *where).stdout
    error = crabnet("seed", "show", "nonsense", "-o", "json", *where)
    assert error.stderr.startswith('{"error":')
