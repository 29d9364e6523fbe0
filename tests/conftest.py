"""Settings shared by all tests: how many examples Hypothesis tries."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from crabnet.collector import tune_collector
from crabnet.core.mending import Mending
from tests.support.leftovers import Watch
from tests.support.slices import DAY_VARIABLE, FULL, day

# Examples are the same on every run, so that a change is what breaks a test; CRABNET_HYPOTHESIS_PROFILE=random
# looks for new ones. Slow machines
# must not fail a property, hence no deadlines: the timeout of the test guards against hanging.
settings.register_profile(
    "ci", derandomize=True, max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", settings.get_profile("ci"), max_examples=2_000, print_blob=True)
settings.register_profile("random", settings.get_profile("deep"), derandomize=False)


BY_USER = (
    "cli/test_node.py::test_data_dirs_that_cannot_be_used",
    "cli/test_process.py",
    "cli/test_reading.py::test_a_data_dir_that_may_only_be_read_is_read",
    "control",
    "e2e/test_bad_input.py::test_a_directory_of_another_user_that_may_not_be_written",
    "e2e/test_flow.py::test_three_nodes_do_the_whole_job_by_the_command_line",
    "e2e/test_results.py",
    "operator/test_fsck.py::test_what_this_user_may_not_use_is_named",
    "operator/test_paths.py",
    "operator/test_verify_config.py",
    "runner",
    "sandbox",
    "storage/test_lock.py",
    "transport/test_udp.py",
)
"""Directories, files and tests that depend on whose process it is; as root, `make test` runs them once more as an
ordinary user.
"""


@pytest.fixture(autouse=True)
def no_fault_goes_unnoticed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A node goes on after an error that nobody expected; a test does not, unless it is marked ``expects_faults``."""
    found: list[BaseException] = []
    note = Mending.fault

    def noted(self: Mending, part: str, error: BaseException, message: bytes) -> None:
        found.append(error)
        note(self, part, error, message)

    monkeypatch.setattr(Mending, "fault", noted)
    yield
    if found and request.node.get_closest_marker("expects_faults") is None:
        raise found[0]


_WATCH = pytest.StashKey[Watch]()


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C through to processes under test; choose the profile; see to it that nothing is left.

    The profile is `CRABNET_HYPOTHESIS_PROFILE`, else `deep` with `-m deep`, else `ci`.
    """
    tune_collector()
    # Processes under test would inherit what is ignored here, and never see such a signal.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # started with nohup, whose meaning stays: nothing is done
        signal.signal(signal.SIGHUP, lambda *_: None)
    by_marker = "deep" if config.option.markexpr == "deep" else "ci"
    settings.load_profile(os.environ.get("CRABNET_HYPOTHESIS_PROFILE", by_marker))
    day()
    if not hasattr(config, "workerinput") and not config.option.collectonly:
        watch = config.stash[_WATCH] = Watch(leads=bool(config.getoption("numprocesses", None)))
        config.option.basetemp = config.option.basetemp or watch.of_tests


def pytest_report_header() -> str:
    """How to run the same again."""
    return "all that is long and random" if FULL else f"of what is long and random, the part of {DAY_VARIABLE}={day()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what depends on the user."""
    for path, items_there in groupby(items, key=lambda item: item.path):
        place = _in_tests(path)
        whole = any(place.is_relative_to(each) for each in BY_USER)
        for item in items_there:
            if whole or f"{place}::{item.name}" in BY_USER:
                item.add_marker("by_user")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m "by_user …"`, leave out the files in which nothing depends on the user: they take long to import."""
    if not config.option.markexpr.startswith("by_user") or collection_path.suffix != ".py":
        return None
    place = _in_tests(collection_path)
    return None if any(place.is_relative_to(each.partition("::")[0]) for each in BY_USER) else True


def _in_tests(path: Path) -> Path:
    return path.relative_to(Path(__file__).parent)


def pytest_collection_finish() -> None:
    """Keep thousands of collected tests out of every garbage collection that the tests cause."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """After all else, in the process that leads the run: whatever the tests have left makes it fail."""
    yield
    watch = session.config.stash.get(_WATCH, None)
    if watch is None:
        return
    findings = watch.findings()
    if findings:
        print("the tests have left behind:", *findings, sep="\n  ", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    failed = session.exitstatus != pytest.ExitCode.OK
    if not watch.clean(keep=failed):
        print("a directory of the tests cannot be removed", file=sys.stderr)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if failed:
        print(f"the directories of the tests: {watch.temporary}", file=sys.stderr)
