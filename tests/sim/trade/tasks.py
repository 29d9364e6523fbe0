"""The commands of simulated markets: what comes out of each, and what a check of it says. Both follow from its text."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import Final, NamedTuple

from crabnet.core.commands import FinishRun
from crabnet.domain.model import Failure, TaskResult, Termination, TerminationCause
from crabnet.market.policies import CheckOutcome

WORDS: Final = ("echo", "sum", "fail", "nap", "dump", "spill", "hang")
CHECK: Final = "is "
BROKEN_CHECK: Final = "broken "
"""A check that gives no answer."""
_KEPT_CHARS: Final = 20
_DUMPED_CHARS: Final = 200


class Output(NamedTuple):
    """What a command gives. Of a large stdout the result keeps the beginning only."""

    exit_code: int
    stdout: str
    stderr: str = ""
    timed_out: bool = False

    @property
    def sha256(self) -> str:
        """Of the whole stdout."""
        return sha256(self.stdout.encode()).hexdigest()

    @property
    def output_hash(self) -> str:
        """As in results."""
        return sha256((self.stdout + self.stderr).encode()).hexdigest()


@cache
def truth(command: str) -> Output:
    """What an honest run of the command gives, wherever it runs."""
    word, _, number = command.partition(" ")
    digest = sha256(number.encode()).hexdigest()
    match word:
        case "echo" | "nap":
            return Output(0, f"{number}\n")
        case "sum":
            return Output(0, f"{digest}\n", f"read {number}\n")
        case "fail":
            return Output(3, "", f"cannot {number}\n")
        case "dump":
            return Output(0, digest * (_DUMPED_CHARS // 64))
        case "spill":
            return Output(0, digest * (_DUMPED_CHARS // 64), "much\n")
        case "hang":
            return Output(124, "", timed_out=True)
    raise ValueError(f"no such command: {command}")


def duration_ms(command: str, chance: float, timeout_ms: int) -> int:
    """How long a run takes; ``chance`` is from 0 to 1."""
    word = command.partition(" ")[0]
    if word == "hang":
        return timeout_ms
    return int((0.3 + 0.6 * chance if word == "nap" else 0.1 * chance) * timeout_ms)


def check_says(check: str, stdout: str) -> CheckOutcome:
    """The outcome of a check that gets ``stdout``."""
    if check.startswith(BROKEN_CHECK):
        return CheckOutcome(detail="the check cannot be run here")
    return CheckOutcome(exit_code=int(stdout != truth(check.removeprefix(CHECK)).stdout))


def result_of(seed_id: str, output: Output, ran_ms: int, **changes: str) -> FinishRun:
    """The result of a run with this output. ``changes`` are lies."""
    cause = TerminationCause.TIMEOUT if output.timed_out else TerminationCause.EXITED
    cut = len(output.stdout) > _KEPT_CHARS * 5
    failed = output.exit_code != 0 or output.timed_out
    return FinishRun(
        seed_id=seed_id,
        exit_code=output.exit_code,
        timed_out=output.timed_out,
        stdout=changes.get("stdout", output.stdout[:_KEPT_CHARS] if cut else output.stdout),
        stderr=output.stderr,
        output_hash=changes.get("output_hash", output.output_hash),
        duration_ms=ran_ms,
        termination=Termination(cause=cause, wall_ms=ran_ms),
        stdout_truncated=cut,
        failed=Failure.TASK if failed else None,
    )


def failure_of(seed_id: str) -> FinishRun:
    """The word of a worker that it could not do it."""
    return FinishRun(
        seed_id=seed_id,
        exit_code=143,
        timed_out=False,
        stdout="",
        stderr="",
        output_hash=sha256(b"").hexdigest(),
        duration_ms=0,
        termination=Termination(cause=TerminationCause.CANCELLED),
        failed=Failure.WORKER,
    )


def is_true(command: str, result: TaskResult) -> bool:
    """True if a result says what an honest run would."""
    expected = result_of(result.seed_id, truth(command), result.duration_ms)
    said = (result.exit_code, result.timed_out, result.stdout, result.stderr, result.output_hash)
    return not result.worker_failed and said == (
        expected.exit_code,
        expected.timed_out,
        expected.stdout,
        expected.stderr,
        expected.output_hash,
    )
