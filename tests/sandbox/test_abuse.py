"""No run uses up the host or outlives its end, and its result names the limit that it ran into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.sandbox.abuses import ABUSES
from tests.sandbox.host import (
    FALLBACK,
    PLACES,
    ROOM_FOR_OTHERS,
    STRICT,
    Attacked,
    Place,
    Result,
    attacked,
    python_command,
)

TIMES_MS = (1_000, 4_000, 16_000)
"""Timeouts tried one after the other, until the abuse has got as far as saying so."""
LONG_MS = 60_000


@dataclass(frozen=True)
class Abuse:
    """What becomes of an abuse. ``named``: limits of which the result names one."""

    name: str
    named: frozenset[str] = frozenset()
    causes: frozenset[str] = frozenset({"timeout"})
    says: str = ""
    by_group: bool = False
    """It is over so soon that only a control group notices: an ordinary user has none."""

    @property
    def patient(self) -> bool:
        """A limit ends it, not the timeout."""
        return "timeout" not in self.causes


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FORKS = words("processes memory")
ENDS = words("exited signaled")
TABLE = [
    Abuse("fork_bomb", FORKS, words("timeout processes memory")),
    Abuse("forks_and_ends", FORKS, words("exited memory"), by_group=True),
    Abuse("forks_that_run_away", causes=words("exited processes")),
    Abuse("thread_bomb", FORKS, words("timeout memory")),
    Abuse("zombies", FORKS, words("timeout memory")),
    Abuse("memory_in_one_process", words("memory"), words("memory")),
    Abuse("memory_in_many_processes", words("memory"), words("memory")),
    Abuse("memory_in_memfds", causes=words("memory exited")),
    Abuse("unseen_memory", words("memory disk"), words("memory disk")),
    Abuse("unseen_removed_files", words("disk memory"), words("disk memory timeout")),
    Abuse("memory_shared_by_processes", words("memory"), words("memory")),
    Abuse("memory_in_segments", causes=words("memory exited")),
    Abuse("memory_in_pipes", causes=words("exited memory")),
    Abuse("one_large_file", words("file_size disk"), words("file_size disk")),
    Abuse("many_large_files", words("disk"), words("disk")),
    Abuse("many_empty_files", words("disk memory"), words("disk memory")),
    Abuse("removed_open_files", words("disk memory"), words("disk memory")),
    Abuse("file_larger_than_one_may_be", causes=words("exited file_size")),
    Abuse("full_tmp", causes=words("disk exited")),
    Abuse("full_shm", causes=words("file_size disk exited")),
    Abuse("deep_directories", words("disk memory"), words("disk memory")),
    Abuse("endless_output", words("output"), words("output_limit")),
    Abuse("endless_errors", words("output"), words("output_limit")),
    Abuse("endless_output_by_many", causes=words("exited output_limit")),
    Abuse("busy", words("cpu"), words("cpu")),
    Abuse("busy_children", words("cpu"), words("cpu")),
    Abuse("busy_children_unheard", words("cpu"), words("cpu")),
    Abuse("opens_its_output", causes=words("exited"), says="opened /dev/stdout"),
    Abuse("many_open_files", causes=words("exited"), says="few: True"),
    Abuse("sleeps", says="up"),
    Abuse("ignores_sigterm", says="up"),
    Abuse("forks_at_sigterm", says="up"),
    Abuse("stops_itself", says="up"),
    Abuse("stops_its_group", says="up"),
    Abuse("closed_stdio"),
    Abuse("daemon", causes=words("exited"), says="left a daemon"),
    Abuse("background_child_with_stdout", causes=words("exited"), says="done"),
    Abuse("daemon_that_writes", causes=words("exited"), says="done"),
    Abuse("kills_everybody", causes=ENDS),
    Abuse("kills_its_parents", causes=words("timeout exited")),
    Abuse("stops_its_parents", causes=words("timeout exited")),
    Abuse("dies_of_a_signal", causes=words("signaled")),
    Abuse("parent_death_signal_off", causes=words("timeout exited")),
]
QUICK = words(
    "fork_bomb memory_in_many_processes memory_in_memfds memory_shared_by_processes one_large_file many_large_files "
    "removed_open_files endless_output busy ignores_sigterm forks_at_sigterm stops_its_group "
    "closed_stdio daemon background_child_with_stdout kills_everybody kills_its_parents"
)
"""Those that are tried without being asked for, as an unprivileged user."""
ALIKE = words(
    "one_large_file many_large_files endless_output closed_stdio stops_its_group forks_at_sigterm daemon "
    "kills_its_parents"
)
"""Those of QUICK that the same means stop in every place: behind Landlock they are left to ``make deep``."""
SOON_MS = {"busy_children_unheard": 20_000}
"""What sees too little ends it as well, but ten times as late."""
FEW_FORKS = words(
    "memory_in_many_processes memory_shared_by_processes ignores_sigterm stops_its_group closed_stdio daemon "
    "background_child_with_stdout daemon_that_writes kills_everybody kills_its_parents busy_children"
)
"""Those that need a few processes, whatever others of the same user do meanwhile."""
LIMITS = {"busy": {"cpu_time_s": 1}, "busy_children": {"cpu_time_s": 1}, "busy_children_unheard": {"cpu_time_s": 2}}


def is_quick(place: Place, abuse: Abuse) -> bool:
    """Whether it is tried without being asked for."""
    return abuse.name in QUICK and (place == STRICT or (place == FALLBACK and abuse.name not in ALIKE))


@cache
def program_text() -> str:
    return (Path(__file__).parent / "abuses.py").read_text()


class Nodes:
    """A node for each place, started when first asked for; a new one after one has died."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._nodes: dict[Place, Attacked] = {}

    def of(self, place: Place) -> Attacked:
        if place not in self._nodes or self._nodes[place].process.poll() is not None:
            self._nodes[place] = self._stack.enter_context(attacked(place))
        return self._nodes[place]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ExitStack() as stack:
        yield Nodes(stack)


def run(node: Attacked, abuse: Abuse) -> Result:
    """Longer and longer, until the abuse took effect: a loaded machine needs more time to start a program."""
    for timeout_ms in [SOON_MS.get(abuse.name, LONG_MS)] if abuse.patient else TIMES_MS:
        limits = {**(ROOM_FOR_OTHERS if abuse.name in FEW_FORKS else {}), **LIMITS.get(abuse.name, {})}
        result = node.run(python_command(program_text(), abuse.name), timeout_ms=timeout_ms, limits=limits)
        if abuse.says in result.outcome["stdout"] and (not abuse.named or named(result) & abuse.named):
            break
    return result


def named(result: Result) -> set[str]:
    return {*result.hit, result.cause}


def test_every_abuse_is_in_the_table() -> None:
    assert [abuse.name for abuse in TABLE] == list(ABUSES)


@pytest.mark.parametrize(
    ("place", "abuse"),
    [
        pytest.param(
            place,
            abuse,
            id=f"{place}-{abuse.name}",
            marks=() if is_quick(place, abuse) else pytest.mark.deep,
        )
        for place in PLACES
        for abuse in TABLE
    ],
)
def test_abuse_is_stopped(nodes: Nodes, place: Place, abuse: Abuse) -> None:
    node = nodes.of(place)

    result = run(node, abuse)

    assert result.cause in abuse.causes, result.outcome
    if not abuse.by_group or (place.user == "root" and place.mode == "bwrap"):
        assert not abuse.named or named(result) & abuse.named, result.outcome
    assert abuse.says in result.outcome["stdout"], result.outcome
    assert result.state == node.state
    assert result.outcome["sandbox"] == place.mode
