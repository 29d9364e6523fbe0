"""What a worker asks for a task, and each reason for which it does not bid."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from crabnet.domain.model import Seed
from crabnet.errors import Reason
from crabnet.market.policies import Again, Declined
from crabnet.market.quote import hindrance, price_of, quote
from crabnet.market.work import Demand, Load, Machine, NoDealings, WorkPolicy

MIB = 1024 * 1024
SEED = Seed(
    id="s",
    title="t",
    command="echo hi",
    timeout_ms=60_000,
    bid_deadline_ts=2_000,
    exec_deadline_ms=660_000,
    created_by="publisher",
    created_at=1_000,
)
DEMAND = Demand(memory_bytes=512 * MIB)
IDLE = Load()
BUSY = Load(commitments=4, backlog_ms=600_001)


def asked(
    seed: Seed = SEED,
    policy: WorkPolicy = WorkPolicy(),  # noqa: B008 - immutable
    load: Load = IDLE,
    dealings: NoDealings = NoDealings(),  # noqa: B008 - immutable
    demand: Demand = DEMAND,
) -> int | Declined:
    return quote(seed, demand, policy, load, dealings)


@pytest.mark.parametrize(
    ("policy", "seed", "price"),
    [
        (WorkPolicy(), {}, 0),
        (WorkPolicy(price=3), {}, 3),
        (WorkPolicy(price=3), {"reward": 100}, 3),
        (WorkPolicy(price=3, price_min=5), {}, 5),
        (WorkPolicy(price=3, price_min=5), {"min_price": 7}, 7),
        (WorkPolicy(price_per_s_micro=500_000), {}, 30),
        (WorkPolicy(price_per_s_micro=1), {}, 1),  # any fraction is rounded up
        (WorkPolicy(price_per_s_micro=1_000_000), {"timeout_ms": 1}, 1),
        (WorkPolicy(price_per_mib_micro=10_000), {}, 6),
        (WorkPolicy(price=1, price_per_s_micro=8_333, price_per_mib_micro=1_000), {}, 3),  # rounded up once
        (WorkPolicy(price=5), {"reward": 5}, 5),
    ],
)
def test_price(policy: WorkPolicy, seed: dict[str, int], price: int) -> None:
    assert asked(replace(SEED, **seed), policy) == price


@pytest.mark.parametrize(
    ("case", "reason", "again", "detail"),
    [
        ({"policy": WorkPolicy(only=frozenset({"x"}))}, Reason.TRUST, None, "does not work for publisher"),
        ({"policy": WorkPolicy(never=frozenset({"publisher"}))}, Reason.TRUST, None, "does not work for publisher"),
        ({"policy": WorkPolicy(timeout_max_ms=59_999)}, Reason.RESOURCES, None, "60000 ms is longer than 59999 ms"),
        ({"policy": WorkPolicy(price=6), "seed": replace(SEED, reward=5)}, Reason.PRICE, None, "wants 6"),
        (
            {
                "policy": WorkPolicy(settled_min_micro=900_000),
                "dealings": NoDealings(due_results=10, settled_in_time=8),
            },
            Reason.TRUST,
            Again.PUBLISHER,
            "8 of 10",
        ),
        (
            {
                "policy": WorkPolicy(unsettled_max=3),
                "load": Load(unsettled=4),
                "dealings": NoDealings(due_results=1, settled_in_time=1),
            },
            Reason.TRUST,
            Again.PUBLISHER,
            "4 bids, tasks and results",
        ),
        ({"load": Load(machine=Machine(ending=True))}, Reason.BUSY, Again.MACHINE, "about to end"),
        ({"load": Load(machine=Machine(paused=True))}, Reason.BUSY, Again.MACHINE, "paused"),
        (
            {
                "policy": WorkPolicy(spans=((60, 120),), schedule="Mon 01:00-02:00"),
                "load": Load(machine=Machine(minute=59)),
            },
            Reason.SCHEDULE,
            Again.MACHINE,
            "Mon 01:00-02:00",
        ),
        (
            {"policy": WorkPolicy(load_max_percent=80), "load": Load(machine=Machine(load_percent=81))},
            Reason.RESOURCES,
            Again.MACHINE,
            "81 %",
        ),
        (
            {"policy": WorkPolicy(battery_min_percent=50), "load": Load(machine=Machine(battery_percent=49))},
            Reason.RESOURCES,
            Again.MACHINE,
            "battery has 49 %",
        ),
        (
            {
                "policy": WorkPolicy(spans=((60, 120),), schedule="Mon 01:00-02:00"),
                "load": Load(machine=Machine(minute=119), end_minute=121),
            },
            Reason.RESOURCES,
            Again.OPENING,
            "in 1 min",
        ),
        ({"load": Load(commitments=68)}, Reason.BUSY, Again.ROOM, "68 open bids"),
        ({"load": BUSY}, Reason.BUSY, Again.ROOM, "600001 ms"),
    ],
)
def test_each_reason(case: dict[str, object], reason: Reason, again: Again | None, detail: str) -> None:
    declined = asked(**case)  # type: ignore[arg-type]
    assert isinstance(declined, Declined)
    assert (declined.reason, declined.again) == (reason, again)
    assert detail in declined.detail
    assert declined.price == (6 if reason is Reason.PRICE else None)


@pytest.mark.parametrize(
    "case",
    [
        {"policy": WorkPolicy(only=frozenset({"publisher"}))},
        {"policy": WorkPolicy(timeout_max_ms=60_000)},
        {"policy": WorkPolicy(price=5), "seed": replace(SEED, reward=5)},
        {"policy": WorkPolicy(settled_min_micro=900_000)},  # nobody knows anything of a newcomer
        {
            "policy": WorkPolicy(settled_min_micro=900_000),
            "dealings": NoDealings(due_results=10, settled_in_time=9),
        },
        {"policy": WorkPolicy(unsettled_max=3), "load": Load(unsettled=2)},
        {
            "policy": WorkPolicy(unsettled_max=3),
            "load": Load(unsettled=12),
            "dealings": NoDealings(due_results=10, settled_in_time=10),
        },
        {"policy": WorkPolicy(load_max_percent=80), "load": Load(machine=Machine(load_percent=80))},
        {"policy": WorkPolicy(load_max_percent=80)},  # the load is not known
        {"policy": WorkPolicy(battery_min_percent=50)},  # not on a battery
        {
            "policy": WorkPolicy(spans=((60, 120),)),
            "load": Load(machine=Machine(minute=119), end_minute=120),
        },
        {"load": Load(commitments=67)},
        {"load": replace(BUSY, commitments=3)},  # there is a free place, so it need not wait
        {"load": replace(BUSY, backlog_ms=600_000)},
    ],
)
def test_bids_up_to_each_bound(case: dict[str, object]) -> None:
    assert isinstance(asked(**case), int)  # type: ignore[arg-type]


def test_what_cannot_pass_comes_first() -> None:
    """So a worker that waits for the night does not look again at tasks that pay too little."""
    asleep = Load(machine=Machine(paused=True), commitments=1_000)
    declined = asked(replace(SEED, reward=1), WorkPolicy(price=2), asleep)
    assert isinstance(declined, Declined)
    assert declined.reason is Reason.PRICE


policies = st.builds(
    WorkPolicy,
    price=st.integers(0, 10**12),
    price_per_s_micro=st.integers(0, 10**12),
    price_per_mib_micro=st.integers(0, 10**12),
    price_min=st.integers(0, 10**12),
    settled_min_micro=st.integers(0, 10**6),
    unsettled_max=st.integers(0, 100),
    load_max_percent=st.integers(0, 200),
    timeout_max_ms=st.integers(0, 10**6),
)
seeds = st.builds(
    lambda timeout_ms, min_price, reward: replace(SEED, timeout_ms=timeout_ms, min_price=min_price, reward=reward),
    st.integers(0, 7 * 24 * 3_600_000),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)
loads = st.builds(
    Load,
    machine=st.builds(
        Machine, minute=st.integers(0, 10_079), load_percent=st.none() | st.integers(0, 300), paused=st.booleans()
    ),
    commitments=st.integers(0, 100),
    backlog_ms=st.integers(0, 10**6),
    unsettled=st.integers(0, 200),
)
publishers = st.integers(0, 100).flatmap(
    lambda due: st.builds(NoDealings, due_results=st.just(due), settled_in_time=st.integers(0, due))
)


@given(seeds, policies, loads, publishers, st.integers(0, 2**40))
def test_a_price_is_never_too_low_or_too_high(
    seed: Seed, policy: WorkPolicy, load: Load, dealings: NoDealings, memory_bytes: int
) -> None:
    demand = Demand(memory_bytes=memory_bytes)
    quoted = quote(seed, demand, policy, load, dealings)
    if isinstance(quoted, Declined):
        if quoted.price is not None:
            assert quoted.price == price_of(seed, demand, policy) > seed.reward
        return
    exact = (
        policy.price
        + (policy.price_per_s_micro * seed.timeout_ms / 1000 + policy.price_per_mib_micro * memory_bytes / MIB)
        / 1_000_000
    )
    assert quoted >= max(policy.price_min, seed.min_price)
    assert quoted == max(policy.price_min, seed.min_price) or quoted == pytest.approx(exact, abs=1.01)
    assert seed.reward == 0 or quoted <= seed.reward
    assert hindrance(policy, load.machine) is None
    assert load.commitments < policy.commitments_max
