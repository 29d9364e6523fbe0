"""The line that says how far a purchase is, and what is told once."""

from __future__ import annotations

import pytest

from crabnet.cli.context import State
from crabnet.cli.progress import fitting, parts

WAITS = {"stage": "published", "heard_by": 3, "bids": 0, "until_ms": 70_000}
SAID = {**WAITS, "detail": "no worker has bid yet: 1 worker saw it: 1 does not allow python3"}
RUNS = {"stage": "running", "heard_by": 1, "bids": 2, "worker": "12D3KooWabcd", "price": 4, "since_ts": 5}


@pytest.mark.parametrize(
    ("purchase", "columns", "shown"),
    [
        (WAITS, 79, "published, heard by 3; no bid yet (60 s left)"),
        (SAID, 200, "published, heard by 3; 1 worker saw it: 1 does not allow python3; no bid yet (60 s left)"),
        (SAID, 79, "1 worker saw it: 1 does not allow python3; no bid yet (60 s left)"),
        (SAID, 39, "no bid yet (60 s left)"),
        (RUNS, 79, "published, heard by 2; 2 bids; awarded to 12D3..abcd for 4; running for 5 s"),
        (RUNS, 39, "running for 5 s"),
    ],
)
def test_the_end_of_the_line_is_what_a_narrow_terminal_shows(
    purchase: dict[str, str | int], columns: int, shown: str
) -> None:
    assert fitting(parts({**purchase}, 10), columns) == shown


def test_what_a_running_node_ignores_is_told_once_and_as_it_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    state = State([])
    state.set_flag("bootstrap_peers", ["192.0.2.7:9012"])
    state.typed["bootstrap_peers"] = "--join"
    assert state.ignored == ["--join"]
    for _ in range(2):
        state.warn("it ignored --join")
    assert capsys.readouterr().err == "it ignored --join\n"
