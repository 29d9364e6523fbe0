"""The limit of open files of this process. With too low a limit any part of a node may fail at any time."""

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
    """Raise this process's limit to what a node needs, or as far as the hard limit allows, if it is lower."""
    if not HAS_LIMIT:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_too_low(soft):
        wanted = limits.DESCRIPTORS_MIN if hard == resource.RLIM_INFINITY else min(limits.DESCRIPTORS_MIN, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def demand_descriptors() -> None:
    """Check the limit. Raises UsageError (UNAVAILABLE) if this process may have fewer files open than a node needs."""
    if not HAS_LIMIT:
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_too_low(soft):
        raise UsageError(
            f"this process may have {soft} files open at once, but a node needs {limits.DESCRIPTORS_MIN}; raise the"
            " limit with ulimit -n in a shell or with LimitNOFILE in a systemd unit",
            Reason.UNAVAILABLE,
        )


def _is_too_low(soft: int) -> bool:
    return soft != resource.RLIM_INFINITY and soft < limits.DESCRIPTORS_MIN
