"""The programs of docs/PYTHON.md: the examples are run as they stand, the others at least compile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import crabnet
from tests.docs.pages import blocks, page
from tests.support.nodes import DEADLINE_S, environment

PROGRAMS = blocks(page("docs/PYTHON.md"), "python")

WHOLE = 3
"""The number of programs that run as they stand. The page shows what they print."""


def run(program: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in an empty directory."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
        timeout=DEADLINE_S,
    )


@pytest.mark.parametrize("number", range(WHOLE))
def test_the_examples_print_what_the_page_shows(number: int, tmp_path: Path) -> None:
    done = run(PROGRAMS[number], tmp_path)
    assert done.stderr == ""
    assert done.stdout == blocks(page("docs/PYTHON.md"), "text")[number]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", PROGRAMS[WHOLE:], ids=range(WHOLE, len(PROGRAMS)))
def test_the_other_programs_run_up_to_where_they_need_a_node(program: str, tmp_path: Path) -> None:
    done = run(program, tmp_path)
    needs_node = "control.client" in program
    if needs_node:
        assert "NodeNotRunningError" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_the_page_names_what_the_package_offers() -> None:
    text = page("docs/PYTHON.md")
    assert [name for name in crabnet.__all__ if name not in text and name != "__version__"] == []
    assert all(hasattr(crabnet, name) for name in crabnet.__all__)
