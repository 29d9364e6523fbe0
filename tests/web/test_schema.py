"""Schemathesis over the whole API of a real node: no server error, and no answer that the OpenAPI document lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crabnet.operations.model import Scope
from tests.support.nodes import Nodes, environment
from tests.web.support import Web, start

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"
ENDLESS = "watch|stream"
"""Paths whose answers do not end."""
ENDING = "drain|stop|shutdown"
"""Paths that end the node."""
OWN = "ignored_auth"
"""This check takes 429 after many wrong tokens for a hole. ``test_api`` tests rights for each operation instead."""


def run(web: Web, scope: Scope | None, *words: str) -> None:
    """Run schemathesis. Fails with its report if it finds anything."""
    token = [] if scope is None else ["--header", f"X-Api-Token: {web.token(scope)}"]
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("st")), "run", str(DOCUMENT)),
            *("--url", f"http://{web.host}:{web.port}", "--exclude-path-regex", f"{ENDLESS}|{ENDING}"),
            *("--exclude-checks", OWN, "--continue-on-failure", "--no-color", "--suppress-health-check", "all"),
            *("--generation-database", "none", "--seed", "11", *token, *words),
        ],
        capture_output=True, text=True, check=False, cwd=web.node.data_dir, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    assert web.node.events("child_failed") == []
    assert "web: unexpected" not in web.node.errors()


@pytest.mark.deep
def test_a_short_look(nodes: Nodes) -> None:
    web = start(nodes, "n", "--web-requests-per-sec", "0")
    run(web, Scope.ADMIN, "--phases", "examples,fuzzing", "--max-examples", "4")


@pytest.mark.deep
@pytest.mark.parametrize("scope", [None, *Scope], ids=lambda each: "none" if each is None else each.value)
def test_a_long_look(nodes: Nodes, scope: Scope | None) -> None:
    web = start(nodes, "n", "--web-requests-per-sec", "0")
    run(web, scope, "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "40")
