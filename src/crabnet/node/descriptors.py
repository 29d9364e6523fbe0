"""How many files a process may have open at once: too few, and any part of a node fails at any time."""

from __future__ import annotations

from crabnet import limits
from crabnet.errors import Reason, UsageError

try:
    import resource
except ImportError:  # not POSIX: there is no such limit
    HAS_LIMIT = False
else:
    HAS_LIMIT = True


def take_descriptors() -> None:
    """Raise this process's limit as far as it may be, if it is lower than what a node needs."""
    if not HAS_LIMIT:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_too_low(soft):
        wanted = limits.DESCRIPTORS_MIN if hard == resource.RLIM_INFINITY else min(limits.DESCRIPTORS_MIN, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def demand_descriptors() -> None:
    """Raises UsageError (UNAVAILABLE) when this process may have fewer files open than a node needs."""
    if not HAS_LIMIT:
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_too_low(soft):
        raise UsageError(
            f"this process may have {soft} files open at once, and a node needs {limits.DESCRIPTORS_MIN}: raise the"
            " limit, with ulimit -n in a shell or LimitNOFILE in a unit of systemd",
            Reason.UNAVAILABLE,
        )


def _is_too_low(soft: int) -> bool:
    return soft != resource.RLIM_INFINITY and soft < limits.DESCRIPTORS_MIN
