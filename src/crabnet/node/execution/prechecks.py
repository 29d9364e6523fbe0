"""Refuses tasks and bids that cannot work, or warns of them, before the node announces anything."""

from __future__ import annotations

import posixpath
from itertools import takewhile

from crabnet.core.commands import Publish
from crabnet.domain.acceptance import Acceptance
from crabnet.domain.model import Seed
from crabnet.errors import Reason, RefusedError, UsageError
from crabnet.market.policies import Declined
from crabnet.market.work import Demand
from crabnet.plain import plain
from crabnet.runner.outcome import RunRequest
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.runner import Runner
from crabnet.runner.sandbox.model import Profile
from crabnet.runner.sandbox.requests import agree
from crabnet.runner.shell_lexer import LexError, Word, lex


def demand_publishable(wish: Publish) -> None:
    """Raise UsageError for a task that no worker could run or bid for, or whose result nobody could accept."""
    _demand_command("command", wish.command)
    if wish.acceptance is not None:
        _demand_acceptable(wish.acceptance)
    try:
        agree(wish.rules, tuple(Profile), RunnerPolicy().limits)
    except RefusedError as error:
        raise UsageError(f"no worker would understand the rules: {error.message}", Reason.UNWORKABLE) from error
    lowest, reward = wish.min_price, wish.reward
    if lowest > reward > 0:
        raise UsageError(
            f"the lowest price {lowest} is above the reward {reward}, so no bid is possible", Reason.UNWORKABLE
        )


def _demand_command(name: str, text: str) -> None:
    """Raise UsageError for a text that is no command."""
    try:
        tokens = takewhile(lambda token: not (isinstance(token, Word) and token.comment), lex(text))
        words = [token for token in tokens if isinstance(token, Word)]
    except LexError as error:
        raise UsageError(f"the {name} cannot be split into words: {error}", Reason.UNWORKABLE) from error
    if not words:
        raise UsageError(f"the {name} is empty", Reason.UNWORKABLE)


def _demand_acceptable(acceptance: Acceptance) -> None:
    """Raise UsageError for conditions that no result can meet."""
    if acceptance == Acceptance():
        raise UsageError("the acceptance has no condition; leave it out or give one", Reason.UNWORKABLE)
    if acceptance.check is not None:
        _demand_command("check", acceptance.check)
    wanted: dict[str, str] = {}
    for file in acceptance.files:
        if wanted.setdefault(file.name, file.sha256) != file.sha256:
            raise UsageError(f"the file {plain(file.name)!r} is expected with two contents", Reason.UNWORKABLE)
        if file.name != posixpath.normpath(file.name) or file.name.startswith(("/", "../")) or file.name in {".", ".."}:
            raise UsageError(
                f"the file {plain(file.name)!r} is expected, but names are relative to the work dir of the run, without"
                " `.` and `..`",
                Reason.UNWORKABLE,
            )


def doubts_about(wish: Publish) -> list[str]:
    """Warnings about a task, a line each."""
    doubts = []
    due_ms = wish.exec_deadline_ms
    if due_ms is not None and due_ms < wish.timeout_ms:
        doubts.append(
            f"the result is due {due_ms} ms after the claim, though the command may take {wish.timeout_ms} ms"
        )
    most_ms = None if wish.acceptance is None else wish.acceptance.duration_ms_max
    if most_ms is not None and most_ms < wish.timeout_ms:
        doubts.append(f"a run of more than {most_ms} ms is rejected, though the command may take {wish.timeout_ms} ms")
    return doubts


def fit(runner: Runner, seed: Seed) -> Demand | Declined:
    """What a run of a task may take on this worker, or why the worker would refuse it, as far as its sandbox is known.

    It starts nothing, and reads only memory.
    """
    objection, policy = _objection(runner, seed), runner.policy
    wanted = 0 if seed.acceptance is None else len(seed.acceptance.files)
    listed = policy.files_max if policy.workdir is None and policy.workdir_root is None else 0
    if objection is None and wanted > listed:
        detail = f"the task demands {wanted} file(s), and results of this worker list {listed} (runner_files_max)"
        return Declined(Reason.RESOURCES, detail)
    if objection is None:
        agreed = agree(seed.rules, policy.profiles, policy.limits)
        return Demand(memory_bytes=agreed.limits.memory_bytes)
    lacking = objection.reason is Reason.SANDBOX_UNAVAILABLE
    return Declined(Reason.RESOURCES if lacking else Reason.NOT_ALLOWED, objection.message)


def _objection(runner: Runner, seed: Seed) -> RefusedError | None:
    return runner.objection(RunRequest("", seed.command, seed.timeout_ms, seed.rules))


def demand_own_work(runner: Runner, seed: Seed) -> None:
    """Raise RefusedError for a bid on a task that this worker would not run, as far as its sandbox is known."""
    objection = _objection(runner, seed)
    if objection is not None:
        raise RefusedError(f"this worker would not run it: {objection.message}", objection.reason)


def doubts_about_bid(seed: Seed, price: int) -> list[str]:
    """Warnings about a bid, a line each."""
    if price > seed.reward > 0:
        return [f"the price of {price} is above the reward of {seed.reward} that is offered"]
    return []
