"""Many runs, one after the other and at once, leave no process, mount, control group, file or descriptor."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.sandbox.host import FALLBACK, PLACES, ROOM_FOR_OTHERS, STRICT, Attacked, Place, attacked


def descriptors(node: Attacked) -> list[str]:
    return sorted(os.listdir(f"/proc/{node.process.pid}/fd"))


@pytest.mark.parametrize(
    ("place", "in_sequence", "at_once"),
    [
        *(pytest.param(place, 3, 8, id=f"{place}-few") for place in (STRICT, FALLBACK)),
        *(pytest.param(place, 200, 8, id=f"{place}-many", marks=pytest.mark.deep) for place in PLACES),
    ],
)
@pytest.mark.timeout(600)
def test_many_runs_leave_nothing(place: Place, in_sequence: int, at_once: int) -> None:
    with attacked(place) as node:
        node.run("true")  # the first makes threads and caches
        before = descriptors(node) if os.access(f"/proc/{node.process.pid}/fd", os.R_OK) else None
        for _ in range(in_sequence):
            assert node.run("true").outcome["exit_code"] == 0
        command = "sh -c 'sleep 0.1 & echo x > file'"
        numbers = {node.ask(command, limits=ROOM_FOR_OTHERS) for _ in range(at_once)}
        answers = node.answers(at_once)

        assert {answer.id for answer in answers} == numbers
        assert {answer.outcome["exit_code"] for answer in answers} == {0}
        last = next(answer for answer in reversed(answers) if answer.state is not None)
        assert last.state == node.state
        if before is not None:
            assert descriptors(node) == before
    assert not list(Path("/dev/shm").glob(f"crabnet-probe-{node.process.pid}"))
