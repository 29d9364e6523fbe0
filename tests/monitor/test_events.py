"""Events and their registry: documented, bounded, always encodable."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crabnet.errors import Reason
from crabnet.limits import EVENT_LINE_BYTES_MAX, EVENT_STRING_CHARS_MAX
from crabnet.monitor.document import events_document
from crabnet.monitor.events import Event, EventEncoder, EventFieldWarning, PayloadValue, describe, make_event
from crabnet.monitor.registry import EVENTS, FIELDS, EventKind, Severity
from tests.monitor.support import NODE, NOW_MS

EVENTS_MD = Path(__file__).parents[2] / "docs" / "EVENTS.md"
ANY_TEXT = st.text(st.characters(codec=None, categories=None), max_size=700)
ANY_VALUE = st.none() | st.booleans() | st.integers() | st.integers(-(2**80), 2**80) | ANY_TEXT


def test_document_is_the_registry() -> None:
    assert EVENTS_MD.read_text(encoding="utf-8") == events_document(), (
        "run: python -m crabnet.monitor.document > docs/EVENTS.md"
    )


def test_every_kind_is_registered_with_known_fields() -> None:
    assert set(EVENTS) == set(EventKind)
    used: set[str] = set()
    for kind, spec in EVENTS.items():
        assert spec.description, kind
        assert spec.fields <= FIELDS.keys(), kind
        used |= spec.fields
    assert used == FIELDS.keys()


def test_no_field_carries_secrets_commands_or_output() -> None:
    forbidden = {"stdout", "stderr", "output", "command", "token", "secret", "password", "private_key", "payload"}
    assert not forbidden & FIELDS.keys()


@pytest.mark.parametrize(
    "kind",
    [
        EventKind.FORK_DETECTED,
        EventKind.RUN_INTERRUPTED,
        EventKind.RUN_TIMED_OUT,
        EventKind.LEDGER_POISONED,
    ],
)
def test_what_needs_somebody_to_look_is_an_alert(kind: EventKind) -> None:
    assert make_event(kind, NOW_MS, NODE).severity is Severity.ALERT


def test_text_that_utf8_cannot_carry_is_replaced() -> None:
    event = make_event(EventKind.SEND_FAILED, NOW_MS, NODE, detail="a\ud800b")
    assert event.payload == {"detail": "a?b"}


def test_event_has_the_fields_of_the_format() -> None:
    event = make_event(
        EventKind.ENVELOPE_REJECTED, NOW_MS, NODE, reason=Reason.BAD_SIGNATURE, kind="SeedCreated", address="a:1"
    )
    event.id = 7
    assert msgspec.json.decode(EventEncoder().lines([event])) == {
        "id": 7,
        "ts": 1_795_429_130,
        "ts_ms": 1_795_429_130_123,
        "node_id": NODE,
        "kind": "envelope_rejected",
        "source": "core",
        "severity": "warning",
        "payload": {"reason": "bad_signature", "kind": "SeedCreated", "address": "a:1"},
    }


def test_severity_can_be_raised() -> None:
    event = make_event(EventKind.LEDGER_RECOVERED, NOW_MS, NODE, Severity.ALERT, clean=False)
    assert (event.severity, event.payload) == (Severity.ALERT, {"clean": False})


def test_undeclared_field_is_left_out_and_told() -> None:
    with pytest.warns(EventFieldWarning, match="'stdout'"):
        event = make_event(EventKind.RUN_FINISHED, NOW_MS, NODE, exit_code=0, stdout="secret")
    assert event.payload == {"exit_code": 0}


def test_value_of_another_type_is_left_empty_and_told() -> None:
    with pytest.warns(EventFieldWarning, match="bytes"):
        event = make_event(EventKind.RUN_FINISHED, NOW_MS, NODE, exit_code=b"secret")  # type: ignore[arg-type]
    assert event.payload == {"exit_code": None}


@given(st.sampled_from(EventKind), st.data())
def test_any_event_is_one_bounded_line_and_reads_back(kind: EventKind, data: st.DataObject) -> None:
    fields: dict[str, PayloadValue] = data.draw(
        st.fixed_dictionaries({}, optional=dict.fromkeys(sorted(EVENTS[kind].fields), ANY_VALUE))
    )
    event = make_event(kind, NOW_MS, NODE, **fields)
    event.id = 1
    line = EventEncoder().lines([event])
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) < EVENT_LINE_BYTES_MAX
    read = msgspec.json.decode(line, type=Event)
    assert read == event
    assert read.payload.keys() == fields.keys()
    for name, value in fields.items():
        shown = read.payload[name]
        if isinstance(value, str):
            assert isinstance(shown, str)
            assert len(shown) <= EVENT_STRING_CHARS_MAX
            if value.isascii() and len(value) <= EVENT_STRING_CHARS_MAX:
                assert shown == value
        elif value is None or isinstance(value, bool) or -(2**63) <= value < 2**64:
            assert shown == value
            assert type(shown) is type(value)


@given(ANY_TEXT, ANY_TEXT)
@example("\x1b[2J", "\u202e\udc80 \x9b31m")
def test_description_cannot_steer_a_terminal(kind: str, value: str) -> None:
    event = Event(1, 0, 0, NODE, kind, "core", Severity.INFO, {"detail": value})
    text = describe(event)
    assert text.isascii()
    assert text.isprintable()


def test_description_of_a_moment_beyond_the_calendar() -> None:
    event = Event(1, 0, 2**62, NODE, "seed_changed", "core", Severity.NOTICE, {"status": "Open"})
    assert describe(event) == f"1 {2**62}ms notice  seed_changed status=Open"


def test_description() -> None:
    event = make_event(EventKind.SEED_CHANGED, NOW_MS, NODE, status="Open", attempt=1, reason="two words", worker=None)
    assert describe(event) == (
        '0 2026-11-23T10:18:50.123Z notice  seed_changed status=Open attempt=1 reason="two words" worker=null'
    )
