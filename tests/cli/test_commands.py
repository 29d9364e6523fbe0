"""Commands against a control socket: what they ask, what they print, how they fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol, cast

import pytest

from crabnet.cli.main import main
from crabnet.errors import ERRORS_BY_EXIT_CODE, CrabnetError, ExitCode, Reason, RefusedError
from crabnet.plain import plain
from crabnet.protocol.canonical import JsonObject, JsonValue

SEED: JsonObject = {
    "id": "seed-1",
    "title": "a title",
    "description": "",
    "command": "echo hi",
    "timeout_ms": 500,
    "reward": 7,
    "status": "Open",
}
EVIL = "a\x1b[2Jb\x9bc\u202ed\ne\r\u200bf\U000e0041"
CONDITIONS: dict[str, object] = {
    "exit_code": 3,
    "stdout_sha256": "ab" * 32,
    "duration_ms_max": 5_000,
    "check": "grep x",
    "files": [{"name": "a=b", "sha256": "12" * 32}],
}
DEFAULTS: JsonObject = {
    "description": "",
    "timeout_ms": 120_000,
    "bid_window_ms": 60_000,
    "claim_window_ms": None,
    "exec_deadline_ms": None,
    "min_price": 0,
    "max_bids": 0,
    "reward": 0,
    "rules": "",
    "settle_window_ms": None,
    "announce": True,
}


class Canned(Protocol):
    data_dir: Path
    answers: dict[str, JsonValue | CrabnetError]
    asked: list[tuple[str, JsonObject]]


class Ran(Protocol):
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "method", "params", "answer", "line"),
    [
        (
            ["seed", "publish", "--title", "t", "--cmd", "echo hi"],
            "seed.publish",
            {**DEFAULTS, "title": "t", "command": "echo hi"},
            {"seed": SEED},
            "seed published seed-1",
        ),
        (
            [
                *(
                    "seed",
                    "publish",
                    "--title",
                    "t",
                    "--cmd",
                    "c",
                    "--desc",
                    "d",
                    "--timeout-ms",
                    "5",
                    "--bid-window-ms",
                ),
                *("6", "--min-price", "7", "--max-bids", "8", "--reward", "9", "--rules", "r", "--no-announce"),
                *("--claim-window-ms", "10", "--exec-deadline-ms", "11"),
            ],
            "seed.publish",
            {
                "title": "t",
                "command": "c",
                "description": "d",
                "timeout_ms": 5,
                "bid_window_ms": 6,
                "claim_window_ms": 10,
                "exec_deadline_ms": 11,
                "min_price": 7,
                "max_bids": 8,
                "reward": 9,
                "rules": "r",
                "settle_window_ms": None,
                "announce": False,
            },
            {"seed": SEED},
            "seed published seed-1",
        ),
        *(
            (
                ["seed", "verdict", "seed-1", *flags],
                method,
                {"seed_id": "seed-1"},
                {
                    "judgement": "reject",
                    "detail": "it is late",
                    "reason": "too_slow",
                    "acceptance": None,
                    "check": None,
                },
                "reject: it is late (too_slow)",
            )
            for flags, method in (((), "seed.verdict"), (("--run-check",), "seed.check"))
        ),
        (
            [
                *("seed", "publish", "--title", "t", "--cmd", "c", "--expect-exit", "3", "--check", "grep x"),
                *("--expect-stdout-sha256", "AB" * 32, "--expect-file", f"a=b={'12' * 32}", "--max-duration", "5s"),
                *("--settle-within", "2h"),
            ],
            "seed.publish",
            {
                **DEFAULTS,
                "title": "t",
                "command": "c",
                "settle_window_ms": 7_200_000,
                "acceptance": CONDITIONS,
            },
            {"seed": SEED},
            "seed published seed-1",
        ),
        (
            ["seed", "bid", "s", "--price", "3", "--notes", "n", "--announce"],
            "seed.bid",
            {"seed_id": "s", "price": 3, "notes": "n", "announce": True, "force": False},
            {"bid": {"id": "b"}},
            "bid submitted b",
        ),
        (
            ["seed", "claim", "s", "b"],
            "seed.claim",
            {"seed_id": "s", "bid_id": "b", "announce": True},
            {"claim": {"id": "c"}},
            "claim created c",
        ),
        (
            ["seed", "run", "s"],
            "seed.run",
            {"seed_id": "s", "announce": True},
            {"result": {"id": "r", "output_hash": "ab12", "exit_code": 3, "duration_ms": 5, "stdout": "hi"}},
            "task result r hash=ab12\nexit code 3 after 5 ms\nhi",
        ),
        *(
            (
                ["seed", "settle", "s", flag, "--note", "n"],
                "seed.settle",
                {"seed_id": "s", "outcome": outcome, "note": "n", "announce": True},
                {"seed": SEED},
                f"seed seed-1 settled as {outcome}",
            )
            for flag, outcome in (
                ("--accepted", "Accepted"),
                ("--rejected", "Rejected"),
                ("--forfeited", "Forfeited"),
                ("--cancelled", "Expired"),
            )
        ),
        (
            ["seed", "list", "--status", "open", "--limit", "5", "--after", "x"],
            "seed.list",
            {"biddable": True, "limit": 5, "after": "x"},
            {"seeds": [SEED], "next": None},
            "seed-1 [OPEN] cmd=echo hi timeout=500ms reward=7",
        ),
    ],
)
def test_what_is_asked_and_printed(
    node: Canned,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    method: str,
    params: JsonObject,
    answer: JsonObject,
    line: str,
) -> None:
    node.answers[method] = answer
    where = ["--data-dir", str(node.data_dir)]
    assert run(capsys, *words, *where) == (0, line + "\n", "")
    assert node.asked == [(method, params)]
    code, out, err = run(capsys, *where, "--json", *words)
    assert (code, err) == (0, "")
    assert json.loads(out) == answer
    assert out.count("\n") == 1


def test_a_long_list_is_read_page_by_page(node: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    pages: list[JsonValue] = [
        {"seeds": [{**SEED, "id": f"s{page}"}], "next": f"s{page}" if page < 2 else None} for page in range(3)
    ]

    class Pages(dict[str, JsonValue | CrabnetError]):
        def __getitem__(self, method: str) -> JsonValue | CrabnetError:
            return pages.pop(0)

    node.answers = Pages()
    code, out, _ = run(capsys, "seed", "list", "--data-dir", str(node.data_dir))
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["s0", "s1", "s2"]
    assert [params["after"] for _, params in node.asked] == [None, "s0", "s1"]


def test_a_list_of_very_long_seeds_is_read_in_smaller_pages(node: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    class TooLong(dict[str, JsonValue | CrabnetError]):
        def __getitem__(self, method: str) -> JsonValue | CrabnetError:
            limit = node.asked[-1][1]["limit"]
            if isinstance(limit, int) and limit > 10:
                return RefusedError("too long", Reason.LIMIT_EXCEEDED)
            return {"seeds": [SEED], "next": None}

    node.answers = TooLong()
    assert run(capsys, "seed", "list", "--data-dir", str(node.data_dir))[0] == 0


def test_a_limited_list_says_where_it_goes_on(node: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["seed.list"] = {"seeds": [SEED], "next": "seed-1"}
    code, out, err = run(capsys, "seed", "list", "--limit", "1", "--data-dir", str(node.data_dir))
    assert (code, out.count("\n"), err) == (
        0,
        1,
        f"more: crabnet seed list --limit 1 --data-dir {node.data_dir} --after seed-1\n",
    )


def test_status_id_and_show_for_people(node: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["status"] = {"running": True, "listen_addr": None, "seeds": {"Open": 2}, "counters": {}}
    node.answers["id"] = {"node_id": "12D3", "alias": "node"}
    node.answers["seed.show"] = {
        "seed": SEED,
        "bids": [{"id": "b", "seed_id": "seed-1", "price": 3, "counts": True}],
        "claims": [],
        "runs": [],
        "results": [{"id": "r", "stdout": "one\ntwo\x1b[0m\n", "termination": {"cause": "exited"}}],
        "settlements": [],
        "acknowledgements": [{"id": "a", "worker": "12D3"}],
        "totals": {"bids": 2},
        "next": "b",
    }
    where = ["--data-dir", str(node.data_dir)]
    assert run(capsys, "status", *where)[1] == "running: true\nseeds:\n  Open: 2\ncounters: none\n"
    assert run(capsys, "id", *where)[1] == "node_id: 12D3\nalias: node\n"
    _, out, err = run(capsys, "seed", "show", "seed-1", "--limit", "1", *where)
    assert out.endswith("\nbid b\n  price: 3\n  counts: true\n")
    assert out.index("\nresult r\n") < out.index("\nacknowledgement a\n") < out.index("\nbid b\n")
    assert err == f"more: crabnet seed show seed-1 --limit 1 --data-dir {node.data_dir} --after b\n"
    assert "  stdout:\n    | one\n    | two\\x1b[0m\n" in out
    assert "\x1b" not in out


def test_a_long_show_is_asked_for_in_pages_and_put_together(node: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    counting: JsonObject = {"seed": SEED, "claims": [], "runs": [], "results": [], "settlements": []}
    following: dict[str | None, str | None] = {None: "b1", "b1": "b2", "b2": None}

    class Pages(dict[str, JsonValue | CrabnetError]):
        def __getitem__(self, key: str) -> JsonValue | CrabnetError:
            after = cast(str | None, node.asked[-1][1]["after"])
            row = {None: "b1", "b1": "b2", "b2": "b3"}[after]
            return {**counting, "bids": [{"id": row}], "next": following[after], "totals": {"bids": 3}}

    node.answers = Pages()
    where = ["--json", "--data-dir", str(node.data_dir)]
    for limit, more, asked in (
        (600, None, [(500, None), (500, "b1"), (500, "b2")]),
        (2, "b2", [(2, None), (1, "b1")]),
    ):
        node.asked.clear()
        shown = json.loads(run(capsys, "seed", "show", "seed-1", "--limit", str(limit), *where)[1])
        assert [(params["limit"], params["after"]) for _, params in node.asked] == asked
        assert [row["id"] for row in shown["bids"]] == ["b1", "b2", "b3"][: min(limit, 3)]
        assert shown["next"] == more


def test_what_is_followed_has_no_pages(node: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--limit", "1"], ["--after", "x"]):
        where = ["--follow", "--data-dir", str(node.data_dir)]
        assert run(capsys, "seed", "show", "seed-1", *words, *where)[0] == ExitCode.USAGE
    assert node.asked == []


def test_a_run_that_was_refused_says_so_on_stderr(node: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data-dir", str(node.data_dir)]
    node.answers["seed.run"] = {"result": {"id": "r", "output_hash": "h", "refusal": "command_not_allowed"}}
    assert run(capsys, "seed", "run", "s", *where)[2] == "the command was not run: command_not_allowed\n"
    node.answers["seed.run"] = {"result": {"id": "r", "output_hash": "h", "timed_out": True}}
    assert "timed out and was terminated" in run(capsys, "seed", "run", "s", *where)[2]


def test_text_from_strangers_cannot_steer_the_terminal(node: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    evil: JsonObject = {**SEED, "id": EVIL, "title": EVIL, "command": EVIL, "status": EVIL, EVIL: EVIL}
    node.answers["seed.list"] = {"seeds": [evil], "next": EVIL}
    node.answers["seed.show"] = {
        "seed": evil, "bids": [{"id": EVIL, "notes": EVIL}], "claims": [], "runs": [],
        "results": [{"id": "r", "stdout": EVIL, "stderr": [EVIL]}], "settlements": [],
        "ineffective": [{"id": EVIL, "kind": EVIL, "author": EVIL, "verdict": EVIL, "reason": EVIL}],
        "totals": {"bids": 1, "waiting": EVIL, "void": EVIL}, "next": None,
    }  # fmt: skip
    node.answers["id"] = RefusedError(EVIL, Reason.NOT_DUE)
    where = ["--data-dir", str(node.data_dir)]
    for words in (["seed", "list", "--limit", "1"], ["seed", "show", "x"], ["id"]):
        for as_json in ([], ["--json"]):
            _, out, err = run(capsys, *words, *where, *as_json)
            text = (out + err).replace("\n", "")
            assert text
            assert all(character.isprintable() for character in text), repr(text)
    assert len(run(capsys, "seed", "list", "--limit", "1", *where)[1].splitlines()) == 1


@pytest.mark.parametrize("error", list(ERRORS_BY_EXIT_CODE.values()))
def test_every_kind_of_refusal_is_a_line_and_an_exit_code(
    node: Canned, capsys: pytest.CaptureFixture[str], error: type[CrabnetError]
) -> None:
    node.answers["status"] = error("line one\nline two", Reason.FORK)
    where = ["--data-dir", str(node.data_dir)]
    assert run(capsys, "status", *where) == (int(error.exit_code), "", "error: fork: line one\\nline two\n")
    code, out, err = run(capsys, "status", "--json", *where)
    assert (code, out) == (int(error.exit_code), "")
    assert json.loads(err) == {
        "error": {"reason": "fork", "message": "line one\nline two", "exit_code": int(error.exit_code)}
    }


USAGE: list[list[str]] = [
    ["frob"],
    ["seed"],
    ["seed", "frob"],
    ["--frob"],
    ["status", "--frob"],
    ["status", "extra"],
    ["seed", "publish"],
    ["seed", "publish", "--title", "t"],
    ["seed", "publish", "--title", "t", "--cmd", "c", "--timeout-ms", "0"],
    ["seed", "publish", "--title", "t", "--cmd", "c", "--timeout-ms", "-1"],
    ["seed", "publish", "--title", "t", "--cmd", "c", "--timeout-ms", "1.5"],
    ["seed", "publish", "--title", "t", "--cmd", "c", "--timeout-ms", "604800001"],
    ["seed", "publish", "--title", "t", "--cmd", "c", "--reward", "9007199254740992"],
    ["seed", "publish", "--title", "t", "--cmd", "c", "--reward", "ten"],
    ["seed", "publish", "--title", "t", "--cmd", "c", "--reward", ""],
    ["seed", "publish", "--title"],
    ["seed", "publish", "--title", "\udcff", "--cmd", "c"],
    ["seed", "bid", "s"],
    ["seed", "bid", "s", "--price", "-1"],
    ["seed", "bid", "--price", "1"],
    ["seed", "claim", "s"],
    ["seed", "claim", "s", "b", "c"],
    ["seed", "run"],
    ["seed", "settle", "s"],
    ["seed", "settle", "s", "--accepted", "--rejected"],
    ["seed", "settle", "s", "--accepted", "--forfeited", "--cancelled"],
    ["seed", "list", "--status", "Shut"],
    ["seed", "list", "--limit", "0"],
    ["seed", "show"],
    ["completion"],
    ["completion", "tcsh"],
    ["events", "--severity", "loud"],
    ["events", "--kind", "no_such_kind"],
    ["events", "--reason", "no_such_reason"],
    ["events", "--after", "-1"],
    ["events", "--since", "never"],
    ["events", "--limit", "x"],
    ["config"],
    ["config", "show", "--message-ttl-s", "soon"],
    ["config", "show", "--listen-addr", "nowhere"],
    ["config", "show", "--no-alias"],
    ["config", "show", "--config", "/nonexistent/crabnet.toml"],
    ["config", "show", "--config", ""],
    ["config", "show", "--network", "dht,quic"],
    ["config", "show", "--data-dir", ""],
    ["topology", "--format", "xml"],
    ["drain", "--timeout-ms", "-1"],
    ["top", "--interval-ms", "1"],
    ["feeds", "--limit", "0"],
    ["debug"],
]


@pytest.mark.parametrize("words", USAGE, ids=" ".join)
def test_wrong_words_are_one_line_and_exit_code_2(
    node: Canned, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    where = ["--data-dir", str(node.data_dir)]
    code, out, err = run(capsys, *where, *words)
    assert (code, out) == (int(ExitCode.USAGE), "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    code, out, err = run(capsys, "--json", *where, *words)
    assert (code, out) == (int(ExitCode.USAGE), "")
    assert json.loads(err)["error"]["exit_code"] == 2
    assert node.asked == []


@pytest.mark.parametrize("answer", [None, 1, [], {}, {"seed": None}, {"seed": {}}, {"seed": []}])
def test_answers_of_another_version_are_an_error_not_a_traceback(
    node: Canned, capsys: pytest.CaptureFixture[str], answer: JsonValue
) -> None:
    node.answers["seed.settle"] = answer
    code, out, err = run(capsys, "seed", "settle", "s", "--accepted", "--data-dir", str(node.data_dir))
    assert (code, out) == (1, "")
    assert err.startswith("error: internal: the node's answer has no ")


def test_global_options_stand_anywhere_and_the_last_wins(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--alias", "first", "config", "--data-dir", str(tmp_path), "--alias", "second", "show", "--json"]
    code, out, _ = run(capsys, *words)
    assert code == 0
    settings = json.loads(out)["settings"]
    assert settings["alias"] == {"value": "second", "origin": "flag --alias", "unit": None}
    assert settings["data_dir"]["value"] == str(tmp_path)


def test_config_show_names_origins(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "crabnet.toml"
    path.write_text('parked_ttl_s = 5\nbootstrap_peers = ["a:1"]\n')
    monkeypatch.setenv("CRABNET_FUTURE_SKEW_SECONDS", "6")
    words = ["config", "show", "--data-dir", str(tmp_path), "--no-require-signatures", "--announce-addr", "a:1,b:2"]
    words += ["--announce-addr", "c:3"]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert f"parked_ttl_s = 5 s  (file {path})\n" in out
    assert "future_skew_s = 6 s  (environment CRABNET_FUTURE_SKEW_SECONDS)\n" in out
    assert "require_signatures = false  (flag --require-signatures)\n" in out
    assert "announce_addrs = a:1,b:2,c:3  (flag --announce-addr)\n" in out
    document = json.loads(run(capsys, *words, "--json")[1])
    assert document["config_file"] == str(path)
    assert document["settings"]["bootstrap_peers"] == {"value": ["a:1"], "origin": f"file {path}", "unit": None}


def test_unknown_environment_names_stop_a_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRABNET_ALIS", "x")
    code, out, err = run(capsys, "config", "show")
    assert (code, out) == (2, "")
    assert "did you mean CRABNET_ALIAS?" in err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    from crabnet import __version__

    for words in (["--version"], ["-V"], ["--version", "status"]):
        assert run(capsys, *words) == (0, f"crabnet {__version__}\n", "")
    assert json.loads(run(capsys, "--json", "--version")[1]) == {"version": __version__}
    for words in (["--help"], ["-h"], ["seed", "--help"], ["seed", "bid", "-h"], ["listen", "--help"]):
        code, out, err = run(capsys, *words)
        assert (code, err) == (0, "")
        assert out.startswith("Usage: ")
    assert "--udp-receive-buffer-bytes" in run(capsys, "listen", "--help")[1]
    assert "--udp-receive-buffer-bytes" not in run(capsys, "status", "--help")[1]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, äöü 漢字 🦀", "plain text, äöü 漢字 🦀"),
        ("a\tb\nc\rd", "a\\tb\\nc\\rd"),
        ("\x00\x1b\x7f\x9b", "\\x00\\x1b\\x7f\\x9b"),
        ("\u202e\u2066\u200b\ufeff", "\\u202e\\u2066\\u200b\\ufeff"),
        ("\U000e0041\ud800", "\\U000e0041\\ud800"),
    ],
)
def test_plain(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_flags_that_a_running_node_does_not_heed_are_told(node: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["id"] = {"node_id": "x", "namespace": "default"}
    where = ("--data-dir", str(node.data_dir), "--control-timeout-ms", "5000", "--namespace", "default")

    plainly = run(capsys, *where, "id")
    ignored = run(capsys, *where, "id", "--relay-fanout", "9", "--sync-fanout", "2")

    assert (plainly[0], plainly[2]) == (0, "")
    assert (ignored[0], ignored[1]) == (0, plainly[1])
    assert ignored[2] == "the running node keeps the settings of its start; it ignored --relay-fanout, --sync-fanout\n"
