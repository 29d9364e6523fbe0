"""The stages of a task from the claim of a bid to the end. Pure."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from crabnet.domain.lifecycle import execution_deadline_ms, settlement_due_s
from crabnet.domain.model import Fact, FactKind, SeedStatus, Settlement, TaskResult
from crabnet.errors import Reason
from crabnet.market.policies import Accepting
from crabnet.market.stages import NOTE_CHARS, Stage, StageName, StageState, View
from crabnet.market.verdict import settles, verdict

_S = SeedStatus
_ENDED: Final = frozenset({_S.DONE, _S.ACCEPTED, _S.REJECTED})


def start(at: View) -> Stage:
    """Whether the worker has begun."""
    status, progress = at.status, at.progress
    stage = Stage(name=StageName.START, state=StageState.NOT_REACHED)
    if status is _S.CLAIMED:
        return _waits_for_worker(at, stage, f"{at.worker} has not begun", progress.claimed_at)
    run = at.record.run
    if run is not None:
        since_s = run.body.created_at
        return replace(stage, state=StageState.DONE, text=f"begun by {at.name(run.author)}", since_s=since_s)
    if status in _ENDED:
        return replace(stage, state=StageState.DONE, text="as far as is known here, no start was stated")
    if status in {_S.EXPIRED, _S.DISPUTED} and at.claims:
        ended = f"withdrawn by {at.publisher}" if status is _S.EXPIRED else "disputed"
        return replace(stage, state=StageState.FAILED, text=ended + at.note, since_s=progress.settled_at)
    return stage


def _waits_for_worker(at: View, stage: Stage, text: str, since_s: int | None) -> Stage:
    """Wait for the worker of the current claim to begin, or to bring a result."""
    seed, progress, here = at.seed, at.progress, at.here
    until_s = -(-execution_deadline_ms(seed, progress.claimed_at or 0) // 1000)
    stage = replace(
        stage,
        state=StageState.WAITING,
        text=text,
        waits_for=progress.claimed_by,
        since_s=since_s,
        until_s=until_s,
    )
    if at.now_s > until_s:
        then = "you may forfeit the attempt" if at.is_own else f"{at.publisher} may forfeit the attempt"
        soon = f"; this node does so {here.grace_ms // 1000} s after the deadline" if at.is_own else ""
        return replace(
            stage,
            text=f"{text}, and its time is over{soon}",
            reason=Reason.DEADLINE_PASSED,
            change=f"{then} and claim another bid",
        )
    if progress.claimed_by == here.node_id:
        return at.mine(_own_work(at, stage))
    change = "after the deadline the attempt can be forfeited, and another bid claimed"
    if at.is_own:
        change += "; `crabnet seed cancel` withdraws the task"
    return replace(stage, change=change)


def _own_work(at: View, stage: Stage) -> Stage:
    """What this node has to do with a task that it has won."""
    here = at.here
    if here.local_run == "queued":
        place = "" if here.queue_position is None else f" at place {here.queue_position}"
        paused = ", and runs are paused" if here.paused else ""
        return replace(
            stage,
            text=f"it waits on this node for its turn{place}{paused}",
            reason=Reason.BUSY,
            change="`crabnet runs resume`" if here.paused else "`crabnet runs` shows what is before it",
        )
    if here.local_run:
        return replace(stage, text=f"this node works on it ({here.local_run})")
    if here.objection is not None:
        return replace(
            stage,
            text=f"{stage.text}: its runner would refuse it: {here.objection.detail}",
            reason=here.objection.reason,
        )
    if not here.runs:
        return replace(
            stage,
            text=f"{stage.text}: no node runs here",
            reason=Reason.NODE_UNREACHABLE,
            change="start the node: `crabnet work` or `crabnet listen`",
        )
    if here.draining:
        return replace(
            stage, text=f"{stage.text}: it is about to end", reason=Reason.NODE_STOPPING, change="start it again"
        )
    if not here.auto_run:
        return replace(stage, text=f"{stage.text}: it runs what it is told to", change="`crabnet seed run`")
    if here.paused:
        return replace(stage, text=f"{stage.text}: its runs are paused", change="`crabnet runs resume`")
    return stage


def result(at: View) -> Stage:
    """What the run has brought."""
    status, here = at.status, at.here
    stage = Stage(name=StageName.RESULT, state=StageState.NOT_REACHED)
    result = at.record.result
    body = None if result is None else result.body
    if isinstance(body, TaskResult):
        return _came_out(at, stage, result, body)
    if status is not _S.RUNNING:
        return stage
    run = at.record.run
    since_s = at.progress.claimed_at if run is None else run.body.created_at
    stage = _waits_for_worker(at, stage, f"{at.worker} runs it", since_s)
    silent = here.lease_until_s is not None and at.now_s > here.lease_until_s
    if silent and at.progress.claimed_by != here.node_id:
        return replace(
            stage,
            text=f"{stage.text}, but has been silent for longer than it promised",
            since_s=here.heard_s or since_s,
            reason=stage.reason or Reason.TIMEOUT,
        )
    return stage


def _came_out(at: View, stage: Stage, result: Fact | None, body: TaskResult) -> Stage:
    since_s = body.created_at if body.created_at is not None or result is None else result.ts
    if body.worker_failed:
        said = " ".join(body.stderr.split())[:NOTE_CHARS]
        cause = "" if body.termination is None else f" ({body.termination.cause})"
        return replace(
            stage,
            state=StageState.FAILED,
            text=f"{at.name(body.worker)} says that it failed{cause}: {said}",
            since_s=since_s,
            reason=_reason_of(body.refusal),
            change="another bid is claimed, or the task withdrawn" if at.status is _S.DONE else "",
        )
    how = "timed out" if body.timed_out else f"exit code {body.exit_code}"
    refused = f", refused: {body.refusal}" if body.refusal else ""
    text = f"{at.name(body.worker)} brought a result: {how}{refused}"
    return replace(stage, state=StageState.DONE, text=text, since_s=since_s)


def settlement(at: View) -> Stage:
    """How the result is settled, and who has to do that."""
    status, progress = at.status, at.progress
    stage = Stage(name=StageName.SETTLEMENT, state=StageState.NOT_REACHED, since_s=progress.settled_at)
    if status is _S.ACCEPTED:
        return replace(stage, state=StageState.DONE, text=f"accepted by {at.publisher}{at.note}")
    if status is _S.REJECTED:
        return replace(stage, state=StageState.FAILED, text=f"rejected by {at.publisher}{at.note}")
    if status is _S.DISPUTED:
        return replace(
            stage,
            state=StageState.FAILED,
            reason=Reason.FORK,
            text=f"disputed: {at.publisher} has signed steps that contradict each other{at.note}",
        )
    if status is not _S.DONE:
        return Stage(name=StageName.SETTLEMENT, state=StageState.NOT_REACHED)
    if at.record.worker_failed:
        text = f"there is nothing to settle: {at.publisher} has to claim another bid or withdraw the task"
        stage = replace(stage, state=StageState.WAITING, text=text, waits_for=at.seed.created_by)
        return at.mine(replace(stage, change="`crabnet seed claim` or `crabnet seed cancel`")) if at.is_own else stage
    return _unsettled(at, stage)


def _unsettled(at: View, stage: Stage) -> Stage:
    result = at.record.result
    due_s = settlement_due_s(at.record)
    stage = replace(
        stage,
        state=StageState.WAITING,
        text=f"{at.publisher} has to settle the result",
        waits_for=at.seed.created_by,
        since_s=None if result is None else result.ts,
        until_s=due_s,
    )
    if due_s is not None and at.now_s > due_s:
        stage = replace(stage, text=f"{stage.text}, and is overdue", reason=Reason.DEADLINE_PASSED)
    if not at.is_own:
        return replace(stage, change="workers with `min_settled` do not work for publishers who do not settle")
    terms, body = at.here.terms, None if result is None else result.body
    judged = verdict(body, at.seed.acceptance) if isinstance(body, TaskResult) else None
    accepting = Accepting.NEVER if terms is None else terms.accept
    by_itself = judged is not None and settles(judged, accepting) is not None
    checks = judged is not None and judged.reason is Reason.CHECK_UNAVAILABLE and accepting is not Accepting.NEVER
    if judged is None or by_itself or checks:
        text = "this node runs the check of the task" if checks else "this node settles it by itself"
        return at.mine(replace(stage, text=text, change="settle it yourself: `crabnet seed settle`"))
    asks = "you have to settle the result" + (", and are overdue" if stage.reason is not None else "")
    why = "" if accepting is Accepting.NEVER else f": {judged.detail}"
    return at.mine(
        replace(
            stage,
            text=asks + why,
            reason=stage.reason or (judged.reason if why else None),
            change=f"`crabnet seed settle {at.seed.id} --accepted` or `--rejected`",
        )
    )


def acknowledgement(at: View) -> Stage:
    """Whether the worker has seen the settlement."""
    stage = Stage(name=StageName.ACKNOWLEDGEMENT, state=StageState.NOT_REACHED)
    if at.status not in {_S.ACCEPTED, _S.REJECTED}:
        return stage
    worker = at.progress.claimed_by
    seen = next((fact for fact in at.record.others if fact.kind is FactKind.ACKNOWLEDGED), None)
    if seen is not None:
        text = f"{at.name(seen.author)} has seen the settlement"
        return replace(stage, state=StageState.DONE, text=text, since_s=seen.body.created_at)
    settled = [fact for fact in at.record.others if isinstance(fact.body, Settlement)]
    if worker == at.seed.created_by or not any(fact.signed for fact in settled):
        return replace(stage, state=StageState.DONE, text="none is needed")
    waiting = replace(
        stage,
        state=StageState.WAITING,
        text=f"{at.name(worker)} has not said that it has seen the settlement",
        waits_for=worker,
        since_s=at.progress.settled_at,
        change="its node states it by itself as soon as it hears of the settlement",
    )
    return at.mine(waiting) if worker == at.here.node_id else waiting


def _reason_of(word: str | None) -> Reason | None:
    return Reason(word) if word in set(Reason) else None
