"""What a worker asks for a task, or why it does not bid. Pure."""

from __future__ import annotations

from typing import Final

from crabnet.domain.model import Seed
from crabnet.errors import Reason
from crabnet.market.policies import Again, Declined
from crabnet.market.schedule import fits, minutes_left
from crabnet.market.work import MICRO, Dealings, Demand, Load, Machine, WorkPolicy

_MIB: Final = 1024 * 1024


def quote(seed: Seed, demand: Demand, policy: WorkPolicy, load: Load, dealings: Dealings) -> int | Declined:
    """The price for which to bid, or why not to bid.

    ``dealings`` are those of the seed's publisher. What nobody here can change comes first, so a task that is declined
    for something that passes is one for which this worker would bid otherwise.
    """
    price = price_of(seed, demand, policy)
    return (
        _unwanted(seed, policy)
        or _too_cheap(seed, price)
        or _distrusted(seed, policy, load, dealings)
        or hindrance(policy, load.machine)
        or _unfitting(seed, policy, load)
        or _overloaded(seed, policy, load)
        or price
    )


def price_of(seed: Seed, demand: Demand, policy: WorkPolicy) -> int:
    """The price by the policy: fixed, for time and for memory, rounded up. At least that of the worker and the seed."""
    for_time = policy.price_per_s_micro * seed.timeout_ms * _MIB
    for_memory = policy.price_per_mib_micro * demand.memory_bytes * 1000
    return max(policy.price - (-(for_time + for_memory) // (MICRO * 1000 * _MIB)), policy.price_min, seed.min_price)


def hindrance(policy: WorkPolicy, machine: Machine) -> Declined | None:
    """Why this worker bids for nothing at the moment."""
    if machine.ending:
        return Declined(Reason.BUSY, "the node is about to end", again=Again.MACHINE)
    if machine.paused:
        return Declined(Reason.BUSY, "its operator has paused it", again=Again.MACHINE)
    if not minutes_left(policy.spans, machine.minute):
        return Declined(Reason.SCHEDULE, f"it works {policy.schedule}", again=Again.MACHINE)
    load = machine.load_percent
    if policy.load_max_percent and load is not None and load > policy.load_max_percent:
        detail = f"the load is {load} % for each processor, more than {policy.load_max_percent} %"
        return Declined(Reason.RESOURCES, detail, again=Again.MACHINE)
    charge = machine.battery_percent
    if policy.battery_min_percent and charge is not None and charge < policy.battery_min_percent:
        detail = f"the battery has {charge} %, less than {policy.battery_min_percent} %"
        return Declined(Reason.RESOURCES, detail, again=Again.MACHINE)
    return None


def _unwanted(seed: Seed, policy: WorkPolicy) -> Declined | None:
    if seed.created_by in policy.never or (policy.only and seed.created_by not in policy.only):
        return Declined(Reason.TRUST, f"it does not work for {seed.created_by}")
    if policy.timeout_max_ms and seed.timeout_ms > policy.timeout_max_ms:
        detail = f"the timeout of {seed.timeout_ms} ms is longer than {policy.timeout_max_ms} ms"
        return Declined(Reason.RESOURCES, detail)
    return None


def _too_cheap(seed: Seed, price: int) -> Declined | None:
    if 0 < seed.reward < price:
        return Declined(Reason.PRICE, f"it wants {price}, and the reward is {seed.reward}", price)
    return None


def _distrusted(seed: Seed, policy: WorkPolicy, load: Load, dealings: Dealings) -> Declined | None:
    due, settled = dealings.due_results, dealings.settled_in_time
    if settled * MICRO < policy.settled_min_micro * due:
        detail = f"{seed.created_by} has settled {settled} of {due} results in time"
        return Declined(Reason.TRUST, detail, again=Again.PUBLISHER)
    if policy.unsettled_max and load.unsettled >= policy.unsettled_max + settled:
        detail = f"{load.unsettled} bids, tasks and results at {seed.created_by} are not settled yet"
        return Declined(Reason.TRUST, detail, again=Again.PUBLISHER)
    return None


def _unfitting(seed: Seed, policy: WorkPolicy, load: Load) -> Declined | None:
    if fits(policy.spans, load.machine.minute, load.end_minute, seed.timeout_ms):
        return None
    left = minutes_left(policy.spans, load.machine.minute)
    detail = f"it stops working in {left} min, and the timeout is {seed.timeout_ms} ms"
    return Declined(Reason.RESOURCES, detail, again=Again.OPENING)


def _overloaded(seed: Seed, policy: WorkPolicy, load: Load) -> Declined | None:
    if load.commitments >= policy.commitments_max:
        return Declined(Reason.BUSY, f"it has {load.commitments} open bids and tasks", again=Again.ROOM)
    spare_ms = max(seed.exec_deadline_ms - seed.timeout_ms, 0)
    if load.commitments >= policy.runs_max and load.backlog_ms > spare_ms:
        detail = f"its bids and tasks may take {load.backlog_ms} ms, and this one can wait {spare_ms} ms at most"
        return Declined(Reason.BUSY, detail, again=Again.ROOM)
    return None
