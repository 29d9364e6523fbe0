"""Every Reason is given by some code, and has a meaning and a remedy. Those of tasks and of the market are reached."""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import replace

from crabnet import errors, limits
from crabnet.core.commands import Publish
from crabnet.domain.acceptance import Acceptance, WantedFile
from crabnet.domain.decision import decide
from crabnet.domain.model import Fact, FactKind, SeedStatus, TaskResult
from crabnet.domain.record import Record
from crabnet.domain.state import Observe, Propose
from crabnet.errors import CrabnetError, Reason, UsageError
from crabnet.market.award import award
from crabnet.market.history import account
from crabnet.market.policies import CheckOutcome, Declined, Terms, Wait
from crabnet.market.quote import quote
from crabnet.market.verdict import verdict
from crabnet.market.work import Demand, Load, Machine, NoDealings, WorkPolicy
from crabnet.node.execution.prechecks import demand_publishable, fit
from crabnet.operations.remedies import meaning, remedy
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.runner import Runner
from crabnet.runner.sandbox.model import Choice
from tests.domain.story import Story
from tests.support.facts import CREATOR, RIVAL, START_S, STRANGER, UNHELD, WORKER
from tests.support.source import modules

S, K = SeedStatus, FactKind
_ABOUT: Final = ("errors.py", "operations/")
"""Modules that speak of Reasons, and give none."""


def names_in_code() -> set[str]:
    """The names of all Reasons that code gives: by name, or as those of an error that it raises without one."""
    defaults = {
        each.__name__: each.default_reason.name
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, CrabnetError)
    }
    found = set()
    for name, tree in modules():
        if name.startswith(_ABOUT):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason":
                found.add(node.attr)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defaults:
                found.add(defaults[node.func.id])
    return found


def test_every_reason_is_given_by_some_code() -> None:
    assert {reason.name for reason in Reason} - names_in_code() == set()


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_sentences_that_say_what_it_means_and_what_to_do(reason: Reason) -> None:
    for sentence in (meaning(reason), remedy(reason)):
        assert sentence[0].isupper() or sentence[0] == "`"
        assert sentence.endswith(".")
        assert len(sentence) > len("Wait")


# --- tasks -----------------------------------------------------------------------------------------------


def _proposed(story: Story, fact: Fact, *, now_s: int | None = None, denied: str = "") -> Reason | None:
    at_s = story.scribe.now_s if now_s is None else now_s
    return decide(story.state, Propose(fact, frozenset({denied} - {""})), at_s).reason


def _at(status: SeedStatus, kind: FactKind, author: str | None = None) -> Reason | None:
    story = Story(status)
    return _proposed(story, story.fact(kind, author))


def _observed(status: SeedStatus, tell: Callable[[Story], Fact]) -> Reason | None:
    story = Story(status)
    return story.observe(tell(story)).reason


def _too_many(field: str) -> Reason | None:
    story = Story()
    if field == "bids":
        fact = story.fact(K.BID)
        parent = story.state.records[story.seed].seed
        return decide(story.state, Observe(fact, parent, bids=limits.BIDS_PER_AUTHOR_PER_SEED_MAX_DEFAULT), 0).reason
    return decide(
        Story().state, Propose(story.scribe.seed(CREATOR), open_seeds=limits.OPEN_SEEDS_PER_AUTHOR_MAX_DEFAULT), 0
    ).reason


def _unworkable() -> Reason:
    with pytest.raises(UsageError) as caught:
        demand_publishable(Publish(title="t", command="echo", min_price=9, reward=1))
    return caught.value.reason


LIFECYCLE: Final[dict[Reason, Callable[[], Reason | None]]] = {
    Reason.UNAUTHORISED: lambda: _at(S.OPEN, K.CLAIM, STRANGER),
    Reason.WRONG_PARENT: lambda: _observed(
        S.CLAIMED, lambda story: story.scribe.started(story.seed, story.claim, rests_on=UNHELD)
    ),
    Reason.WRONG_STATE: lambda: _at(S.ACCEPTED, K.BID),
    Reason.UNKNOWN_SEED: lambda: _proposed(Story(), replace(Story().fact(K.CLAIM), body=_elsewhere())),
    Reason.UNKNOWN_BID: lambda: _observed(S.OPEN, lambda story: story.scribe.claim(story.seed, "worker/7")),
    Reason.UNKNOWN_CLAIM: lambda: _observed(S.CLAIMED, lambda story: story.scribe.started(story.seed, "creator/7")),
    Reason.UNKNOWN_RESULT: lambda: _observed(
        S.DONE, lambda story: story.scribe.settle(story.seed, S.ACCEPTED, story.claim, "worker/7")
    ),
    Reason.UNWORKABLE: _unworkable,
    Reason.PRICE_TOO_LOW: lambda: _observed(S.OPEN, lambda story: story.scribe.bid(story.seed, RIVAL, price=1)),
    Reason.DEADLINE_PASSED: lambda: _proposed(Story(), Story().fact(K.BID), now_s=START_S + 101),
    Reason.TOO_MANY_BIDS: lambda: _proposed(*_full()),
    Reason.NOT_DUE: lambda: _observed(
        S.CLAIMED, lambda story: story.scribe.settle(story.seed, S.FORFEITED, story.claim)
    ),
    Reason.EQUIVOCATOR: lambda: _proposed(Story(), Story().fact(K.BID), denied=CREATOR),
    Reason.TOO_MANY_OPEN_SEEDS: lambda: _too_many("seeds"),
    Reason.TOO_MANY_OWN_BIDS: lambda: _too_many("bids"),
}
"""TOO_MANY_OWN_STEPS and AUTHOR_LIMITED depend on feeds: tests/core/test_caps.py and tests/core/test_authors.py."""


