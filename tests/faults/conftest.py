"""Real nodes for each test, gone after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import Nodes


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """A maker of nodes in the test's own directory."""
    made = Nodes(tmp_path)
    yield made
    made.close()
