"""Each kind of event has a sentence, whatever strangers put into its fields."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crabnet.limits import LOG_TEXT_CHARS_MAX
from crabnet.monitor import sentences
from crabnet.monitor.events import Event, PayloadValue, make_event
from crabnet.monitor.operator_log import OperatorLog
from crabnet.monitor.registry import EVENTS, EventKind, Severity
from crabnet.monitor.sentences import FIELD, SENTENCES, Level, level_of, sentence
from crabnet.plain import plain

ME = "12D3KooWHShkV1meAbSYDs6WMPGFh53iXKECgqctyhqaUL1ixWbt"
OTHER = "12D3KooWPaK8CwtoG84ePE5eGTbvcAYxrn8dFBRRZrHeG475uY1C"
SEED = "6d1c9d2e-0000-4000-8000-000000000001"
HOSTILE = (
    "\x1b[2J\x1b[31m",
    "a\nALERT: forged",
    "\u202eevil",
    "\ud800",
    "{peer:id}[",
    "]",
    "",
    "x" * 5_000,
    "\U000e0041",
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=30),
    st.sampled_from(HOSTILE),
    st.just(ME),
    st.just("Open"),
)


def told(kind: EventKind, severity: Severity | None = None, /, **fields: PayloadValue) -> tuple[str, str]:
    level, text = sentence(make_event(kind, 0, ME, severity, **fields))
    return level.value, text


def test_every_kind_has_a_row_that_uses_declared_fields_only() -> None:
    assert SENTENCES.keys() == set(EventKind)
    for kind, row in SENTENCES.items():
        if isinstance(row, tuple):
            used = {name for name, _ in FIELD.findall(row[1])}
            assert used <= EVENTS[EventKind(kind)].fields, kind


def test_no_kind_has_two_rows() -> None:
    """The second one would hide the first."""
    tree = ast.parse(Path(sentences.__file__).read_text(encoding="utf-8"))
    tables = [each for each in ast.walk(tree) if isinstance(each, ast.Dict) and len(each.keys) == len(EventKind)]
    (names,) = [[key.attr for key in table.keys if isinstance(key, ast.Attribute)] for table in tables]
    assert sorted(names) == sorted(kind.name for kind in EventKind)


@pytest.mark.parametrize("kind", list(EventKind))
def test_a_sentence_is_one_harmless_line_for_any_values(kind: EventKind) -> None:
    names = sorted(EVENTS[kind].fields)

    @settings(max_examples=settings().max_examples // 4)
    @given(values=st.fixed_dictionaries({}, optional=dict.fromkeys(names, VALUES)), severity=st.sampled_from(Severity))
    def check(values: dict[str, PayloadValue], severity: Severity) -> None:
        event = Event(1, 0, 0, ME, kind, "core", severity, values)
        level, text = sentence(event)
        assert text
        assert text == plain(text), "control, bidirectional and invisible characters are escaped"
        assert level_of(event) in {level, None}
        for as_json in (False, True):
            line = OperatorLog(lambda _: True, lambda: 0, as_json=as_json).line(text, kind, level, values)
            assert line.count("\n") == 1
            assert len(line.encode()) <= 4_096

    check()


def test_an_event_of_another_version_is_told_by_its_kind() -> None:
    assert sentence(Event(1, 0, 0, ME, "new\nkind", "core", Severity.ALERT, {})) == (Level.ERROR, "new\\nkind")


@pytest.mark.parametrize(
    ("kind", "fields", "level", "text"),
    [
        ("peer_found", {"address": "1.2.3.4:9012", "peer": OTHER}, "info", "peer 12D3…uY1C found at 1.2.3.4:9012"),
        (
            "peer_lost",
            {"address": "1.2.3.4:9012", "peer": OTHER, "reason": "timeout", "duration_ms": 60_000},
            "info",
            "peer 12D3…uY1C at 1.2.3.4:9012 lost: not heard for 60 s",
        ),
        (
            "seed_changed",
            {"seed_id": SEED, "status": "Open", "author": ME, "title": "count\nwords"},
            "info",
            f"task {SEED} published: count\\nwords",
        ),
        (
            "seed_changed",
            {"seed_id": SEED, "status": "Open", "author": OTHER, "title": "\u202etitle"},
            "info",
            f"task {SEED} published by 12D3…uY1C: \\u202etitle",
        ),
        (
            "seed_changed",
            {"seed_id": SEED, "status": "Claimed", "status_before": "Open", "worker": ME, "bid_id": "B", "price": 5},
            "info",
            f"bid B of 5 won: task {SEED} can run now: crabnet seed run {SEED}",
        ),
        (
            "seed_changed",
            {"seed_id": SEED, "status": "Claimed", "status_before": "Open", "author": OTHER, "worker": OTHER},
            "debug",
            f"task {SEED} claimed for 12D3…uY1C, attempt ?",
        ),
        (
            "seed_changed",
            {"seed_id": SEED, "status": "Done", "author": ME, "worker": OTHER},
            "info",
            f"task {SEED} has a result of 12D3…uY1C: look at it with crabnet seed show, and settle it",
        ),
        (
            "seed_changed",
            {"seed_id": SEED, "status": "Done", "author": ME, "worker": OTHER, "auto": True},
            "info",
            f"task {SEED} has a result of 12D3…uY1C",
        ),
        (
            "result_judged",
            {"seed_id": SEED, "worker": OTHER, "judgement": "ask", "status": "Accepted", "detail": "no conditions"},
            "debug",
            f"the result of task {SEED} is taken as it is: no conditions",
        ),
        (
            "result_judged",
            {"seed_id": SEED, "worker": OTHER, "judgement": "reject", "status": "Rejected", "reason": "too_slow"},
            "info",
            f"the result of task {SEED} by 12D3…uY1C is judged: reject (too_slow)",
        ),
        (
            "run_finished",
            {"seed_id": SEED, "exit_code": 0, "duration_ms": 1_200},
            "info",
            f"run of task {SEED} finished: exit code 0 in 1200 ms",
        ),
        (
            "run_finished",
            {"seed_id": SEED, "signal": 9, "duration_ms": 12_000, "failed": "worker", "cause": "lost"},
            "warning",
            f"run of task {SEED} finished: ended by signal 9 in 12 s; this worker failed, not the task (lost)",
        ),
        (
            "send_failed",
            {"address": "1.2.3.4:9", "detail": "no route", "failures": 1},
            "warning",
            "cannot send to 1.2.3.4:9: no route; stored envelopes are sent again",
        ),
        (
            "send_failed",
            {"address": "1.2.3.4:9", "failures": 2},
            "debug",
            "cannot send to 1.2.3.4:9; stored envelopes are sent again",
        ),
        (
            "clock_suspect",
            {"detail": "off by an hour"},
            "error",
            "the clock is wrong, so the node signs nothing: off by an hour; set the clock",
        ),
    ],
)
def test_sentences(kind: str, fields: dict[str, PayloadValue], level: str, text: str) -> None:
    assert told(EventKind(kind), **fields) == (level, text)
    assert len(text) < LOG_TEXT_CHARS_MAX


def test_a_severity_of_its_own_is_the_level() -> None:
    fields: dict[str, PayloadValue] = {"outcome": "tail_cut", "detail": "cut"}
    assert told(EventKind.LEDGER_RECOVERED, **fields)[0] == "debug"
    assert told(EventKind.LEDGER_RECOVERED, Severity.ALERT, **fields)[0] == "error"
