"""Watches how far the event log, the sync and the sending are behind. A lag over its threshold is an alert."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import trio
from msgspec import Struct

from crabnet import limits
from crabnet.core.effects import FieldValue
from crabnet.core.sync.gauges import SyncGauges
from crabnet.monitor.hysteresis import Hysteresis, Turn, level
from crabnet.monitor.writer import EventGauges
from crabnet.node.network.outbox import SendingGauges, steady_ms
from crabnet.node.part import Job, Part
from crabnet.node.reporting import Notify
from crabnet.settings import Settings


class NodeGauges(Struct, frozen=True, kw_only=True):
    """The queues of a node. ``events`` is None if the node has no event log."""

    events: EventGauges | None
    sync: SyncGauges
    sending: SendingGauges


class Lag(NamedTuple):
    """How far something is behind: a share of its threshold, and the fields of the alert."""

    level: float
    fields: dict[str, FieldValue]


def events_lag(settings: Settings, gauges: NodeGauges) -> Lag:
    """The lag of the event log."""
    events = gauges.events
    if events is None:
        return Lag(0, {})
    percent = 100 * events.queued // events.capacity
    remedy = "check the disk of the event log, or write fewer events"
    return Lag(
        max(level(percent, settings.events_lag_percent), level(events.oldest_unwritten_ms, settings.events_lag_ms)),
        {
            "count": events.queued,
            "bytes": events.bytes_behind,
            "oldest_ms": events.oldest_unwritten_ms,
            "detail": f"{events.last_error}; {remedy}" if events.failing else remedy,
        },
    )


def sync_lag(settings: Settings, gauges: NodeGauges) -> Lag:
    """The lag of the sync. The alert names the neighbour that holds most of what is missing."""
    sync = gauges.sync
    fields: dict[str, FieldValue] = {
        "count": sync.envelopes_missing,
        "oldest_ms": sync.oldest_want_ms,
        "detail": "the node requests them; if the number does not fall, check the link to this peer, and sync_fetch_*",
    }
    if sync.neighbours and sync.neighbours[0].envelopes_behind:
        fields |= {"address": sync.neighbours[0].address, "peer": sync.neighbours[0].node_id or None}
    return Lag(
        max(
            level(sync.envelopes_missing, settings.sync_lag_envelopes),
            level(sync.oldest_want_ms, settings.sync_lag_ms),
        ),
        fields,
    )


def sending_lag(settings: Settings, gauges: NodeGauges) -> Lag:
    """The lag of the envelopes that this node sends."""
    sending = gauges.sending
    oldest_ms = max(sending.oldest_unsent_ms, sending.oldest_queued_ms)
    return Lag(
        level(oldest_ms, settings.sending_lag_ms),
        {
            "count": sending.unsent + sending.queued,
            "oldest_ms": oldest_ms,
            "targets": sending.targets_failing,
            "detail": "the events send_failed name addresses and causes; check network, routes and announce_addrs",
        },
    )


class _Watched(NamedTuple):
    alert: str
    recovery: str
    measure: Callable[[Settings, NodeGauges], Lag]
    alarm: Hysteresis


class LagWatch(Part):
    """Reports each lag once when it has been over its threshold for a while, and once when it is over."""

    def __init__(self, settings: Settings, gauges: Callable[[], NodeGauges], notify: Notify) -> None:
        self._settings = settings
        self._gauges = gauges
        self._notify = notify
        measures = {"events": events_lag, "sync": sync_lag, "sending": sending_lag}
        self._watched = [
            _Watched(f"{name}_lagging", f"{name}_recovered", measure, Hysteresis(settings.lag_hold_ms))
            for name, measure in measures.items()
        ]

    def jobs(self) -> Sequence[Job]:
        """The job that looks every LAG_LOOK_MS milliseconds."""
        return [Job(self._run, "lag")]

    async def _run(self) -> None:
        while True:
            await trio.sleep(limits.LAG_LOOK_MS / 1000)
            self.look(steady_ms())

    def look(self, now_ms: int) -> None:
        """Look once, at ``now_ms`` of a clock that never goes back."""
        gauges = self._gauges()
        for alert, recovery, measure, alarm in self._watched:
            lag, raised_ms = measure(self._settings, gauges), alarm.raised_ms
            turn = alarm.observe(lag.level, now_ms)
            if turn is Turn.RAISED:
                self._notify(alert, lag.fields)
            elif turn is Turn.CLEARED and raised_ms is not None:
                self._notify(recovery, {"count": lag.fields.get("count"), "duration_ms": now_ms - raised_ms})
