"""How many control messages a peer may send: ids, repetitions, promises, and ids that were seen."""

from __future__ import annotations

from crabnet import limits
from crabnet.p2p.control import ControlBudget, ControlBudgets, Seen


def test_a_peer_gets_the_same_message_a_few_times_only() -> None:
    budget = ControlBudget()
    assert [budget.serve(b"a") for _ in range(5)] == [True] * limits.GOSSIP_SERVED_MAX + [False] * 2
    assert budget.serve(b"b")


def test_only_so_many_ids_are_looked_at_in_a_second() -> None:
    budget = ControlBudget()
    many = [at.to_bytes(4, "big") for at in range(2 * limits.GOSSIP_IDS_PER_S)]
    assert budget.looked_at(many, 0) == many[: limits.GOSSIP_IDS_PER_S]
    assert budget.looked_at(many, 0) == []
    assert len(budget.looked_at(many, 500)) == limits.GOSSIP_IDS_PER_S // 2


def test_an_id_that_is_named_again_and_again_is_looked_at_once_and_paid_for_each_time() -> None:
    budget = ControlBudget()
    assert budget.looked_at([b"a"] * limits.GOSSIP_IDS_PER_S, 0) == [b"a"]
    assert budget.looked_at([b"b"], 0) == []


def test_ids_that_are_too_long_are_passed_over() -> None:
    assert ControlBudget().looked_at([b"x" * 10_000, b"y"], 0) == [b"y"]


def test_a_promise_is_broken_when_the_message_does_not_come_in_time() -> None:
    budgets: ControlBudgets[str] = ControlBudgets()
    for name in (b"a", b"b", b"c"):
        budgets.promise("liar", name, 0)
    budgets.arrived(b"b")
    assert not budgets.broken(limits.GOSSIP_PROMISE_S * 1000 - 1)
    assert budgets.broken(limits.GOSSIP_PROMISE_S * 1000) == {"liar": 2}
    assert not budgets.broken(limits.GOSSIP_PROMISE_S * 1000)


def test_promises_beyond_the_bound_are_not_noted() -> None:
    budgets: ControlBudgets[str] = ControlBudgets()
    for at in range(2 * limits.GOSSIP_PROMISES_MAX):
        budgets.promise("peer", at.to_bytes(4, "big"), 0)
    assert budgets.broken(10**9) == {"peer": limits.GOSSIP_PROMISES_MAX}


def test_a_budget_is_the_same_after_a_peer_came_again() -> None:
    budgets: ControlBudgets[str] = ControlBudgets()
    budgets.of("peer").controls.take(0, limits.GOSSIP_CONTROLS_PER_S)
    assert not budgets.of("peer").controls.take(0)
    assert budgets.of("another").controls.take(0)


def test_ids_are_known_for_a_while_and_only_so_many() -> None:
    now_ms = 0
    seen = Seen(2, 3, lambda: now_ms)
    assert seen.add(b"a")
    assert not seen.add(b"a")
    now_ms = 1_999
    assert seen.has(b"a")
    now_ms = 2_000
    assert not seen.has(b"a")
    for name in (b"b", b"c", b"d", b"e"):
        seen.add(name)
    assert [seen.has(name) for name in (b"b", b"c", b"d", b"e")] == [False, True, True, True]
