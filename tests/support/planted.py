"""Mistakes planted in a core; ``python -m tests.support.planted MISTAKE …`` is the command line with one in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import MethodType

from crabnet.cli.main import main
from crabnet.core.core import Core
from crabnet.core.mending import Part
from crabnet.core.replica import applied
from crabnet.domain.model import Seed
from crabnet.domain.state import SeedEvent, State, apply
from crabnet.storage.ledger import Ledger

TITLE = "poison"
"""How the titles of seeds begin that a planted mistake concerns."""


def part_of(core: Core, part: Part) -> object:
    """The object that is this part of a core at the moment."""
    return core.mending.parts()[part]


def plant(core: Core, part: Part, call: str) -> None:
    """From now on this call fails, until the part is made anew."""

    def broken(self: object, *_: object, **__: object) -> None:
        raise ZeroDivisionError(f"{type(self).__name__}.{call}")

    found = part_of(core, part)
    setattr(found, call, MethodType(broken, found))


def applying() -> None:
    """Such a seed is applied half."""

    def half(state: State, event: SeedEvent) -> None:
        apply(state, event)
        if event.fact is not None and isinstance(event.fact.body, Seed) and event.fact.body.title.startswith(TITLE):
            raise ZeroDivisionError("planted")

    applied.apply = half  # type: ignore[attr-defined]


def committing() -> None:
    """A frame that holds such a seed cannot be written."""
    append = Ledger.append

    def failing(self: Ledger, payload: bytes) -> object:
        if f'"title":"{TITLE}'.encode() in payload:
            raise ZeroDivisionError("planted")
        return append(self, payload)

    Ledger.append = failing  # type: ignore[assignment, method-assign]


MISTAKES: dict[str, Callable[[], None]] = {"applying": applying, "committing": committing}

if __name__ == "__main__":
    MISTAKES[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]) or os.EX_OK)
