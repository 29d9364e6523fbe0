"""The README is true: its sessions are typed into real nodes, its program run, its make targets and files are there."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks, page, steps
from tests.docs.session import Session
from tests.docs.typist import ADDRESSES, Typist, lab_or_none
from tests.support.dht import needs_libp2p


@pytest.fixture
def typist(tmp_path: Path) -> Iterator[Typist]:
    made = Typist(tmp_path)
    yield made
    made.abandon()


def test_one_line_sells_and_one_line_buys_as_shown(tmp_path: Path) -> None:
    """Every command prints what the README shows, and the program buys from the worker there."""
    session = [step for step in steps(page("README.md")) if step.host]
    assert [step.host for step in session[:2]] == ["worker", "buyer"]
    assert len(session) > 5
    assert session[-1].command == "^C"
    (program,) = blocks(page("README.md"), "python")
    with ExitStack() as stack:
        typist = Typist(tmp_path, lab_or_none(stack), tuple(ADDRESSES))
        stack.callback(typist.abandon)
        for step in session[:-1]:
            typist.type(step)
        (tmp_path / "buyer/program.py").write_text(typist.addressed(program), encoding="utf-8")
        typist.once(f"{sys.executable} program.py", ["hello"], "buyer")
        shown = [
            line.replace("1 result, 1 accepted; earned 1", "2 results, 2 accepted; earned 2")
            for line in session[-1].shown
        ]
        typist.type(session[-1]._replace(shown=shown))


@needs_libp2p
@pytest.mark.deep
def test_the_session_over_libp2p_goes_as_shown(typist: Typist) -> None:
    session = [step for step in steps(page("README.md")) if not step.host]
    assert len(session) > 3
    for step in session:
        typist.type(step)
    typist.stop()


def test_shell_blocks_name_targets_and_files_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):.*## ", page("Makefile"), re.MULTILINE))
    lines = [line for block in blocks(page("README.md"), "sh") for line in block.splitlines()]
    named = {word for line in lines for word in line.partition("#")[0].split()[1:] if line.startswith("make ")}
    assert named
    assert named <= targets
    files = re.findall(r"-r (\S+)", "\n".join(lines))
    assert files
    assert all((ROOT / name).is_file() for name in files)


def test_the_comparison_finds_differences() -> None:
    """The test of the session is worth nothing if anything passes."""
    first, second = "a" * 64, "b" * 64
    session = Session({})
    assert session.difference([f"hash {first}", "[… more]", "end"], [f"hash {second}", "x", "y", "end"]) == ""
    assert session.real(first) == second
    assert session.difference([f"hash {first}"], [f"hash {first}"]) != ""
    assert session.difference(["one"], ["one", "two"]) != ""
    assert session.difference(["one", "two"], ["one"]) != ""
    assert session.difference(["one [… more]"], ["one and more"]) == ""
    assert session.difference(["one [… more]"], ["two and more"]) != ""
