"""Ids as people give them: beginnings, ``@last``, ambiguous ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import pytest

from crabnet.cli.main import main
from crabnet.control.client import JsonValue
from crabnet.errors import CrabnetError, ExitCode, Reason, RefusedError
from crabnet.protocol.canonical import JsonObject

SEED_ID = "4c00978b-cd09-5cf7-8515-2b692cfde7c5"
BID_ID = "95c91fec-667f-5fb6-bf44-72ec97b8397d"
NODE_ID = "12D3KooWHShkV1meAbSYDs6WMPGFh53iXKECgqctyhqaUL1ixWbt"


class Canned(Protocol):
    data_dir: Path
    answers: dict[str, JsonValue | CrabnetError]
    asked: list[tuple[str, JsonObject]]


def found(*ids: str, more: bool = False) -> JsonObject:
    return {"found": [{"id": each, "kind": "seed", "title": "t\x1b", "status": "Open"} for each in ids], "more": more}


def run(node: Canned, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    node.asked.clear()
    code = main([*words, "-d", str(node.data_dir)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("4c00", "4c00"),
        (" 4C00978B-cd ", "4C00978B-cd"),
        ("@last", "@last"),
        ("@LAST", "@LAST"),
        (SEED_ID, None),
        (SEED_ID.upper(), None),
    ],
)
def test_a_part_of_an_id_is_made_whole_before_the_operation(
    node: Canned, capsys: pytest.CaptureFixture[str], given: str, asked: str | None
) -> None:
    node.answers = {"id.find": found(SEED_ID), "seed.cancel": {"cancelled": "seed", "seed": {"id": SEED_ID}}}
    code, out, _ = run(node, capsys, "seed", "cancel", given, "-q")
    assert (code, out) == (0, f"{SEED_ID}\n")
    searches = [params for method, params in node.asked if method == "id.find"]
    assert searches == ([] if asked is None else [{"kind": "seed", "text": asked, "limit": 8}])
    assert node.asked[-1][1]["seed_id"] == SEED_ID


def test_a_bid_is_looked_for_on_its_task(node: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers = {"id.find": found(BID_ID), "seed.claim": {"claim": {"id": "c"}}}
    assert run(node, capsys, "seed", "claim", SEED_ID, "95c9")[:2] == (0, "claim created c\n")
    assert node.asked[0] == ("id.find", {"kind": "bid", "text": "95c9", "limit": 8, "seed_id": SEED_ID})


def test_an_ambiguous_id_lists_the_candidates(node: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    other = "4c00aaaa-cd09-5cf7-8515-2b692cfde7c5"
    node.answers = {"id.find": found(SEED_ID, other, more=True)}
    code, out, err = run(node, capsys, "seed", "show", "4c00")
    assert (code, out) == (ExitCode.USAGE, "")
    assert err == (
        f"error: ambiguous: '4c00' fits several tasks; give more characters of one: {SEED_ID}  Open  t\\x1b,"
        f" {other}  Open  t\\x1b, and more\n"
    )


@pytest.mark.parametrize(
    ("words", "code", "reason", "said"),
    [
        (["seed", "show", "4c00"], ExitCode.REFUSED, Reason.UNKNOWN_SEED, "no task here has an id like '4c00'"),
        (["seed", "show", "@last"], ExitCode.REFUSED, Reason.UNKNOWN_SEED, "this node has published no task"),
        (["seed", "claim", SEED_ID, "95c9"], ExitCode.REFUSED, Reason.UNKNOWN_BID, "no bid here"),
        (["seed", "list", "--worker", "ixWbt9"], ExitCode.REFUSED, Reason.INVALID_ARGUMENT, "no node here"),
        (["seed", "list", "--worker", "ixW"], ExitCode.USAGE, Reason.INVALID_ARGUMENT, "at least 4 characters"),
        (["seed", "show", "4c0"], ExitCode.REFUSED, Reason.UNKNOWN_SEED, "needs at least 4 characters"),
    ],
)
def test_what_fits_nothing_is_told(
    node: Canned, capsys: pytest.CaptureFixture[str], words: list[str], code: int, reason: Reason, said: str
) -> None:
    node.answers = {"id.find": found(), "seed.show": RefusedError("unknown", Reason.UNKNOWN_SEED)}
    got, _, err = run(node, capsys, *words)
    assert (got, err.split(": ")[:2]) == (code, ["error", reason.value])
    assert said in err


def test_the_filters_of_a_list_are_asked_of_the_node(node: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    pages: list[JsonValue] = [
        {"seeds": [], "next": SEED_ID, "node_id": NODE_ID},
        {"seeds": [{"id": BID_ID}], "next": None, "node_id": NODE_ID},
    ]

    class Answers(dict[str, JsonValue | CrabnetError]):
        def __getitem__(self, method: str) -> JsonValue | CrabnetError:
            return found(NODE_ID) if method == "id.find" else pages.pop(0)

    node.answers = Answers()
    words = [
        "--mine",
        "--needs-me",
        "--biddable",
        "--worker",
        "ixWbt",
        "--since",
        "1970-01-01T00:00:09Z",
        "--text",
        "x",
    ]
    assert run(node, capsys, "seed", "list", "-q", *words)[:2] == (0, f"{BID_ID}\n")
    filters = {"mine": True, "needs_me": True, "biddable": True, "worker": NODE_ID, "since": 9, "text": "x"}
    asked = [params for method, params in node.asked if method == "seed.list"]
    assert asked == [{**filters, "limit": 1000, "after": None}, {**filters, "limit": 1000, "after": SEED_ID}]


def test_ids_are_completed_by_the_running_node(
    node: Canned, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    node.answers = {"id.find": found(SEED_ID)}
    line = f"crabnet -d {node.data_dir} seed show 4c"
    for shell, shown in (("bash", f"plain,{SEED_ID}"), ("zsh", f"plain\n{SEED_ID}\nOpen t\\x1b"), ("fish", SEED_ID)):
        monkeypatch.setenv("_CRABNET_COMPLETE", f"{shell}_complete")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", "4c" if shell == "fish" else "5")
        assert main([]) == 0
        assert shown in capsys.readouterr().out
    monkeypatch.setenv("_CRABNET_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"crabnet -d {os.devnull} seed show @")
    monkeypatch.setenv("COMP_CWORD", "5")
    assert main([]) == 0
    assert capsys.readouterr().out == "\n"
