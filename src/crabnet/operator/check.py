"""The form of the checks that tools make: what was checked, the verdict, what was found, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from crabnet.errors import CrabnetError, DataDirDamagedError, Reason
from crabnet.operations import health
from crabnet.operations.health import Verdict
from crabnet.settings import Settings
from crabnet.storage.files import Files

__all__ = ["Check", "Situation", "Step", "Verdict", "failure", "row_of"]

_REMEDIES: Final = {
    Reason.ADDRESS_IN_USE: "stop the program that uses the address, or choose another address",
    Reason.ADDRESS_INVALID: "correct the address, or make its name known",
    Reason.CLOCK_SUSPECT: "set the clock, for example with NTP",
    Reason.DATA_DIR_BUSY: "stop the other process, or use another data dir",
    Reason.DATA_DIR_DAMAGED: "run `crabnet fsck` to see what is wrong and what can be saved",
    Reason.DATA_DIR_NEWER: "upgrade Crabnet",
    Reason.DATA_DIR_UNWRITABLE: "give the path to the user of the node, or choose another one",
    Reason.DISK_FULL: "make room on the disk",
    Reason.INVALID_CONFIG: "correct the setting; docs/CONFIGURATION.md says which values it takes",
    Reason.LOCKS_UNSUPPORTED: "put the data dir on a local disk",
    Reason.MISSING_SIGNATURE: "read docs/UPGRADE.md, then set require_signatures = false, or start in a new data dir",
    Reason.NODE_UNREACHABLE: "check that a node runs there in this namespace, the firewalls between, and both clocks",
    Reason.OWN_ADDRESS: "remove the address",
    Reason.SANDBOX_UNAVAILABLE: "install bubblewrap, or allow user namespaces",
    Reason.STORAGE_FAILED: "check the path and the disk",
    Reason.UNAVAILABLE: "change the setting or the limit that the message names",
    Reason.UNSAFE_PERMISSIONS: "take the rights of other users away with chmod",
    Reason.WORKDIR_MISSING: "make the directory, or choose another one",
    Reason.WRONG_NAMESPACE: "set the namespace of this data dir, or use another data dir",
    Reason.WRONG_OWNER: "run the command as the owner of the data dir",
}
"""What to do about a Reason, where a check knows nothing better."""


class Check(NamedTuple):
    """One finding: what was checked, the verdict, what was found, the error that a start would give, and what to do."""

    name: str
    verdict: Verdict
    detail: str
    error: CrabnetError | None = None
    remedy: str = ""


class Situation(NamedTuple):
    """Input of the checks. ``running``: a node owns the data dir, so what this node holds is not tried again."""

    settings: Settings
    files: Files
    running: bool


Step = Callable[[Situation], Iterator[Check]]


def row_of(check: Check) -> health.Check:
    """The finding as all doors show it."""
    reason = None if check.error is None else check.error.reason
    remedy = check.remedy
    if not remedy and check.verdict is not Verdict.OK:
        remedy = _REMEDIES.get(reason, "see docs/OPERATIONS.md") if reason is not None else _last_clause(check.detail)
    return health.Check(
        name=check.name,
        verdict=check.verdict,
        detail=check.detail,
        remedy=remedy,
        reason=None if reason is None else reason.value,
    )


def _last_clause(detail: str) -> str:
    """What a detail says after its last semicolon: by convention, what to do."""
    return detail.rpartition("; ")[2] if "; " in detail else "see docs/OPERATIONS.md"


def failure(checks: list[Check]) -> CrabnetError | None:
    """The error to end with. It has the kind of the first failed check."""
    failed = [check for check in checks if check.verdict is Verdict.FAILED]
    if not failed:
        return None
    first = failed[0].error or DataDirDamagedError(failed[0].detail)
    return type(first)(f"{len(failed)} of {len(checks)} checks failed; {first.message}", first.reason)
