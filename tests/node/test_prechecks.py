"""Tasks whose results nobody could accept are refused before they are published."""

from __future__ import annotations

from pathlib import Path

import pytest

from crabnet.core.commands import Publish
from crabnet.domain.acceptance import Acceptance, WantedFile
from crabnet.domain.model import Seed
from crabnet.errors import Reason, UsageError
from crabnet.market.policies import Declined
from crabnet.market.work import Demand
from crabnet.node.execution.prechecks import demand_publishable, doubts_about, fit
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.runner import Runner
from crabnet.runner.sandbox.model import Choice

ONE, OTHER = "1" * 64, "2" * 64


def publish(acceptance: Acceptance) -> Publish:
    return Publish(title="t", command="true", timeout_ms=5_000, acceptance=acceptance)


def files(*wanted: tuple[str, str]) -> Acceptance:
    return Acceptance(files=tuple(WantedFile(name=name, sha256=sha256) for name, sha256 in wanted))


@pytest.mark.parametrize(
    ("acceptance", "said"),
    [
        (Acceptance(), "the acceptance has no condition"),
        (Acceptance(check="grep 'x"), "the check cannot be split into words"),
        (Acceptance(check="# nothing"), "the check is empty"),
        (files(("a", ONE), ("a", OTHER)), "the file 'a' is expected with two contents"),
        (files(("/etc/passwd", ONE)), "names are relative to the work dir"),
        (files(("../a", ONE)), "names are relative to the work dir"),
        (files(("a/../b", ONE)), "names are relative to the work dir"),
        (files(("..", ONE)), "names are relative to the work dir"),
    ],
)
def test_conditions_that_no_result_can_meet_are_refused(acceptance: Acceptance, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        demand_publishable(publish(acceptance))
    assert refused.value.reason is Reason.UNWORKABLE


@pytest.mark.parametrize(
    "acceptance",
    [
        Acceptance(exit_code=0, check="grep -q x | cat"),
        files(("a", ONE), ("d/b", ONE), ("a", ONE)),
        files(("..a", ONE)),
    ],
)
def test_other_conditions_are_published(acceptance: Acceptance) -> None:
    demand_publishable(publish(acceptance))
    assert doubts_about(publish(acceptance)) == []


def test_a_run_that_may_take_longer_than_is_accepted_gives_a_warning() -> None:
    (doubt,) = doubts_about(publish(Acceptance(duration_ms_max=4_999)))
    assert "4999 ms" in doubt
    assert "5000 ms" in doubt


@pytest.mark.parametrize(("listed", "takes"), [(0, False), (1, False), (2, True), (64, True)])
def test_a_worker_whose_results_list_too_few_files_does_not_bid(tmp_path: Path, listed: int, takes: bool) -> None:
    policy = RunnerPolicy(allowed_commands=frozenset({"true"}), files_max=listed)
    runner = Runner(policy, Choice.AUTO, tmp_path)
    seed = Seed(
        id="s", title="t", command="true", timeout_ms=1_000, bid_deadline_ts=1, exec_deadline_ms=1, created_by="a",
        created_at=1, acceptance=files(("a", ONE), ("b", OTHER)),
    )  # fmt: skip
    found = fit(runner, seed)
    assert isinstance(found, Demand) is takes
    assert takes or (isinstance(found, Declined) and found.reason is Reason.RESOURCES and "2 file(s)" in found.detail)
