"""Settings shared by all tests: how many examples Hypothesis tries."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# Examples are the same on every run, so that a change is what breaks a test; CRABNET_HYPOTHESIS_PROFILE=random
# looks for new ones. Slow machines
# must not fail a property, hence no deadlines: the timeout of the test guards against hanging.
settings.register_profile(
    "ci", derandomize=True, max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", settings.get_profile("ci"), max_examples=2_000, print_blob=True)
settings.register_profile("random", settings.get_profile("deep"), derandomize=False)


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C through to processes under test; choose the profile.

    The profile is `CRABNET_HYPOTHESIS_PROFILE`, else `deep` with `-m deep`, else `ci`.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in the background of a shell: the processes under test would inherit that and never see Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    by_marker = "deep" if config.option.markexpr == "deep" else "ci"
    settings.load_profile(os.environ.get("CRABNET_HYPOTHESIS_PROFILE", by_marker))
