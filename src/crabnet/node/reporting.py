"""Turns notices into events and counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from crabnet import __version__, limits
from crabnet.core.core import Core
from crabnet.core.effects import FieldValue
from crabnet.monitor.events import Event, PayloadValue, event_of
from crabnet.monitor.metrics import OTHER
from crabnet.monitor.registry import EVENTS, EventKind, Severity
from crabnet.monitor.segment import EventLogOptions
from crabnet.monitor.writer import EventLog
from crabnet.node.clock import ClockStep
from crabnet.node.durable.store import Store
from crabnet.protocol.envelope import FEED_KINDS
from crabnet.runner.sandbox.model import Mode, SandboxReport
from crabnet.settings import KNOBS, Settings
from crabnet.storage.files import Files
from crabnet.storage.lock import LockRole

_ENVELOPES: Final = frozenset({"envelope_accepted", "envelope_created"})
_FEED_KINDS: Final = frozenset(map(str, FEED_KINDS))
_KINDS = {kind.value: kind for kind in EventKind}
_COUNTED: Final = frozenset(
    {
        "datagram_dropped",
        "datagram_received_bad",
        "envelope_dropped",
        "fault_contained",
        "fragment_dropped",
        "web_auth_failed",
        "strangers_refused",
        "web_client_dropped",
        "web_overloaded",
        "web_request_failed",
    }
)
"""Events that stand for ``count`` things each. Their counters count the things, not the events."""
_SAMPLED: Final = _COUNTED | {
    "envelope_ignored",
    "envelope_parked",
    "envelope_rejected",
    "fault_contained",
    "gap_detected",
    "gap_requested",
    "peer_confirmed",
    "peer_found",
    "peer_lost",
    "source_blocked",
    "task_declined",
}
"""Events that strangers can cause in any number. They are sampled."""


class Told(Protocol):
    """What is told about events besides the event log: the log of the operator."""

    def tell(self, event: Event) -> None:
        """An event was reported."""
        ...

    def tick(self) -> None:
        """Called several times a second."""
        ...

    def warn(self, text: str, kind: str) -> None:
        """A part of the node, the event log, says in a line that it fails or works again."""
        ...


class Reporter:
    """Counts every notice by kind and Reason, and writes it to the event log if there is one.

    Strangers can cause some events in any number. Of these, the log takes at most ``events_per_s`` of each kind and
    Reason per second; one further event reports how many were left out. 0 means no limit.
    """

    def __init__(
        self,
        node_id: str,
        log: EventLog | None,
        clock_ms: Callable[[], int],
        told: Told | None = None,
        *,
        events_per_s: int = 0,
    ) -> None:
        """``told`` gets each event that is written."""
        self.counters: Counter[str] = Counter()
        self.envelopes: Counter[tuple[str, str]] = Counter()
        """Accepted and created envelopes by kind of event and kind of envelope; unknown kinds are ``other``."""
        self._collective: Counter[str] = Counter()
        """Events that stand for several things, by kind."""
        self._deviating: Counter[tuple[str, Severity]] = Counter()
        """Events with another severity than that of their kind."""
        self._events_per_s = events_per_s
        self._second_ms = 0
        self._recent: Counter[tuple[str, str]] = Counter()
        self._node_id = node_id
        self._log = log
        self._clock_ms = clock_ms
        self._told = told

    def notify(self, kind: str, fields: Mapping[str, FieldValue], severity: Severity | None = None) -> None:
        """Count and log one event of a registered kind. Without ``severity`` the kind's own is used."""
        reason = fields.get("reason")
        count: FieldValue = 1
        if kind in _COUNTED:
            count = fields.get("count")
            self._collective[kind] += 1
        elif kind in _ENVELOPES:
            of = fields.get("kind")
            self.envelopes[kind, of if isinstance(of, str) and of in _FEED_KINDS else OTHER] += 1
        if severity is not None:
            self._deviating[kind, severity] += 1
        self.counters[f"{kind}.{reason}" if isinstance(reason, str) else kind] += count if isinstance(count, int) else 1
        if self._log is None and self._told is None:
            return
        if self._events_per_s and kind in _SAMPLED and self._left_out(kind, reason):
            return
        event_kind = _KINDS[kind]
        present: dict[str, PayloadValue] = dict(fields)
        if None in fields.values():
            present = {name: value for name, value in fields.items() if value is not None}
        event = event_of(event_kind, self._clock_ms(), self._node_id, severity, present)
        if self._log is not None:
            self._log.put(event)
        if self._told is not None:
            self._told.tell(event)

    def events(self) -> Iterator[tuple[EventKind, Severity, int]]:
        """How many events of each kind and severity there were, written or not. All kinds, if there were none, too."""
        counts: Counter[str] = Counter()
        for name, count in self.counters.items():
            counts[name.partition(".")[0]] += count
        for kind, spec in EVENTS.items():
            left = self._collective[kind] if kind in _COUNTED else counts[kind]
            for severity in Severity:
                if deviating := self._deviating[kind, severity]:
                    left -= deviating
                    yield kind, severity, deviating
            yield kind, spec.severity, left

    def _left_out(self, kind: str, reason: FieldValue) -> bool:
        self.tick()
        topic = (kind, reason if isinstance(reason, str) else "")
        self._recent[topic] += 1
        return self._recent[topic] > self._events_per_s

    def tick(self) -> None:
        """Report at the end of each second how many events were left out in it. Call this several times a second."""
        if self._told is not None:
            self._told.tick()
        now_ms = self._clock_ms()
        if 0 <= now_ms - self._second_ms < limits.DROPS_REPORT_MS:
            return
        self._second_ms = now_ms
        recent, self._recent = self._recent, Counter()
        for (kind, reason), count in recent.items():
            if count > self._events_per_s:
                fields = {"event": kind, "reason": reason or None, "count": count - self._events_per_s}
                self.notify("events_left_out", fields)


