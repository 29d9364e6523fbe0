"""What a result and the conditions of its seed say: accept, reject or ask."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from msgspec.structs import replace

from crabnet.domain.acceptance import Acceptance, WantedFile
from crabnet.domain.model import Failure, OutputFile, SeedStatus, TaskResult, Termination, TerminationCause
from crabnet.errors import Reason
from crabnet.market.policies import Accepting, CheckOutcome, Judgement, Verdict
from crabnet.market.verdict import needs_check, settles, verdict

A, R, ASK = Judgement.ACCEPT, Judgement.REJECT, Judgement.ASK


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def result(stdout: bytes = b"hello\n", stderr: bytes = b"", **changes: Any) -> TaskResult:
    """A result with this output, as workers of this version send it."""
    fields: dict[str, Any] = {
        "id": "r",
        "seed_id": "s",
        "worker": "w",
        "claim_id": "c",
        "exit_code": 0,
        "timed_out": False,
        "duration_ms": 100,
        "created_at": 1,
        "termination": Termination(cause=TerminationCause.EXITED),
        "output_hash": sha256(stdout + stderr),
    }
    for name, raw in (("stdout", stdout), ("stderr", stderr)):
        try:
            fields[name] = raw.decode()
        except UnicodeDecodeError:
            fields[f"{name}_base64"] = base64.b64encode(raw).decode()
    return TaskResult(**{**fields, **changes})


CUT = result(b"hello\n", stdout_truncated=True, output_hash=sha256(b"hello\nworld\n"))
BASELINE = result(claim_id=None, created_at=None, termination=None)
FILES = (OutputFile(name="a", size=1, sha256=sha256(b"a")), OutputFile(name="d/b", size=1, sha256=sha256(b"b")))
EXIT_0 = Acceptance(exit_code=0)
HELLO = Acceptance(stdout_sha256=sha256(b"hello\n"))
LONG = Acceptance(stdout_sha256=sha256(b"hello\nworld\n"))
X = Acceptance(stdout_sha256=sha256(b"x"))
QUICK = Acceptance(duration_ms_max=100)
FILE_A = Acceptance(files=(WantedFile(name="a", sha256=sha256(b"a")),))
FILE_B = Acceptance(files=(WantedFile(name="d/b", sha256=sha256(b"x")),))
CHECK = Acceptance(check="grep -q hello")


def ended(cause: TerminationCause, **changes: Any) -> TaskResult:
    return result(termination=Termination(cause=cause), **changes)


CASES = [
    ("no conditions", result(), None, ASK, Reason.NO_CONDITIONS),
    ("empty conditions", result(), Acceptance(), ASK, Reason.NO_CONDITIONS),
    ("failed without conditions", result(exit_code=3), None, ASK, Reason.NO_CONDITIONS),
    ("never begun", ended(TerminationCause.SPAWN_FAILED, exit_code=127), None, ASK, Reason.SPAWN_FAILED),
    ("the worker failed", result(failed=Failure.WORKER), EXIT_0, ASK, Reason.WRONG_STATE),
    ("all hold", result(files=FILES), replace(HELLO, exit_code=0, files=FILE_A.files), A, Reason.CONDITIONS_MET),
    ("exit code", result(exit_code=3), Acceptance(exit_code=3), A, Reason.CONDITIONS_MET),
    ("another exit code", result(exit_code=1), EXIT_0, R, Reason.EXIT_CODE_DIFFERS),
    ("a signal", ended(TerminationCause.SIGNALED, exit_code=139), Acceptance(exit_code=139), A, Reason.CONDITIONS_MET),
    ("timed out with the exit code", result(timed_out=True), EXIT_0, R, Reason.EXIT_CODE_DIFFERS),
    ("cancelled with the exit code", ended(TerminationCause.CANCELLED), EXIT_0, R, Reason.EXIT_CODE_DIFFERS),
    ("interrupted", ended(TerminationCause.INTERRUPTED, output_hash="x"), EXIT_0, R, Reason.EXIT_CODE_DIFFERS),
    ("stdout", result(), HELLO, A, Reason.CONDITIONS_MET),
    ("stdout and some stderr", result(stderr=b"note"), HELLO, A, Reason.CONDITIONS_MET),
    (
        "stdout that is no text",
        result(b"\xff\n"),
        Acceptance(stdout_sha256=sha256(b"\xff\n")),
        A,
        Reason.CONDITIONS_MET,
    ),
    ("another stdout", result(b"bye\n"), HELLO, R, Reason.OUTPUT_DIFFERS),
    ("cut, and only the worker says that the hash is right", CUT, LONG, ASK, Reason.OUTPUT_CUT),
    (
        "the same of text that was replaced",
        result("\ufffd".encode(), output_hash=sha256(b"x")),
        X,
        ASK,
        Reason.OUTPUT_CUT,
    ),
    ("cut, and the hash tells", CUT, HELLO, R, Reason.OUTPUT_DIFFERS),
    ("cut, and stderr is not empty", result(stderr=b"x", stdout_truncated=True), HELLO, ASK, Reason.OUTPUT_CUT),
    ("both are cut", replace(CUT, stderr_truncated=True), LONG, ASK, Reason.OUTPUT_CUT),
    ("only stderr is cut", result(stderr_truncated=True, output_hash="f" * 64), HELLO, A, Reason.CONDITIONS_MET),
    ("quick", result(duration_ms=100), QUICK, A, Reason.CONDITIONS_MET),
    ("too slow", result(duration_ms=101), QUICK, R, Reason.TOO_SLOW),
    ("a file", result(files=FILES), FILE_A, A, Reason.CONDITIONS_MET),
    ("another file", result(files=FILES), FILE_B, R, Reason.FILE_DIFFERS),
    ("no file", result(), FILE_A, R, Reason.FILE_DIFFERS),
    ("files left out", result(files_omitted=1), FILE_A, ASK, Reason.OUTPUT_CUT),
    ("a file twice", result(files=(*FILES, replace(FILES[0], sha256="0" * 64))), FILE_A, R, Reason.FILE_DIFFERS),
    ("a lie", result(output_hash="0" * 64), None, R, Reason.OUTPUT_DIFFERS),
    ("a lie about what is not asked", result(output_hash="0" * 64), EXIT_0, R, Reason.OUTPUT_DIFFERS),
    ("no lie of a baseline worker", replace(BASELINE, output_hash="0" * 64), None, ASK, Reason.NO_CONDITIONS),
    ("a baseline worker that may have cut", replace(BASELINE, output_hash="x"), HELLO, ASK, Reason.OUTPUT_CUT),
    ("a baseline worker", BASELINE, HELLO, A, Reason.CONDITIONS_MET),
    ("bytes replaced on the way", result("\ufffd".encode(), output_hash="0" * 64), None, ASK, Reason.NO_CONDITIONS),
    ("a check that has not been run", result(), CHECK, ASK, Reason.CHECK_UNAVAILABLE),
    ("a check of cut output", CUT, CHECK, ASK, Reason.OUTPUT_CUT),
    ("one fails before the check", result(exit_code=1), replace(CHECK, exit_code=0), R, Reason.EXIT_CODE_DIFFERS),
    ("a doubt does not hide a failure", CUT, replace(CHECK, exit_code=1), R, Reason.EXIT_CODE_DIFFERS),
]


@pytest.mark.parametrize(
    ("given", "acceptance", "judgement", "reason"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_verdict(given: TaskResult, acceptance: Acceptance | None, judgement: Judgement, reason: Reason) -> None:
    judged = verdict(given, acceptance)

    assert (judged.judgement, judged.reason) == (judgement, reason), judged.detail
    assert judged.detail
    assert needs_check(given, acceptance) == (reason is Reason.CHECK_UNAVAILABLE)


@pytest.mark.parametrize(
    ("outcome", "judgement", "reason"),
    [
        (CheckOutcome(exit_code=0), A, Reason.CONDITIONS_MET),
        (CheckOutcome(exit_code=1), R, Reason.CHECK_FAILED),
        (CheckOutcome(exit_code=125), R, Reason.CHECK_FAILED),
        (CheckOutcome(exit_code=126), ASK, Reason.CHECK_UNAVAILABLE),
        (CheckOutcome(exit_code=137), ASK, Reason.CHECK_UNAVAILABLE),
        (CheckOutcome(detail="grep is not allowed here"), ASK, Reason.CHECK_UNAVAILABLE),
    ],
)
def test_verdict_with_the_outcome_of_the_check(outcome: CheckOutcome, judgement: Judgement, reason: Reason) -> None:
    judged = verdict(result(), CHECK, outcome)

    assert (judged.judgement, judged.reason) == (judgement, reason)
    assert outcome.detail in judged.detail
    assert verdict(result(exit_code=1), replace(CHECK, exit_code=0), outcome).reason is Reason.EXIT_CODE_DIFFERS


def test_the_detail_of_a_verdict_is_one_line_whatever_a_stranger_calls_its_file() -> None:
    wanted = WantedFile(name="\x1b[2J\na", sha256=sha256(b"a"))

    assert verdict(result(), Acceptance(files=(wanted,))).detail == "the run left no file \\x1b[2J\\na"


@pytest.mark.parametrize(
    ("judgement", "reason", "by_auto", "by_check"),
    [
        (A, Reason.CONDITIONS_MET, SeedStatus.ACCEPTED, SeedStatus.ACCEPTED),
        (R, Reason.CHECK_FAILED, SeedStatus.REJECTED, SeedStatus.REJECTED),
        (ASK, Reason.NO_CONDITIONS, SeedStatus.ACCEPTED, None),
        (ASK, Reason.SPAWN_FAILED, None, None),
        (ASK, Reason.OUTPUT_CUT, None, None),
        (ASK, Reason.CHECK_UNAVAILABLE, None, None),
        (ASK, Reason.WRONG_STATE, None, None),
    ],
)
def test_how_a_publisher_settles(
    judgement: Judgement, reason: Reason, by_auto: SeedStatus | None, by_check: SeedStatus | None
) -> None:
    judged = Verdict(judgement, reason, "")

    assert settles(judged, Accepting.AUTO) is by_auto
    assert settles(judged, Accepting.CHECK) is by_check
    assert settles(judged, Accepting.NEVER) is None
