"""What the command line says to people: hints that lead somewhere, ids as they are pasted (word-1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from crabnet.errors import ExitCode
from tests.support.nodes import crabnet, quiet


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sed", "list"], "There is no command 'sed'. Did you mean seed? See crabnet --help."),
        (["seed", "publis"], "There is no command 'publis'. Did you mean publish? See crabnet seed --help."),
        (["frobnicate"], "There is no command 'frobnicate'. See crabnet --help."),
        (["seed", "publish", "--title"], "Option '--title' requires an argument. See crabnet seed publish --help."),
        (["seed", "list", "--limit", "0"], "See crabnet seed list --help."),
        (["completion"], "Choose from: bash, zsh, fish. See crabnet completion --help."),
        (["--data-dir", "/tmp/x", "seed", "show"], "Missing argument 'SEED_ID'. See crabnet seed show --help."),
    ],
)
def test_a_slip_is_told_with_the_help_of_its_command(words: list[str], said: str) -> None:
    done = crabnet(*words)
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert said in done.stderr
    assert "\\" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_bare_command_shows_help() -> None:
    done = crabnet()
    assert (done.returncode, done.stderr) == (ExitCode.USAGE, "")
    assert done.stdout.startswith("Usage: crabnet ")
    assert "publish" in done.stdout


@pytest.mark.deep
def test_ids_are_understood_as_they_are_pasted(tmp_path: Path) -> None:
    published = crabnet("seed", "publish", "--title", "t", "--cmd", "true", *quiet(tmp_path))
    seed_id = published.stdout.split()[-1]
    for pasted in (seed_id.upper(), f" {seed_id}\n", f"\t{seed_id.upper()} "):
        shown = crabnet("seed", "show", pasted, *quiet(tmp_path))
        assert shown.returncode == 0, shown.stderr
        assert seed_id in shown.stdout
    assert crabnet("seed", "cancel", seed_id.upper(), *quiet(tmp_path)).stdout == f"seed {seed_id} withdrawn\n"
