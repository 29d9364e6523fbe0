"""Mistakes planted in policies on purpose: simulated markets find each of them within a few seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from crabnet.core import sweeper
from crabnet.core.commands import ChangeTerms
from crabnet.core.effects import Effects
from crabnet.core.operating import Operating
from crabnet.core.replica.purchases import Purchases
from crabnet.core.sweeper import Sweeper
from crabnet.core.trading import buying, declines, selling
from crabnet.core.trading.histories import Histories
from crabnet.domain.model import Seed, TaskResult
from crabnet.errors import Reason
from crabnet.market import award, quote, verdict
from crabnet.market.policies import Accepting, Judgement, Verdict
from crabnet.market.work import Demand, WorkPolicy
from tests.sim.trade.running import MarketTask, run_market

SEEDS = (10, 14, 2, 8, 3, 7, 0, 17, 5)
"""Seeds within which a mistake must be found."""

Plant = Callable[[pytest.MonkeyPatch], None]


# --- judgement ------------------------------------------------------------------------------------------------


def _nothing_found(*_: object) -> Iterator[Verdict]:
    return iter(())


def a_repeated_hash_proves_output(patch: pytest.MonkeyPatch) -> None:
    """A worker that says that its output was cut is believed that it had the wanted hash."""
    patch.setattr(verdict, "_stdout", _by_the_hash_that_is_said)


def _by_the_hash_that_is_said(result: TaskResult, wanted: str) -> Iterator[Verdict]:
    if result.output_hash != wanted and (result.stdout_truncated or result.raw_stderr == b""):
        yield Verdict(Judgement.REJECT, Reason.OUTPUT_DIFFERS, "another hash")


def exit_codes_do_not_matter(patch: pytest.MonkeyPatch) -> None:
    """The exit code that the seed demands is not looked at."""
    patch.setattr(verdict, "_exit_code", _nothing_found)


def checks_do_not_matter(patch: pytest.MonkeyPatch) -> None:
    """The check of a seed is not run."""
    patch.setattr(verdict, "_check", _nothing_found)


def contradictions_do_not_matter(patch: pytest.MonkeyPatch) -> None:
    """A result whose hash is not that of its output is as good as any."""
    patch.setattr(verdict, "_contradicts_itself", lambda _: False)


def nobody_is_asked(patch: pytest.MonkeyPatch) -> None:
    """What no condition can tell is accepted, also by terms that demand conditions."""
    settles = verdict.settles
    patch.setattr(buying, "settles", lambda judged, _: settles(judged, Accepting.AUTO))


# --- buying ---------------------------------------------------------------------------------------------------


def tries_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    """Only the tries of earlier seeds count."""
    patch.setattr(award, "tries", lambda _, terms: terms.tries_before)


def failed_workers_are_chosen_again(patch: pytest.MonkeyPatch) -> None:
    """A worker that has failed in a purchase may try again."""
    fitting = award._fitting
    patch.setattr(
        award, "_fitting", lambda record, terms, _, denies: fitting(record, replace(terms, shunned=()), [], denies)
    )


def the_highest_price_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Any price is paid."""
    fitting = award._fitting
    patch.setattr(
        award,
        "_fitting",
        lambda record, terms, *rest: fitting(record, replace(terms, price_max=None), *rest),
    )


def late_nodes_forfeit_at_once(patch: pytest.MonkeyPatch) -> None:
    """A buyer that comes back after a deadline does not wait for the result that others hold."""
    patch.setattr(Sweeper, "begin", lambda *_: 0)


def checkpoints_forget_purchases(patch: pytest.MonkeyPatch) -> None:
    """A buyer does not know its terms any more after it has been off."""
    patch.setattr(Purchases, "entries", lambda _: iter(()))


def purchases_end_for_ever(patch: pytest.MonkeyPatch) -> None:
    """The terms of a purchase that is over stay."""
    change = Operating._change_terms

    def keep(self: Operating, wish: ChangeTerms, now_ms: int, effects: Effects) -> None:
        terms = self._replica.purchases.get(wish.seed_id)
        change(self, wish, now_ms, effects)
        if terms is not None:
            self._replica.purchases._terms[wish.seed_id] = terms

    patch.setattr(Operating, "_change_terms", keep)


def closed_without_a_reason(patch: pytest.MonkeyPatch) -> None:
    """A purchase that is given up at a deadline does not say why."""
    patch.setattr(sweeper, "note_of", lambda _, detail: detail)


# --- selling --------------------------------------------------------------------------------------------------


