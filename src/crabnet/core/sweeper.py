"""Actions on the operator's own seeds when a deadline passes: close, forfeit, report silent runs.

The sweeper only proposes operations. The node handles them in the same way as those of the operator.
"""

from __future__ import annotations

from typing import NamedTuple

from crabnet import limits
from crabnet.core.commands import Settle
from crabnet.core.deadlines import Agenda, due_at_ms, why_failed
from crabnet.core.effects import FieldValue, Notice
from crabnet.core.mending import Part
from crabnet.core.moves import Move
from crabnet.domain.lifecycle import is_overdue, settlement_due_s
from crabnet.domain.model import FactKind, Progress, Run, SeedStatus
from crabnet.domain.record import EMPTY, Record
from crabnet.domain.state import State
from crabnet.errors import Reason
from crabnet.market.policies import note_of


class _Heard(NamedTuple):
    """When a run was last renewed, by this node's clock."""

    run_id: str
    renewals: int
    at_ms: int
    silent: bool


class Sweeper:
    """The deadlines of all seeds in ``state`` that ``node_id`` has published.

    After a start it forfeits no claim for one execution grace, because a result may still arrive from peers.
    """

    def __init__(self, execution_grace_ms: int, node_id: str, state: State) -> None:
        self._grace_ms = execution_grace_ms
        self._node_id = node_id
        self._state = state
        self._deadlines = Agenda()
        self._leases = Agenda()
        self._settlements = Agenda()
        self._unsettled: set[str] = set()
        """Seeds with a result that was reported as overdue."""
        self._heard: dict[str, _Heard] = {}
        self._forfeits_from_ms = 0

    def begin(self, now_ms: int) -> int:
        """Call this once at the start, after ``watch`` of every seed. Returns how many deadlines have passed."""
        self._forfeits_from_ms = now_ms + self._grace_ms
        return self._deadlines.count_due(now_ms)

    def _is_own(self, record: Record) -> bool:
        definition = record.definition
        return definition is not None and definition.created_by == self._node_id

    def watch(self, seed_id: str, record: Record, now_ms: int) -> None:
        """Update the deadlines of a seed that has changed."""
        due_s = settlement_due_s(record) if self._is_own(record) or self._is_worker(record) else None
        if due_s is None:
            self._unsettled.discard(seed_id)
        elif seed_id not in self._unsettled:
            self._settlements.add((due_s + 1) * 1000, seed_id)
        if not self._is_own(record):
            return
        due = due_at_ms(record, self._grace_ms)
        if due is not None:
            self._deadlines.add(due[0], seed_id)
        self._watch_run(seed_id, record, now_ms)

    def _watch_run(self, seed_id: str, record: Record, now_ms: int) -> None:
        progress = record.progress
        if progress.status is not SeedStatus.RUNNING or progress.run_id is None:
            self._heard.pop(seed_id, None)
            return
        heard = self._heard.get(seed_id)
        if heard is not None and (heard.run_id, heard.renewals) == (progress.run_id, progress.renewals):
            return
        silent = heard is not None and heard.run_id == progress.run_id and heard.silent
        self._heard[seed_id] = _Heard(progress.run_id, progress.renewals, now_ms, silent)
        lease_ms = lease_of(record)
        if lease_ms is not None:
            self._leases.add(now_ms + lease_ms, seed_id)

    def sweep(self, now_ms: int) -> list[Move]:
        """The operations that are due, at most 64."""
        sweeps = []
        for seed_id in self._deadlines.due(now_ms):
            record = self._state.records.get(seed_id, EMPTY)
            if not self._is_own(record):
                continue
            due = due_at_ms(record, self._grace_ms)
            if due is None or due[0] > now_ms:
                continue
            if due[1] is FactKind.CLOSE:
                note = note_of(Reason.DEADLINE_PASSED, "no bid was claimed in time")
                wish = Settle(seed_id=seed_id, outcome=SeedStatus.EXPIRED, note=note)
                sweeps.append(Move(wish, Part.DEADLINES))
            elif record.worker_failed:
                wish = Settle(seed_id=seed_id, outcome=SeedStatus.FORFEITED)
                sweeps.append(Move(wish, Part.DEADLINES, _failed_notice(seed_id, record)))
            elif now_ms < self._forfeits_from_ms:
                self._deadlines.add(self._forfeits_from_ms, seed_id)
            else:
                wish = Settle(seed_id=seed_id, outcome=SeedStatus.FORFEITED, note="no result in time")
                sweeps.append(Move(wish, Part.DEADLINES, _overdue_notice(seed_id, record.progress)))
        return sweeps

    def again(self, move: Move, now_ms: int) -> None:
        """An operation failed. Retry it after SWEEP_RETRY_MS, if it is still due then."""
        self._deadlines.add(now_ms + limits.SWEEP_RETRY_MS, move.seed_id)

    def silent(self, now_ms: int) -> list[Notice]:
        """Notices about runs whose lease has run out without a renewal. Each run is reported once."""
        notices = []
        for seed_id in self._leases.due(now_ms):
            record, heard = self._state.records.get(seed_id, EMPTY), self._heard.get(seed_id)
            lease_ms = lease_of(record)
            if heard is None or heard.silent or lease_ms is None or now_ms < heard.at_ms + lease_ms:
                continue
            self._heard[seed_id] = heard._replace(silent=True)
            progress = record.progress
            fields = _attempt(seed_id, progress)
            duration_ms = now_ms - heard.at_ms
            fields |= {"run_id": progress.run_id, "lease_ms": lease_ms, "duration_ms": duration_ms}
            notices.append(Notice("run_silent", fields))
        return notices

    def unsettled(self, now_ms: int) -> list[Notice]:
        """Notices about results that were not settled in time, by this node or for it. Each is reported once."""
        notices = []
        for seed_id in self._settlements.due(now_ms):
            record = self._state.records.get(seed_id, EMPTY)
            if seed_id not in self._unsettled and is_overdue(record, now_ms // 1000):
                self._unsettled.add(seed_id)
                kind = "settlement_overdue" if self._is_own(record) else "settlement_missing"
                notices.append(_unsettled_notice(kind, seed_id, record))
        return notices

    def _is_worker(self, record: Record) -> bool:
        return record.progress.claimed_by == self._node_id


def lease_of(record: Record) -> int | None:
    """The lease of the current run in milliseconds: how long it may be silent. None if nothing runs or it has none."""
    progress = record.progress
    if progress.status is not SeedStatus.RUNNING:
        return None
    latest: tuple[int, Run] | None = None
    for fact in record.others:
        run = fact.body
        if isinstance(run, Run) and run.claim_id == progress.claim_id:
            latest = max(latest or (0, run), (fact.seq, run), key=lambda item: item[0])
    if latest is None or latest[1].lease_ms is None:
        return None
    return min(latest[1].lease_ms, limits.TIMEOUT_MS_MAX)


def _attempt(seed_id: str, progress: Progress) -> dict[str, FieldValue]:
    return {
        "seed_id": seed_id,
        "claim_id": progress.claim_id,
        "worker": progress.claimed_by,
        "attempt": progress.attempt,
    }


def _overdue_notice(seed_id: str, progress: Progress) -> Notice:
    why: dict[str, FieldValue] = {"status_before": progress.status.value, "reason": Reason.DEADLINE_PASSED.value}
    return Notice("claim_overdue", _attempt(seed_id, progress) | why)


def _unsettled_notice(kind: str, seed_id: str, record: Record) -> Notice:
    seed = record.definition
    fields: dict[str, FieldValue] = {
        "seed_id": seed_id,
        "publisher": None if seed is None else seed.created_by,
        "worker": record.progress.claimed_by,
        "result_id": record.progress.result_id,
        "settle_by": settlement_due_s(record),
        "reason": Reason.DEADLINE_PASSED.value,
    }
    return Notice(kind, fields)


def _failed_notice(seed_id: str, record: Record) -> Notice:
    why: dict[str, FieldValue] = {"detail": why_failed(record)[: limits.EVENT_DETAIL_CHARS]}
    return Notice("worker_failed", _attempt(seed_id, record.progress) | why)
