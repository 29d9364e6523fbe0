"""The node's runner: its policy, and the sandbox that the self-test chose when a sandbox was first needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import trio

from crabnet.errors import Reason, RefusedError
from crabnet.runner.execute import check_request, refused_outcome, run_command
from crabnet.runner.outcome import RunOutcome, RunRequest
from crabnet.runner.policy import RunnerPolicy
from crabnet.runner.sandbox import cgroups
from crabnet.runner.sandbox.model import NO_FENCE, Choice, Fence, Mode, SandboxReport
from crabnet.runner.self_test import survey
from crabnet.runner.supervisor_client import Supervisors


class Runner:
    """Runs commands behind the fence that the self-test chose. Only the holder of the data dir's lock has a runner."""

    def __init__(self, policy: RunnerPolicy, choice: Choice, data_dir: Path) -> None:
        self.policy = policy
        self.report: SandboxReport | None = None
        """None until the self-test is done."""
        self._choice = choice
        self._data_dir = data_dir
        self._surveying = trio.Lock()
        self._holds: list[cgroups.Hold] = []
        self._supervisors = Supervisors()

    async def prepare(self) -> SandboxReport:
        """Run the self-test once, and remove what a killed node left. Later calls return the same report."""
        async with self._surveying:
            if self.report is None:
                self.report = await survey(self.policy, self._choice, self._data_dir, self._supervisors, self._holds)
            return self.report

    async def refusal(self, request: RunRequest) -> RunOutcome | None:
        """Return the outcome for a request that this worker refuses, None when it would run the request."""
        try:
            check_request(self.policy, await self._fence(), request)
        except RefusedError as refusal:
            return refused_outcome(request, refusal)
        return None

    def objection(self, request: RunRequest) -> RefusedError | None:
        """Return why this worker would refuse a request, None if it would not. It runs no self-test.

        Before the self-test it assumes that a sandbox works.
        """
        fence = NO_FENCE if self.report is None else self.report.fence
        if fence is None:
            return RefusedError("no sandbox works here", Reason.SANDBOX_UNAVAILABLE)
        if self.report is None:
            fence = replace(fence, mode=Mode.BWRAP)
        try:
            check_request(self.policy, fence, request)
        except RefusedError as refusal:
            return refusal
        return None

    async def run(self, request: RunRequest, stop: trio.Event) -> RunOutcome:
        """Run a command, as ``run_command`` does, behind the fence."""
        try:
            fence = await self._fence()
        except RefusedError as refusal:
            return refused_outcome(request, refusal)
        # The tag differs before the data dir exists, and with such a tag the next start would sweep nothing.
        request = replace(request, owner_tag=cgroups.owner_tag(self._data_dir))
        return await run_command(request, self.policy, fence, stop=stop, supervisors=self._supervisors)

    @property
    def unsandboxed(self) -> bool:
        """True if runs have the rights of this node's user, because the operator chose that."""
        return self._choice is Choice.NONE

    def close(self) -> None:
        """Remove this node's control groups, and end the process that starts runs. Call it only after the last run."""
        self._supervisors.close()
        while self._holds:
            self._holds.pop().release()

    async def _fence(self) -> Fence:
        report = await self.prepare()
        if report.fence is None:
            raise RefusedError(report.detail, Reason.SANDBOX_UNAVAILABLE)
        return report.fence
