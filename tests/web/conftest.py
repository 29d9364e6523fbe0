"""One node with a web process for the tests of a module that change nothing that others notice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import Nodes
from tests.web.support import Web, start


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """A maker of nodes in the test's own directory."""
    made = Nodes(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A node and its web process."""
    made = Nodes(tmp_path_factory.mktemp("web"))
    yield start(made, "n", "--web-requests-per-sec", "0")
    made.close()
