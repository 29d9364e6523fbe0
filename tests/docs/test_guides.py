"""The guides are true: what they type goes as shown, on two machines where they need two."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docs.pages import page, steps
from tests.docs.typist import ADDRESSES, Typist, lab_or_none

GUIDES = ("docs/TUTORIAL.md", "docs/WORKER.md", "docs/BUYER.md")


@pytest.mark.deep
@pytest.mark.parametrize("name", GUIDES)
def test_two_machines_show_what_the_guide_shows(name: str, tmp_path: Path) -> None:
    session = [step for step in steps(page(name)) if step.host]
    assert {step.host for step in session} == set(ADDRESSES)
    with ExitStack() as stack:
        typist = Typist(tmp_path, lab_or_none(stack), tuple(ADDRESSES))
        stack.callback(typist.abandon)
        for step in session:
            typist.type(step)
        assert typist.nodes == [], "the guide ends what it has started"


@pytest.mark.deep
def test_every_step_by_hand_goes_as_shown(tmp_path: Path) -> None:
    session = [step for step in steps(page("docs/TUTORIAL.md")) if not step.host]
    assert len(session) > 15
    assert session[-2].command.startswith("kill ")
    assert session[-1].command == "rm -r net"
    typist = Typist(tmp_path)
    try:
        for step in session:
            typist.type(step)
    finally:
        typist.abandon()
    assert not (tmp_path / "net").exists()