def time_costs_nothing(patch: pytest.MonkeyPatch) -> None:
    """Only the fixed part of the price is asked."""
    price_of = quote.price_of

    def fixed(seed: Seed, demand: Demand, policy: WorkPolicy) -> int:
        return price_of(seed, demand, replace(policy, price_per_s_micro=0, price_per_mib_micro=0))

    patch.setattr(quote, "price_of", fixed)


def it_is_always_time_to_work(patch: pytest.MonkeyPatch) -> None:
    """The schedule is not looked at."""
    patch.setattr(quote, "minutes_left", lambda *_: 7 * 24 * 60)
    patch.setattr(quote, "_unfitting", lambda *_: None)


def debts_are_forgiven(patch: pytest.MonkeyPatch) -> None:
    """A publisher that does not settle gets bids like any other."""
    patch.setattr(quote, "_distrusted", lambda *_: None)


def bids_have_no_bound(patch: pytest.MonkeyPatch) -> None:
    """A worker bids for more than it could do."""
    patch.setattr(quote, "_overloaded", lambda *_: None)


def a_decline_is_for_ever(patch: pytest.MonkeyPatch) -> None:
    """A worker does not look again at what it has declined once."""
    patch.setattr(selling.Seller, "_room", lambda _: 0)


# --- what is known of others ----------------------------------------------------------------------------------


def accounts_know_the_beginning_only(patch: pytest.MonkeyPatch) -> None:
    """What becomes of a task after its publication is not counted."""
    watch = Histories.watch

    def once(self: Histories, seed_id: str) -> None:
        if seed_id not in self._counted:
            watch(self, seed_id)

    patch.setattr(Histories, "watch", once)


def all_declines_are_kept(patch: pytest.MonkeyPatch) -> None:
    """What workers say about a task has no bound."""
    patch.setattr(declines._OfSeed, "__init__", lambda self: setattr(self, "by_author", _Boundless()))


class _Boundless(dict[str, object]):
    def put(self, key: str, value: object) -> None:
        self[key] = value


class Planted(NamedTuple):
    """A mistake, a part of what is said when it is found, and the kinds of workers among whom it shows."""

    plant: Plant
    told: str
    workers: tuple[str, ...] | None = None


PLANTS = [
    Planted(a_repeated_hash_proves_output, "stdout is cut", ("cutter",)),
    Planted(exit_codes_do_not_matter, "exit code", ("whitewasher",)),
    Planted(checks_do_not_matter, "check", ("falsifier",)),
    Planted(contradictions_do_not_matter, "contradicts itself", ("contradictor",)),
    Planted(nobody_is_asked, "which its operator should"),
    Planted(tries_are_not_counted, "times, at most"),
    Planted(failed_workers_are_chosen_again, "who has failed in it", ("falsifier",)),
    Planted(the_highest_price_is_forgotten, "above"),
    Planted(late_nodes_forfeit_at_once, "after its start", ("mute",)),
    Planted(checkpoints_forget_purchases, ""),
    Planted(purchases_end_for_ever, "ends 2 times"),
    Planted(closed_without_a_reason, "without a Reason"),
    Planted(time_costs_nothing, "its price is"),
    Planted(it_is_always_time_to_work, "schedule"),
    Planted(debts_are_forgiven, "unsettled"),
    Planted(bids_have_no_bound, ""),
    Planted(a_decline_is_for_ever, "for no reason"),
    Planted(accounts_know_the_beginning_only, ""),
    Planted(all_declines_are_kept, "at most"),
]


@pytest.mark.deep
@pytest.mark.parametrize("planted", PLANTS, ids=[each.plant.__name__ for each in PLANTS])
def test_a_planted_mistake_is_found(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a check, within a few seeds that are sound without the mistake."""
    planted.plant(monkeypatch)
    tasks = (MarketTask(seed, workers=planted.workers) for seed in SEEDS)
    found = next((verdict.problem for task in tasks if (verdict := run_market(task)).outcome is None), "")
    assert planted.told in found
    assert found
    assert "Traceback" not in found


@pytest.mark.deep
@pytest.mark.parametrize("workers", sorted({each.workers or () for each in PLANTS}), ids=",".join)
def test_without_a_mistake_nothing_is_found(workers: tuple[str, ...]) -> None:
    """Else a mistake would be found by whatever else is wrong with its seeds."""
    tasks = [MarketTask(seed, workers=workers or None) for seed in (SEEDS if not workers else SEEDS[:2])]
    assert [problem for task in tasks if (problem := run_market(task).problem)] == []