def _elsewhere() -> object:
    return replace(Story().fact(K.CLAIM).body, seed_id="elsewhere")


def _full() -> tuple[Story, Fact]:
    story = Story(max_bids=1)
    return story, story.fact(K.BID)


@pytest.mark.parametrize("reason", LIFECYCLE)
def test_reasons_of_tasks_are_reached(reason: Reason) -> None:
    assert LIFECYCLE[reason]() is reason


# --- the market ------------------------------------------------------------------------------------------


def _record(status: SeedStatus = S.OPEN, *, bids: bool = True, reward: int = 0) -> Record:
    story = Story(status)
    record = story.state.records[story.seed]
    assert record.seed is not None
    seed = replace(record.seed, body=replace(record.seed.body, reward=reward))
    return replace(record, seed=seed) if bids else Record(seed)


def _quoted(policy: WorkPolicy, load: Load = Load(), *, reward: int = 0) -> Reason | None:  # noqa: B008 - a value
    seed = _record(reward=reward).definition
    assert seed is not None
    found = quote(seed, Demand(memory_bytes=1), policy, load, NoDealings())
    return found.reason if isinstance(found, Declined) else None


def _not_allowed() -> Reason | None:
    seed = _record().definition
    assert seed is not None
    found = fit(Runner(RunnerPolicy(allowed_commands=frozenset({"ls"})), Choice.NONE, Path("/nowhere")), seed)
    return found.reason if isinstance(found, Declined) else None


def _awarded(record: Record, terms: Terms, now_s: int = START_S) -> Reason | None:
    found = award(record, terms, lambda author: account(author, Counter(), now_s), now_s * 1000)
    return found.reason if isinstance(found, Declined | Wait) else None


RESULT: Final = TaskResult(
    id="r",
    seed_id="s",
    worker=WORKER,
    exit_code=0,
    timed_out=False,
    stdout="hello\n",
    output_hash=hashlib.sha256(b"hello\n").hexdigest(),
    duration_ms=100,
)


def _judged(acceptance: Acceptance | None, checked: CheckOutcome | None = None, **changes: object) -> Reason:
    return verdict(replace(RESULT, **changes), acceptance, checked).reason


OTHER_HASH: Final = "ab" * 32
MARKET: Final[dict[Reason, Callable[[], Reason | None]]] = {
    Reason.NOT_ALLOWED: _not_allowed,
    Reason.PRICE: lambda: _quoted(WorkPolicy(price=9), reward=5),
    Reason.BUSY: lambda: _quoted(WorkPolicy(), Load(machine=Machine(paused=True))),
    Reason.TRUST: lambda: _quoted(WorkPolicy(never=frozenset({CREATOR}))),
    Reason.RESOURCES: lambda: _quoted(WorkPolicy(timeout_max_ms=1)),
    Reason.NO_BIDS: lambda: _awarded(_record(bids=False), Terms()),
    Reason.NO_BID_FITS: lambda: _awarded(_record(), Terms(price_max=1)),
    Reason.ATTEMPTS_EXHAUSTED: lambda: _awarded(_record(S.FORFEITED), Terms(tries_max=1)),
    Reason.CONDITIONS_MET: lambda: _judged(Acceptance(exit_code=0)),
    Reason.NO_CONDITIONS: lambda: _judged(None),
    Reason.EXIT_CODE_DIFFERS: lambda: _judged(Acceptance(exit_code=1)),
    Reason.OUTPUT_DIFFERS: lambda: _judged(Acceptance(stdout_sha256=OTHER_HASH)),
    Reason.FILE_DIFFERS: lambda: _judged(Acceptance(files=(WantedFile(name="a", sha256=OTHER_HASH),))),
    Reason.TOO_SLOW: lambda: _judged(Acceptance(duration_ms_max=1)),
    Reason.CHECK_FAILED: lambda: _judged(Acceptance(check="false"), CheckOutcome(exit_code=1)),
    Reason.CHECK_UNAVAILABLE: lambda: _judged(Acceptance(check="false")),
    Reason.OUTPUT_CUT: lambda: _judged(
        Acceptance(stdout_sha256=OTHER_HASH), stdout_truncated=True, stderr="x", output_hash=OTHER_HASH
    ),
}
"""SCHEDULE is in tests/market/test_quote.py, with the schedules."""


@pytest.mark.parametrize("reason", MARKET)
def test_reasons_of_the_market_are_reached(reason: Reason) -> None:
    assert MARKET[reason]() is reason


def test_none_is_left_out() -> None:
    members = list(Reason)
    tasks = members[members.index(Reason.UNAUTHORISED) : members.index(Reason.COMMAND_NOT_ALLOWED)]
    market = members[members.index(Reason.NOT_ALLOWED) : members.index(Reason.INVALID_ARGUMENT)]
    elsewhere = {Reason.AMBIGUOUS, Reason.LIMIT_EXCEEDED, Reason.UNSOLICITED, Reason.AUTHOR_LIMITED}
    assert set(tasks) - set(LIFECYCLE) == elsewhere | {Reason.TOO_MANY_OWN_STEPS}
    assert set(market) - set(MARKET) == {Reason.SCHEDULE}
