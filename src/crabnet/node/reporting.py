"""Notices to events and counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from crabnet import __version__, limits
from crabnet.core.core import Core
from crabnet.core.effects import FieldValue
from crabnet.monitor.events import PayloadValue, event_of
from crabnet.monitor.registry import EventKind, Severity
from crabnet.monitor.writer import EventLog
from crabnet.node.store import Store
from crabnet.settings import KNOBS, Settings

_KINDS = {kind.value: kind for kind in EventKind}


class Reporter:
    """Counts every notice by kind and Reason, and hands it to the event log if there is one."""

    def __init__(self, node_id: str, log: EventLog | None, clock_ms: Callable[[], int]) -> None:
        self.counters: Counter[str] = Counter()
        self._node_id = node_id
        self._log = log
        self._clock_ms = clock_ms

    def notify(self, kind: str, fields: Mapping[str, FieldValue], severity: Severity | None = None) -> None:
        """One event of a registered kind."""
        reason = fields.get("reason")
        self.counters[f"{kind}.{reason}" if isinstance(reason, str) else kind] += 1
        if self._log is not None:
            event_kind = _KINDS[kind]
            present: dict[str, PayloadValue] = dict(fields)
            if None in fields.values():
                present = {name: value for name, value in fields.items() if value is not None}
            self._log.put(event_of(event_kind, self._clock_ms(), self._node_id, severity, present))


class Notify(Protocol):
    """``Reporter.notify``."""

    def __call__(self, kind: str, fields: Mapping[str, FieldValue], severity: Severity | None = None) -> None: ...


def report_start(
    notify: Notify, settings: Settings, core: Core, store: Store, *, one_shot: bool, state_hash: str
) -> None:
    """The events of a start: key, recovery, effective bounds. Less loud for one-shot commands."""
    quiet = Severity.DEBUG if one_shot else None
    if store.key_created:
        notify("identity_created", {"key_id": core.signer.key_id, "file": "identity.key"})
    for path in store.archive.leftovers:
        notify(
            "ledger_recovered",
            {
                "clean": False,
                "outcome": "archive_leftover",
                "file": path.name,
                "detail": "a crash left an archive segment that the journal does not know; it was set aside",
            },
            Severity.ALERT,
        )
    recovery = store.ledger.recovery
    for notice in recovery.notices:
        notify(
            "ledger_recovered",
            {
                "clean": not notice.is_alert,
                "outcome": notice.code.value,
                "file": notice.path.name,
                "offset": notice.offset,
                "lsn": store.ledger.last_lsn,
                "replayed": store.replayed_frames,
                "duration_ms": store.duration_ms,
                "detail": notice.message[: limits.EVENT_DETAIL_CHARS],
            },
            Severity.ALERT if notice.is_alert else Severity.INFO,
        )
    for problem in store.left_out[: limits.LEFT_OUT_EVENTS_MAX]:
        detail = problem[: limits.EVENT_DETAIL_CHARS]
        notify("ledger_recovered", {"clean": False, "outcome": "baseline_left_out", "detail": detail}, Severity.WARNING)
    if store.feed_risk_accepted:
        last_seq = core.replica.feeds.get(core.signer.node_id).head_seq
        notify("feed_risk_accepted", {"namespace": settings.namespace, "last_seq": last_seq})
    for knob in KNOBS:
        value: object = getattr(settings, knob.name)
        if value != knob.default:
            notify(
                "config_effective",
                {"setting": knob.name, "value": knob.shown(value)[: limits.EVENT_DETAIL_CHARS]},
                quiet,
            )
    notify(
        "node_started",
        {
            "version": __version__,
            "network": settings.network,
            "namespace": settings.namespace,
            "data_dir": str(settings.data_dir),
            "message_ttl_ms": settings.message_ttl_s * 1000,
            "future_skew_ms": settings.future_skew_s * 1000,
            "seen_ttl_ms": settings.seen_messages_ttl_s * 1000,
            "seen_capacity": settings.seen_messages_capacity,
            "require_signatures": settings.require_signatures,
            "state_hash": state_hash,
        },
        quiet,
    )
