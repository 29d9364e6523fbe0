"""The operations that judge results by the conditions of their tasks."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from crabnet.domain.acceptance import Acceptance
from crabnet.domain.model import SeedStatus
from crabnet.errors import Reason
from crabnet.market.policies import Judgement
from crabnet.operations.model import Alone, Kind, Operation, Request, Route, Scope, Writing


class VerdictRequest(Request, frozen=True, kw_only=True):
    """A task whose result is to be judged."""

    seed_id: str


class CheckRequest(Writing, frozen=True, kw_only=True):
    """A task whose check is to be run on its result."""

    seed_id: str


class CheckRun(Struct, frozen=True, kw_only=True):
    """What the check of a task said about the result, in the sandbox of this node."""

    exit_code: int | None
    """0: it accepts the output. 1 to 125: it refuses it. Null, and every other one: it gave no answer."""
    detail: str
    """Why there is no answer."""
    output: str
    """The beginning of what the check wrote."""


class Judged(Struct, frozen=True, kw_only=True):
    """The judgement of a result by the conditions of its task. Every node computes the same."""

    seed_id: str
    result_id: str
    judgement: Judgement
    """``accept``: all conditions hold. ``reject``: one provably does not. ``ask``: the result cannot tell."""
    reason: Reason
    detail: str
    settles_as: SeedStatus | None
    """How a publisher that accepts by ``auto`` settles the result. Null: its operator has to."""
    acceptance: Acceptance | None
    """The conditions of the task. Null if it has none."""
    check: CheckRun | None = None
    """Null if the check was not run."""


VERDICT: Final = Operation(
    name="seed.verdict",
    route=Route("GET", "/seeds/{seed_id}/verdict"),
    request=VerdictRequest,
    response=Judged,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="Judge the result of a task by its conditions.",
    description=(
        "Computes the verdict again from the result and the conditions. The check of a task is a command, so it is not"
        " run here; `seed.check` does that."
    ),
    reasons=frozenset({Reason.UNKNOWN_SEED, Reason.WRONG_STATE}),
)
CHECK: Final = Operation(
    name="seed.check",
    route=Route("POST", "/seeds/{seed_id}/check"),
    request=CheckRequest,
    response=Judged,
    scope=Scope.OPERATE,
    kind=Kind.WRITES,
    alone=Alone.OPENS,
    waits=True,
    summary="Judge the result of a task, and run its check in this node's sandbox.",
    description=(
        "The check gets the stdout of the result on its stdin, and runs with the allow list, sandbox and limits of this"
        " node's runs. It is left out if another condition has already decided. Nothing is signed or settled."
    ),
    reasons=frozenset({Reason.UNKNOWN_SEED, Reason.WRONG_STATE, Reason.QUEUE_FULL, Reason.REQUEST_CONFLICT}),
)
