"""Fixtures for tests of data dirs at rest."""

from __future__ import annotations

import pytest

from crabnet.node.node import Node
from crabnet.node.operations.importing import import_entries
from crabnet.protocol.envelope import Kind
from tests.operator.fsckable import (
    Made,
    own_job,
    seeds_of,
)
from tests.operator.support import work
from tests.support.envelopes import Author


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    data_dir = tmp_path_factory.mktemp("fsck") / "data"
    for number in range(4):
        stranger = Author(f"stranger {number}")

        async def session(node: Node, author: Author = stranger) -> None:
            raws = [author.say(Kind.SEED_CREATED, {"seed": author.seed()}).raw for _ in range(2)]
            for raw in raws:
                await import_entries(node, [raw], [])

        work(data_dir, session)
    work(data_dir, own_job)
    return Made(data_dir, seeds_of(data_dir))
