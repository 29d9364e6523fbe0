"""Whatever makes room does so by the one rule of ``BoundedTable``, or stands here with its reason."""

from __future__ import annotations

import ast
from typing import Final

from tests.support.source import modules

BY_HAND: Final = {
    "bounded.py": "the class itself",
    "core/replica/parking.py": "shares for known authors and newcomers",
    "core/replica/snapshot.py": "works off what is not hashed yet",
    "core/sync/planner.py": "shares for those who tell of feeds",
    "core/trading/histories.py": "works off what is not counted yet",
    "domain/state.py": "works off what is not hashed yet",
    "monitor/segment.py": "the end of an iterator",
    "node/durable/indexing.py": "frames in use by one reader, at least one of them",
    "node/execution/turns.py": "a queue that refuses and forgets nothing",
    "node/quarantine.py": "files, by their number and their bytes; they are on the disk",
    "p2p/discovery.py": "the first of a list",
    "p2p/scoring.py": "tables of libp2p's own",
    "protocol/fragments.py": "shares for sources and groups of sources",
    "runner/supervisor/cgroup.py": "the first of a list",
    "settings/toml_edit.py": "the only key of a document",
}
"""Modules that make room, or seem to, in another way, and why."""


def makes_room_by_hand(tree: ast.Module) -> bool:
    """True if a module does what evicting takes: the order of an OrderedDict, or the first of a dict."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id="OrderedDict") | ast.Attribute(attr="popitem" | "move_to_end" | "OrderedDict"):
                return True
            case ast.Call(func=ast.Name(id="next"), args=[ast.Call(func=ast.Name(id="iter")), *_]):
                return True
            case _:
                pass
    return False


def test_no_table_makes_room_by_hand() -> None:
    assert {name for name, tree in modules() if makes_room_by_hand(tree)} == set(BY_HAND)
