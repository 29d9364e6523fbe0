"""The rules of markets, said again in other words than in the code under test: what a policy allows, what a condition
proves, and what the facts say of an author.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from hashlib import sha256
from typing import NamedTuple

from msgspec import Struct

from crabnet import limits
from crabnet.domain.acceptance import Acceptance
from crabnet.domain.lifecycle import claim_deadline_s
from crabnet.domain.model import Seed, SeedStatus, TaskResult
from crabnet.domain.record import Record
from tests.sim.trade.tasks import BROKEN_CHECK, check_says
from tests.sim.trade.trader import Shop, gauges

_WEEK_MINUTES = 7 * 24 * 60
_MIB = 1024 * 1024


# --- what a condition proves ----------------------------------------------------------------------------------


def objections(result: TaskResult, wanted: Acceptance | None) -> list[str]:
    """The conditions that a result provably does not meet."""
    found = []
    whole = not result.stdout_truncated and not result.stderr_truncated
    digest = sha256(result.stdout.encode()).hexdigest()
    if whole and sha256((result.stdout + result.stderr).encode()).hexdigest() != result.output_hash:
        found.append("it contradicts itself")
    if wanted is None:
        return found
    if wanted.exit_code is not None and (result.timed_out or result.exit_code != wanted.exit_code):
        found.append("exit code")
    if wanted.duration_ms_max is not None and result.duration_ms > wanted.duration_ms_max:
        found.append("duration")
    if wanted.stdout_sha256 is not None:
        said = result.output_hash if result.stdout_truncated and not result.stderr else digest
        if (not result.stdout_truncated or not result.stderr) and said != wanted.stdout_sha256:
            found.append("stdout")
    checkable = wanted.check is not None and not wanted.check.startswith(BROKEN_CHECK) and not result.stdout_truncated
    if checkable and wanted.check is not None and check_says(wanted.check, result.stdout).exit_code != 0:
        found.append("check")
    return found


def open_questions(result: TaskResult, wanted: Acceptance | None) -> list[str]:
    """The conditions of which a result does not tell whether it meets them: only the whole stdout proves its hash."""
    if wanted is None:
        return []
    found = []
    if result.stdout_truncated and (wanted.stdout_sha256 is not None or wanted.check is not None):
        found.append("stdout is cut")
    if wanted.check is not None and wanted.check.startswith(BROKEN_CHECK):
        found.append("the check gives no answer")
    return found


# --- what the facts say of a publisher ------------------------------------------------------------------------


class Dealings(NamedTuple):
    """What a publisher has done with results."""

    due_results: int
    settled_in_time: int


def dealings_of(records: Mapping[str, Record], publisher: str, now_s: int) -> Dealings:
    """The results of tasks of a publisher that it has settled, or should have settled by now."""
    due = in_time = 0
    for record in records.values():
        seed = record.definition
        result = None if record.result is None else record.result.body
        if seed is None or seed.created_by != publisher or not isinstance(result, TaskResult) or result.worker_failed:
            continue
        window_s = limits.SETTLE_WINDOW_S_DEFAULT if seed.settle_window_s is None else seed.settle_window_s
        until_s = max(result.created_at or 0, record.progress.claimed_at or 0) + window_s
        settled_at = record.progress.settled_at
        if record.progress.status in {SeedStatus.ACCEPTED, SeedStatus.REJECTED} and settled_at is not None:
            due += 1
            in_time += settled_at <= until_s
        elif record.progress.status is SeedStatus.DONE and now_s > until_s:
            due += 1
    return Dealings(due, in_time)


# --- what a worker's policy allows ----------------------------------------------------------------------------


def price_of(seed: Seed, shop: Shop) -> int:
    """The least price for which a worker works."""
    policy = shop.policy
    price = (
        policy.price
        + Fraction(policy.price_per_s_micro, 10**6) * Fraction(seed.timeout_ms, 1000)
        + Fraction(policy.price_per_mib_micro, 10**6) * Fraction(shop.memory_bytes, _MIB)
    )
    return max(-(-price.numerator // price.denominator), policy.price_min, seed.min_price)


def _works_at(spans: tuple[tuple[int, int], ...], minute: int) -> bool:
    return not spans or any(
        start <= at < end
        for start, end in spans
        for at in (minute % _WEEK_MINUTES, minute % _WEEK_MINUTES + _WEEK_MINUTES)
    )


def promises(records: Mapping[str, Record], worker: str, now_s: int) -> dict[str, tuple[Seed, bool]]:
    """What a worker has promised by seed: fresh bids and tasks (True), old bids and results to settle (False)."""
    found = {}
    for seed_id, record in records.items():
        seed, progress = record.definition, record.progress
        if seed is None or seed.created_by == worker:
            continue
        bids = [fact.body.created_at or 0 for fact in record.bids if fact.author == worker]
        if progress.status in {SeedStatus.OPEN, SeedStatus.FORFEITED}:
            if bids and now_s <= claim_deadline_s(seed, progress):
                found[seed_id] = seed, now_s < bids[0] + limits.WORK_BID_FRESH_S
        elif progress.claimed_by == worker and progress.status in {SeedStatus.CLAIMED, SeedStatus.RUNNING}:
            found[seed_id] = seed, True
        elif progress.claimed_by == worker and progress.status is SeedStatus.DONE and not record.worker_failed:
            found[seed_id] = seed, False
    return found


class Situation(Struct, frozen=True, kw_only=True):
    """Where a worker stands when it looks at a task."""

    name: str
    worker: str
    shop: Shop
    now_ms: int
    virtual_ms: int
    records: Mapping[str, Record]
    forked: frozenset[str]
    """The authors whose feeds it knows to be forked."""


def refusal(seed: Seed, at: Situation, besides: frozenset[str] = frozenset()) -> str:
    """Why a worker must not bid for a seed now, "" if it may. ``besides`` are seeds whose bids do not count yet."""
    shop, policy = at.shop, at.shop.policy
    load, charge = gauges(at.name, at.now_ms)
    minute, last = at.now_ms // 60_000, (at.now_ms + seed.timeout_ms - 1) // 60_000
    mine = {key: each for key, each in promises(at.records, at.worker, at.now_ms // 1000).items() if key not in besides}
    busy = [each for each, busies in mine.values() if busies]
    dealings = dealings_of(at.records, seed.created_by, at.now_ms // 1000)
    exposed = sum(each.created_by == seed.created_by for each, _ in mine.values())
    waits_ms = sum(each.timeout_ms for each in busy) // policy.runs_max
    why = {
        "command": seed.command.partition(" ")[0] not in shop.allows,
        "publisher": seed.created_by in policy.never or bool(policy.only and seed.created_by not in policy.only),
        "fork": seed.created_by in at.forked,
        "timeout": 0 < policy.timeout_max_ms < seed.timeout_ms,
        "reward": 0 < seed.reward < price_of(seed, shop),
        "paused": shop.paused_ms[0] <= at.virtual_ms < shop.paused_ms[1],
        "schedule": not all(_works_at(policy.spans, each) for each in range(minute, last + 1)),
        "load": 0 < policy.load_max_percent < load,
        "battery": charge < policy.battery_min_percent,
        "unsettled": Fraction(policy.settled_min_micro, 10**6) * dealings.due_results > dealings.settled_in_time,
        "exposed": 0 < policy.unsettled_max <= exposed - dealings.settled_in_time,
        "full": len(busy) >= policy.commitments_max,
        "busy": len(busy) >= policy.runs_max and waits_ms > max(seed.exec_deadline_ms - seed.timeout_ms, 0),
    }
    return ", ".join(name for name, holds in why.items() if holds)
