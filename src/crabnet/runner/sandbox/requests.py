"""A seed's requests for its run, in lines of its ``rules`` that begin with ``run:``. Pure.

An example is ``run: profile=network memory_mib=128 processes=8``. A seed can only lower the operator's limits. The
worker refuses a request that it does not understand, that is too low, or whose profile the operator does not allow. The
result says so to the publisher.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from crabnet import limits
from crabnet.errors import Reason, RefusedError
from crabnet.runner.sandbox.model import Profile, RunLimits

PREFIX: Final = "run:"
_MIB: Final = 1024 * 1024
_NAMES: Final[dict[str, tuple[str, int]]] = {
    "memory_mib": ("memory_bytes", _MIB),
    "processes": ("processes", 1),
    "cpu_s": ("cpu_time_s", 1),
    "cpu_percent": ("cpu_percent", 1),
    "file_mib": ("file_bytes", _MIB),
    "open_files": ("open_files", 1),
    "disk_mib": ("workdir_bytes", _MIB),
    "tmp_mib": ("tmp_bytes", _MIB),
}
"""The limit and the factor for each word in a request."""
_LEAST: Final = {"memory_bytes": limits.RUNNER_MEMORY_BYTES_MIN, "open_files": limits.RUNNER_OPEN_FILES_MIN}
"""The lowest values. With less, no sandbox can be made, and the failure would look like the worker's fault."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """The profile and the limits of a run."""

    profile: Profile
    limits: RunLimits


def agree(rules: str, profiles: tuple[Profile, ...], operator: RunLimits) -> Agreed:
    """Combine the operator's limits with the seed's requests. The lower value of each limit applies.

    If the seed requests no profile, it gets the operator's first one. Raises ``RefusedError``: ``malformed`` for a
    request that is not understood or too low, ``profile_not_allowed`` for a profile that the operator does not allow.
    """
    profile = profiles[0]
    asked = operator
    for line in rules.splitlines():
        if not line.strip().startswith(PREFIX):
            continue
        for word in line.strip().removeprefix(PREFIX).split():
            name, equals, value = word.partition("=")
            if name == "profile" and equals:
                profile = _profile(value, profiles)
            else:
                asked = _limit(asked, word, name, value)
    return Agreed(profile, operator.tighter(asked))


def _profile(value: str, profiles: tuple[Profile, ...]) -> Profile:
    for profile in profiles:
        if profile.value == value:
            return profile
    allowed = ", ".join(profile.value for profile in profiles)
    raise RefusedError(
        f"this worker does not run tasks with the profile {_shown(value)}, only {allowed}", Reason.PROFILE_NOT_ALLOWED
    )


def _limit(asked: RunLimits, word: str, name: str, value: str) -> RunLimits:
    known = _NAMES.get(name)
    if known is None or not value.isascii() or not value.isdigit() or len(value) > limits.RUNNER_REQUEST_DIGITS_MAX:
        raise RefusedError(
            f"the seed's rules request {_shown(word)} for the run, which this worker does not understand",
            Reason.MALFORMED,
        )
    field, factor = known
    least = _LEAST.get(field, factor)
    if int(value) * factor < least:
        raise RefusedError(
            f"the seed's rules request {_shown(word)} for the run; a run needs at least {name}={least // factor}",
            Reason.MALFORMED,
        )
    return replace(asked, **{field: min(getattr(asked, field), int(value) * factor)})


def _shown(text: str) -> str:
    return repr(text[: limits.RUNNER_NAME_CHARS_SHOWN])
