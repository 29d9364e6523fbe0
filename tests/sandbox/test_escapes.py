"""Nothing gets out: attempts in every sandbox of this machine, as root and as an unprivileged user."""

from __future__ import annotations

import functools
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.escapes import files, privileges, processes, program, sockets
from tests.sandbox.escapes.kit import ALONE, ESCAPES
from tests.sandbox.host import (
    FALLBACK,
    OPEN,
    PLACES,
    ROOM_FOR_OTHERS,
    STRICT,
    Attacked,
    Place,
    attacked,
    python_command,
)

CHAPTERS = ("kit", "files", "processes", "sockets", "privileges", "program")
assert {files, privileges, processes, program, sockets}, "imported for their probes"


@functools.cache
def program_text() -> str:
    """The chapters as one program on the standard library alone."""
    directory = Path(__file__).parent / "escapes"
    text = "\n".join((directory / f"{name}.py").read_text() for name in CHAPTERS)
    text = re.sub(r"^from (__future__|tests\.[\w.]+) import (\([^)]*\)|.*)$", "", text, flags=re.MULTILINE)
    return "from __future__ import annotations\n" + text


def tried(node: Attacked, names: list[str]) -> dict[str, Any]:
    order = json.dumps({"names": names, "host": node.host})
    result = node.run(python_command(program_text(), order), timeout_ms=60_000, limits=ROOM_FOR_OTHERS)
    assert result.outcome["exit_code"] == 0, result.outcome
    assert result.state == node.state, names
    found: dict[str, Any] = json.loads(result.outcome["stdout"])
    return found


class Found:
    """What the probes made of each place; tried when first asked for, all together."""

    def __init__(self) -> None:
        self._found: dict[Place, dict[str, Any]] = {}
        self._failed: dict[Place, BaseException] = {}

    def of(self, place: Place, name: str) -> dict[str, Any]:
        if place not in self._found and place not in self._failed:
            try:
                with attacked(place) as node:
                    found = tried(node, [one for one in ESCAPES if one not in ALONE])
                    for one in sorted(ALONE):
                        found |= tried(node, [one])
                    self._found[place] = found
            except (AssertionError, pytest.skip.Exception) as error:
                self._failed[place] = error
        if place in self._failed:
            raise self._failed[place]
        result: dict[str, Any] = self._found[place][name]
        return result


@pytest.fixture(scope="module")
def found() -> Found:
    return Found()


KNOWN: dict[tuple[str, str, str], set[str]] = {
    # The network of the host, with all that it holds: what the operator allows by this profile.
    ("bwrap", "network", "loopback_tcp"): {"127.0.0.1", "a mapped address"},
    ("bwrap", "network", "loopback_udp"): {"127.0.0.1"},
    ("bwrap", "network", "other_networks"): {"a route", "serving"},
    # Landlock has no namespaces: uname(2) tells the host's name.
    ("landlock", "strict", "clock_and_names"): {"own host's name"},
}
"""What a place does not keep in, by mode, profile and probe. docs/SECURITY.md says so, too."""


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(place, id=str(place), marks=() if place in (STRICT, FALLBACK) else pytest.mark.deep)
        for place in PLACES
    ],
)
def test_nothing_gets_out(found: Found, place: Place, name: str) -> None:
    result = found.of(place, name)

    assert set(result["out"]) == KNOWN.get((place.mode, place.profile, name), set())
    assert result["attempts"] > 0


HARMLESS_OUTSIDE = {
    # Without privileges these fail anywhere, and show only that a sandbox gives none.
    "mounts",
    "device_nodes",
    "terminal_input",
    "launcher_overwritten",
    "environment_of_the_launcher",
    "inherited_descriptors",
    "own_limits_raised",
    "system_v_objects_left",
    "signals_to_everybody",
}


@pytest.mark.deep
def test_without_a_sandbox_attacks_work() -> None:
    """Or the refusals above would prove nothing."""
    with attacked(OPEN) as node:
        for name in [one for one in ESCAPES if one not in ALONE]:
            order = json.dumps({"names": [name], "host": node.host})
            result = node.run(python_command(program_text(), order), restore=True)
            assert result.outcome["stdout"], f"{name}: {json.dumps(result.outcome)}"
            found = json.loads(result.outcome["stdout"])[name]
            assert found["out"] or name in HARMLESS_OUTSIDE, name
        for path in Path("/var/tmp").glob("crabnet-probe-*"):
            with suppress(PermissionError):  # of another user
                path.unlink()
        assert result.state is not None
        changed = {part for part, before in node.state.items() if result.state[part] != before}
    assert {"key", "data", "signals", "priority", "system v"} <= changed
