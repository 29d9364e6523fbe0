"""The accounts of authors: nodes that hold the same derive the same, and what workers earn is what buyers spend."""

from __future__ import annotations

from collections.abc import Sequence

from tests.sim.trade.checks import Honesty
from tests.sim.world import SimNode


def compare_accounts(nodes: Sequence[SimNode], honesty: Honesty) -> None:
    """Raises ViolationError."""