class Notify(Protocol):
    """``Reporter.notify``."""

    def __call__(self, kind: str, fields: Mapping[str, FieldValue], severity: Severity | None = None) -> None: ...


def report_step(notify: Notify, step: ClockStep) -> None:
    """Report that the system's clock was set while the node ran."""
    policy = "the node keeps its own time; if the system's clock is right now, restart the node"
    if step.followed:
        policy = "the node's time follows the system's clock, by 5 % of the time that passes"
        if not step.ahead_ms:
            policy = "the node's time was wrong; the node uses the system's time from now on"
    fields: dict[str, FieldValue] = {
        "step_ms": step.step_ms,
        "ahead_ms": step.ahead_ms,
        "followed": step.followed,
        "detail": policy,
    }
    notify("clock_stepped", fields)


def report_absence(notify: Notify, last_ms: int | None, now_ms: int, overdue: int) -> None:
    """Report at a start how long ago this data dir was last written to, if that is long ago or in the future.

    ``last_ms`` and ``now_ms`` are in milliseconds since the epoch; ``overdue`` is the number of overdue deadlines.
    """
    if last_ms is None:
        return
    away_ms = now_ms - last_ms
    if away_ms < -limits.CLOCK_STEP_MS:
        detail = "deadlines follow the clock as it is, so they come later by this time; nothing closed is re-opened"
        notify("clock_behind", {"duration_ms": -away_ms, "count": overdue, "detail": detail})
    elif overdue or away_ms >= limits.AWAY_TOLD_MS:
        detail = "seeds past their claim deadline are closed now; overdue claims are forfeited after one grace period"
        notify("node_was_away", {"duration_ms": max(0, away_ms), "count": overdue, "detail": detail})


def report_sandbox(notify: Notify, report: SandboxReport) -> None:
    """Report the sandbox. It is an alert if runs have no sandbox, or if none is usable and so no command is run."""
    kind = "sandbox_ready"
    if report.fence is None:
        kind = "sandbox_unavailable"
    elif report.fence.mode is Mode.NONE:
        kind = "sandbox_off"
    notify(
        kind,
        {
            "sandbox": report.mode,
            "profile": ",".join(report.profiles),
            "duration_ms": report.duration_ms,
            "count": report.swept,
            "detail": report.detail[: limits.EVENT_DETAIL_CHARS],
        },
    )


def report_start(
    notify: Notify, settings: Settings, core: Core, store: Store, *, one_shot: bool, state_hash: str
) -> None:
    """Report the events of a start: key, recovery, effective settings. A one-shot command reports no settings, and some
    events with a lower severity.
    """
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
                "detail": "a crash left an archive segment that the journal does not list; the node has set it aside",
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
                "replayed": store.replayed.frames,
                "duration_ms": store.duration_ms,
                "detail": notice.message[: limits.EVENT_DETAIL_CHARS],
            },
            Severity.ALERT if notice.is_alert else Severity.INFO,
        )
    for problem in store.left_out[: limits.LEFT_OUT_EVENTS_MAX]:
        detail = problem[: limits.EVENT_DETAIL_CHARS]
        notify("ledger_recovered", {"clean": False, "outcome": "baseline_left_out", "detail": detail}, Severity.WARNING)
    if store.own_feed.accepted:
        last_seq = core.replica.feeds.get(core.signer.node_id).head_seq
        notify("feed_risk_accepted", {"namespace": settings.namespace, "last_seq": last_seq})
    if not one_shot:
        _report_settings(notify, settings)
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


def _report_settings(notify: Notify, settings: Settings) -> None:
    """Report the settings that differ from their defaults. All others have the defaults of this version."""
    usual = Settings(data_dir=settings.data_dir)
    for knob in KNOBS:
        value: object = getattr(settings, knob.name)
        if value != getattr(usual, knob.name):
            fields = {"setting": knob.name, "value": knob.shown(value)[: limits.EVENT_DETAIL_CHARS]}
            notify("config_effective", fields)


def open_events(
    files: Files, settings: Settings, node_id: str, role: LockRole, warn: Callable[[str], None] | None, now_ms: int
) -> EventLog | None:
    """Open the event log of a node or a command, configured by its settings. Blocks.

    ``warn`` gets a line when the log cannot be written, and when it can be written again.
    """
    options = EventLogOptions(
        file_bytes_max=settings.events_rotate_bytes,
        file_age_ms_max=settings.events_rotate_age_s * 1000,
        files_kept=settings.events_keep_files,
        kept_ms=settings.events_keep_age_s * 1000,
    )
    return EventLog.open(
        files, settings.monitor_events.parent, node_id, now_ms=now_ms, role=role, options=options, warn=warn
    )
