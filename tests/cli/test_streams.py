"""``-`` in place of a file: exports and proofs go through pipes, by real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CRABNET = [sys.executable, "-m", "crabnet"]


def run(data_dir: Path, *words: str, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
    words = ("--data-dir", str(data_dir), *words)
    done = subprocess.run([*CRABNET, *words], input=stdin, capture_output=True, check=False)
    assert done.returncode == code, done.stderr.decode()
    return done


def publish(data_dir: Path) -> None:
    run(data_dir, "seed", "publish", "--title", "t", "--cmd", "true", "--no-announce")


@pytest.mark.deep
def test_an_export_goes_through_pipes(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    publish(here)

    whole = run(here, "state", "export", "-")
    assert whole.stderr == b"exported 1 envelopes to -\n"
    assert run(there, "state", "import", "-", stdin=whole.stdout).stdout.startswith(b"imported 1 of 1 envelopes\n")
    assert run(there, "state", "diff", "live", "-", stdin=whole.stdout).stdout.startswith(b"the same: 1 feeds, 1 tasks")

    vector = run(there, "state", "vector", "--json").stdout
    publish(here)
    lacking = run(here, "--json", "state", "export", "-", "--vector", "-", stdin=vector)
    assert json.loads(lacking.stderr)["entries"] == 1
    assert run(there, "state", "import", "-", stdin=lacking.stdout).stdout.startswith(b"imported 1 of 1")
    different = run(here, "state", "diff", "-", "live", stdin=whole.stdout, code=9).stdout
    assert b"- " in different


def test_what_a_pipe_cannot_be_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    publish(tmp_path / "here")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    env = {**os.environ, "TMPDIR": str(temporary)}

    def refused(*words: str, stdin: bytes) -> str:
        words = ("--data-dir", str(tmp_path / "here"), *words)
        done = subprocess.run([*CRABNET, *words], input=stdin, capture_output=True, check=False, env=env)
        assert done.returncode in {2, 3}
        assert done.stderr.startswith(b"error: ")
        assert done.stdout == b""
        return done.stderr.decode()

    assert "standard-input" in refused("state", "import", "-", stdin=b"")
    assert "standard-input" in refused("state", "import", "-", stdin=b"no export\n")
    assert "standard-input" in refused("audit", "proof", "--check", "-", stdin=b"{}\n")
    assert "both" in refused("state", "diff", "-", "-", stdin=b"")
    assert "no fork" in refused("audit", "proof", "--out", "-", stdin=b"")
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "-").exists()
