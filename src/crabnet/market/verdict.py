"""Judges a result by the conditions of its seed (docs/PROTOCOL.md, Acceptance). Every node computes the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from crabnet.domain.acceptance import Acceptance, WantedFile
from crabnet.domain.model import SeedStatus, TaskResult, TerminationCause, is_envelope_id
from crabnet.errors import Reason
from crabnet.market.policies import Accepting, CheckOutcome, Judgement, Verdict
from crabnet.plain import plain

_NONE: Final = Acceptance()

_NOT_ENDED: Final = frozenset(
    cause.value
    for cause in (
        TerminationCause.TIMEOUT,
        TerminationCause.CANCELLED,
        TerminationCause.SPAWN_FAILED,
        TerminationCause.REFUSED,
        TerminationCause.INTERRUPTED,
        TerminationCause.LOST,
    )
)
"""Causes with which the command did not end by itself, so that its exit code says nothing about it."""
_CHECK_ANSWERS: Final = range(126)
"""Exit codes that are an answer of a check. In shells the others mean that it could not run, or was killed."""
_REPLACEMENT: Final = "\ufffd".encode()


def verdict(result: TaskResult, acceptance: Acceptance | None, checked: CheckOutcome | None = None) -> Verdict:
    """What to do with a result. ``checked`` is the outcome of ``acceptance.check``, if it was run.

    The first condition that provably does not hold rejects the result. Otherwise the first one that the result
    cannot tell leaves the decision to its publisher. A result that contradicts itself is rejected, conditions or not.
    """
    if result.worker_failed:
        return Verdict(
            Judgement.ASK,
            Reason.WRONG_STATE,
            "the worker says that it failed, so the attempt is forfeited, not settled",
        )
    conditions = _NONE if acceptance is None else acceptance
    doubt: Verdict | None = None
    for found in _findings(result, conditions, checked):
        if found.judgement is Judgement.REJECT:
            return found
        doubt = doubt or found
    if doubt is not None:
        return doubt
    if conditions != _NONE:
        return Verdict(Judgement.ACCEPT, Reason.CONDITIONS_MET, "the result meets all conditions of the task")
    if not result.began:
        return Verdict(Judgement.ASK, Reason.SPAWN_FAILED, "the worker says that it could not start the command")
    return Verdict(Judgement.ASK, Reason.NO_CONDITIONS, "the task has no conditions by which to judge its result")


def needs_check(result: TaskResult, acceptance: Acceptance | None) -> bool:
    """True if only the check of the seed is still to decide: all other conditions hold."""
    return verdict(result, acceptance).reason is Reason.CHECK_UNAVAILABLE


def settles(judged: Verdict, accepting: Accepting) -> SeedStatus | None:
    """How a publisher that accepts by ``accepting`` settles by itself. None: its operator has to."""
    if accepting is Accepting.NEVER:
        return None
    if judged.judgement is Judgement.ACCEPT:
        return SeedStatus.ACCEPTED
    if judged.judgement is Judgement.REJECT:
        return SeedStatus.REJECTED
    if accepting is Accepting.AUTO and judged.reason is Reason.NO_CONDITIONS:
        return SeedStatus.ACCEPTED
    return None


def _findings(result: TaskResult, conditions: Acceptance, checked: CheckOutcome | None) -> Iterator[Verdict]:
    """What is not as it should be, the cheapest first. The check comes last."""
    if _contradicts_itself(result):
        yield _reject(
            Reason.OUTPUT_DIFFERS, "the result contradicts itself: its output_hash is not that of its stdout and stderr"
        )
    if conditions.exit_code is not None:
        yield from _exit_code(result, conditions.exit_code)
    most_ms = conditions.duration_ms_max
    if most_ms is not None and result.duration_ms > most_ms:
        yield _reject(Reason.TOO_SLOW, f"the run took {result.duration_ms} ms, but may take {most_ms} ms")
    if conditions.stdout_sha256 is not None:
        yield from _stdout(result, conditions.stdout_sha256)
    for wanted in conditions.files:
        yield from _file(result, wanted)
    if conditions.check is not None:
        yield from _check(result, checked)


def _exit_code(result: TaskResult, wanted: int) -> Iterator[Verdict]:
    cause = None if result.termination is None else result.termination.cause
    if result.timed_out or cause in _NOT_ENDED:
        why = (
            "timed out"
            if result.timed_out or cause == TerminationCause.TIMEOUT
            else f"ended early ({plain(cause or '')})"
        )
        yield _reject(Reason.EXIT_CODE_DIFFERS, f"the run {why}, but must exit with {wanted}")
    elif result.exit_code != wanted:
        yield _reject(
            Reason.EXIT_CODE_DIFFERS, f"the command exited with {result.exit_code}, but must exit with {wanted}"
        )


def _stdout(result: TaskResult, wanted: str) -> Iterator[Verdict]:
    said = _stdout_hash(result)
    if said is not None and said != wanted:
        yield _reject(Reason.OUTPUT_DIFFERS, f"the SHA-256 of stdout is {said}, but must be {wanted}")
    elif not holds_stdout(result):
        # Everybody can read the wanted hash in the seed, so a worker that repeats it has proved nothing.
        yield _ask(Reason.OUTPUT_CUT, "stdout was cut, so nobody else can compute its SHA-256")


def _file(result: TaskResult, wanted: WantedFile) -> Iterator[Verdict]:
    found = [file.sha256 for file in result.files if file.name == wanted.name]
    name = plain(wanted.name)
    if not found and result.files_omitted:
        yield _ask(Reason.OUTPUT_CUT, f"the result does not list all files, so nothing is known of {name}")
    elif not found:
        yield _reject(Reason.FILE_DIFFERS, f"the run left no file {name}")
    elif any(sha256.lower() != wanted.sha256 for sha256 in found):
        yield _reject(Reason.FILE_DIFFERS, f"the SHA-256 of the file {name} is not {wanted.sha256}")


def _check(result: TaskResult, checked: CheckOutcome | None) -> Iterator[Verdict]:
    if not holds_stdout(result):
        yield _ask(Reason.OUTPUT_CUT, "stdout was cut, so the check cannot judge it")
    elif checked is None:
        yield _ask(Reason.CHECK_UNAVAILABLE, "the check has not been run")
    elif checked.exit_code is None or checked.exit_code not in _CHECK_ANSWERS:
        yield _ask(
            Reason.CHECK_UNAVAILABLE, checked.detail or f"the check gave no answer: exit code {checked.exit_code}"
        )
    elif checked.exit_code != 0:
        yield _reject(Reason.CHECK_FAILED, f"the check refused the output: exit code {checked.exit_code}")


def _is_uncut(result: TaskResult) -> bool:
    """True if the result claims to hold its whole output.

    A result without a claim is one of the baseline, which does not say whether it has cut it. Text with U+FFFD may
    stand for other bytes, as baseline peers send it.
    """
    cut = result.stdout_truncated or result.stderr_truncated
    raw = result.raw_stdout + result.raw_stderr
    return not cut and result.claim_id is not None and _REPLACEMENT not in raw


def _contradicts_itself(result: TaskResult) -> bool:
    interrupted = result.termination is not None and result.termination.cause == TerminationCause.INTERRUPTED
    return not interrupted and _is_uncut(result) and not _hash_fits(result)


def _hash_fits(result: TaskResult) -> bool:
    return hashlib.sha256(result.raw_stdout + result.raw_stderr).hexdigest() == result.output_hash.lower()


def holds_stdout(result: TaskResult) -> bool:
    """True if the result holds every byte of stdout."""
    if result.stdout_truncated:
        return False
    return _hash_fits(result) or (result.claim_id is not None and _REPLACEMENT not in result.raw_stdout)


def _stdout_hash(result: TaskResult) -> str | None:
    """The SHA-256 of the whole stdout, or what the worker says that it is. None if the result does not tell it."""
    if holds_stdout(result):
        return hashlib.sha256(result.raw_stdout).hexdigest()
    if not result.stderr_truncated and not result.raw_stderr and is_envelope_id(result.output_hash.lower()):
        return result.output_hash.lower()
    return None


def _reject(reason: Reason, detail: str) -> Verdict:
    return Verdict(Judgement.REJECT, reason, detail)


def _ask(reason: Reason, detail: str) -> Verdict:
    return Verdict(Judgement.ASK, reason, detail)
