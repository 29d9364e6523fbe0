"""``crabnet doctor``: the checks of the configuration, of a running node, and of the files of its data dir."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from crabnet.control.client import NodeNotRunningError, call
from crabnet.errors import CrabnetError, Reason, RefusedError
from crabnet.node.network.remembering import PeersFile
from crabnet.node.quarantine import kept_faults
from crabnet.operations import health
from crabnet.operator.check import Check, Situation, Verdict, failure
from crabnet.operator.verify_config import verify_config
from crabnet.settings import Settings
from crabnet.storage.feed_index import INDEX_NAME, is_unsealed
from crabnet.storage.files import Files


class Report(NamedTuple):
    """The findings: from the configuration and the files, and from the running node (empty without one)."""

    checks: list[Check]
    live: list[health.Check]
    running: bool

    @property
    def error(self) -> CrabnetError | None:
        """The error to end with: that of the first failed check."""
        found = failure(self.checks)
        if found is not None:
            return found
        failed = [each for each in self.live if each.verdict is Verdict.FAILED]
        if not failed:
            return None
        reasons = {reason.value: reason for reason in Reason}
        reason = reasons.get(failed[0].reason or "", Reason.INTERNAL)
        return RefusedError(f"{len(failed)} checks of the running node failed; {failed[0].detail}", reason)


def examine(settings: Settings, files: Files) -> Report:
    """Make all checks. Blocks for some seconds. Raises nothing."""
    checks = verify_config(settings, files)
    running, live = True, []
    try:
        answer = call(settings.data_dir, health.DOCTOR.name, {}, settings.control_timeout_ms)
        live = msgspec.convert(answer, health.Examination).checks
    except NodeNotRunningError:
        running = False
        checks.append(Check("node", Verdict.OK, "no node runs on this data dir"))
    except (CrabnetError, msgspec.ValidationError) as failed:
        error = failed if isinstance(failed, CrabnetError) else CrabnetError(f"the node's answer is not one: {failed}")
        checks.append(
            Check("node", Verdict.FAILED, f"the node does not answer: {error.message}", error, "look at its log")
        )
    if not running:
        checks += _files(Situation(settings, files, running))
    return Report(checks, live, running)


def _files(at: Situation) -> Iterator[Check]:
    """What the files say about a node that does not run."""
    data_dir = at.settings.data_dir
    if not data_dir.is_dir():
        return
    try:
        if is_unsealed(at.files, data_dir / INDEX_NAME):
            detail = "the index was not sealed when the node ended, so the next start builds it again"
            yield Check("index", Verdict.WARNING, detail, None, "nothing is lost; the start takes longer")
    except CrabnetError as error:
        yield Check("index", Verdict.WARNING, error.message, error)
    peers, wrong = PeersFile(at.files, data_dir).read()
    if wrong:
        yield Check("peers", Verdict.WARNING, wrong, None, "remove the file; the node makes it again")
    elif peers:
        yield Check("peers", Verdict.OK, f"{len(peers)} peers are remembered")
    kept = kept_faults(at.files, data_dir)
    if kept:
        remedy = "send `crabnet debug bundle` to the developers, then remove quarantine/"
        yield Check("faults", Verdict.WARNING, f"{kept} unexpected errors are kept in quarantine/", None, remedy)
