"""Performs the operations that judge results."""

from __future__ import annotations

from crabnet.domain.model import TaskResult
from crabnet.domain.record import Record
from crabnet.errors import Reason, RefusedError
from crabnet.market.policies import Accepting, CheckOutcome
from crabnet.market.verdict import needs_check, settles, verdict
from crabnet.node.node import Node
from crabnet.node.operations.performing import reads, writes
from crabnet.node.operations.requests import Ticket
from crabnet.operations import judging


@reads(judging.VERDICT)
async def judge(node: Node, given: judging.VerdictRequest) -> judging.Judged:
    """Judge a result."""
    judged = judgement(node.core.record(given.seed_id), given.seed_id)
    await node.durable()
    return judged


@writes(judging.CHECK)
async def check(node: Node, given: judging.CheckRequest, _: Ticket) -> judging.Judged:
    """Judge a result with its check."""
    record = node.core.record(given.seed_id)
    result, seed = _result(record, given.seed_id), record.definition
    acceptance = None if seed is None else seed.acceptance
    checked = None
    if acceptance is not None and acceptance.check is not None and needs_check(result, acceptance):
        checked = await node.checks.check(acceptance.check, result.raw_stdout)
    return judgement(record, given.seed_id, checked)


def judgement(record: Record, seed_id: str, checked: CheckOutcome | None = None) -> judging.Judged:
    """The judgement of the result that counts. Raises RefusedError (WRONG_STATE) if there is none."""
    result, seed = _result(record, seed_id), record.definition
    acceptance = None if seed is None else seed.acceptance
    judged = verdict(result, acceptance, checked)
    return judging.Judged(
        seed_id=seed_id,
        result_id=result.id,
        judgement=judged.judgement,
        reason=judged.reason,
        detail=judged.detail,
        settles_as=settles(judged, Accepting.AUTO),
        acceptance=acceptance,
        check=None
        if checked is None
        else judging.CheckRun(exit_code=checked.exit_code, detail=checked.detail, output=checked.output),
    )


def _result(record: Record, seed_id: str) -> TaskResult:
    body = None if record.result is None else record.result.body
    if not isinstance(body, TaskResult):
        raise RefusedError(
            f"seed {seed_id} is {record.progress.status.value}: it has no result to judge", Reason.WRONG_STATE
        )
    return body
