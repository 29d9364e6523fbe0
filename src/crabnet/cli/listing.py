"""How lists are shown: as a table on a terminal, as plain lines elsewhere, or as ids alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from crabnet.cli.context import State
from crabnet.cli.output import note, write
from crabnet.cli.tables import Cell, Column, colours, columns_of_terminal, is_terminal, render
from crabnet.plain import plain


class Row(NamedTuple):
    """One entry of a list: its id, its plain line, and its cells for a table."""

    id: str
    line: str
    cells: Sequence[Cell]


def is_wide(state: State) -> bool:
    """Whether a table with whole ids and all columns is wanted."""
    return state.form == "wide"


def as_table(state: State) -> bool:
    """Whether a list is shown as a table: if that was asked for, or on a terminal if nothing was."""
    return state.form in {"table", "wide"} or (state.form is None and is_terminal(sys.stdout))


def write_rows(state: State, columns: Sequence[Column], rows: Sequence[Row], nothing: str) -> None:
    """Write a list for people. ``nothing`` is said on a terminal if it is empty."""
    if state.ids_only:
        write("".join(f"{plain(row.id)}\n" for row in rows))
    elif not as_table(state):
        write("".join(f"{row.line}\n" for row in rows))
    elif rows:
        width = None if is_wide(state) else columns_of_terminal()
        write(render(columns, [row.cells for row in rows], width=width, colour=colours(sys.stdout)))
    elif is_terminal(sys.stdout):
        note(nothing)
