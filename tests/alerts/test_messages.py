"""What targets are told."""

from __future__ import annotations

import json

from crabnet import limits
from crabnet.alerts.messages import Entry, Sender, bundle_of, encoded, joined, message_of
from crabnet.alerts.messages import test_message as message_of_a_test
from crabnet.monitor.registry import EventKind, Severity
from crabnet.operations.events import Gap
from tests.alerts.making import NODE, event

SENDER = Sender(id=NODE, alias="anna", namespace="default", version="1")


def test_an_event_is_told_as_a_sentence_with_all_its_fields() -> None:
    told = message_of(bundle_of(Entry("alert", 7, event=event(7, step_ms=5_000))), SENDER, 99)
    body = json.loads(encoded(told))
    assert body["text"] == "alert on anna: the system's clock was changed by 5000 ms"
    assert (body["format"], body["id"], body["kind"]) == ("crabnet-alert-1", f"{NODE}:7", "event")
    assert body["node"] == {"id": NODE, "alias": "anna", "namespace": "default", "version": "1"}
    assert body["event"]["payload"] == {"step_ms": 5_000}
    assert (body["sent_at"], body["count"], body["kinds"]) == (99, 1, {"clock_stepped": 1})


def test_text_of_strangers_is_one_harmless_line() -> None:
    hostile = event(1, EventKind.SEED_CHANGED, Severity.NOTICE, status="Open", seed_id="s", title="a\x1b[31m\n\u202eb")
    text = message_of(bundle_of(Entry("kinds", 1, event=hostile)), Sender(id=NODE, alias="x\ny", namespace="n"), 0).text
    assert text.isprintable()
    assert "\\x1b[31m\\n\\u202eb" in text


def test_a_gap_is_worth_a_message() -> None:
    told = message_of(bundle_of(Entry("alert", 12, gap=Gap(first_id=12, last_id=40))), SENDER, 0)
    assert told.text == "alerts of anna may be missing: the events 12 to 40 do not exist any more"
    assert (told.kind, told.id, told.event) == ("gap", f"{NODE}:12", None)


def test_a_summary_names_the_first_alert_and_the_kinds_of_the_others() -> None:
    kinds = [EventKind.CLOCK_STEPPED] * 13 + [EventKind.FORK_DETECTED] * 5
    told = message_of(
        joined(bundle_of(Entry("alert", at, event=event(at, kind))) for at, kind in enumerate(kinds, 1)), SENDER, 0
    )
    assert told.text.endswith(", and 17 more alerts: clock_stepped ×12, fork_detected ×5")
    assert (told.kind, told.count, told.id) == ("summary", 18, f"{NODE}:1+17")
    assert told.kinds == {"clock_stepped": 13, "fork_detected": 5}


def test_a_summary_is_bounded() -> None:
    told = message_of(
        joined(
            bundle_of(Entry("kinds", at, event=event(at, kind, detail="x" * 5_000)))
            for at, kind in enumerate(EventKind, 1)
        ),
        SENDER,
        0,
    )
    assert len(told.text) <= limits.ALERT_TEXT_CHARS_MAX
    assert told.count == len(EventKind)


def test_a_test_says_that_it_is_one() -> None:
    told = message_of_a_test(SENDER, 5)
    assert (told.kind, told.count) == ("test", 0)
