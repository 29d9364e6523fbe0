"""Tables and colours for terminals. Widths count columns of the terminal, not characters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, TextIO

from crabnet.plain import plain

_COLUMNS: Final = 80
_GAP: Final = "  "
_CUT: Final = "…"
_CUT_ASCII: Final = "~"
_CELL_CHARS_MAX: Final = 1_000
_ID_CHARS: Final = 8
_NODE_ID_CHARS: Final = 40
"""Ids of nodes are longer than this. They all begin alike, so their ends tell them apart."""
_RESET: Final = "\x1b[0m"


class Style(StrEnum):
    """What a cell means, as the colour that shows it (ECMA-48, SGR)."""

    NONE = ""
    GOOD = "\x1b[32m"
    WAITS = "\x1b[36m"
    NEEDS_YOU = "\x1b[1;33m"
    BAD = "\x1b[31m"
    OVER = "\x1b[2m"
    TITLE = "\x1b[1m"


class Cell(NamedTuple):
    """Text of a row, and how it looks."""

    text: str
    style: Style = Style.NONE


class Column(NamedTuple):
    """A column: ``rank`` 0 stays longest when there is no room. ``least`` is the narrowest useful width."""

    title: str
    rank: int
    least: int = 0
    """0: as wide as its widest cell, never cut while it is shown."""
    right: bool = False


def is_terminal(stream: TextIO | None) -> bool:
    """Whether people look at a stream."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def colours(stream: TextIO | None) -> bool:
    """Whether to use colours: on a terminal that has some, unless NO_COLOR is set (no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in {"dumb", ""}


def columns_of_terminal() -> int:
    """The width of the terminal: that of ``COLUMNS``, else that of stdout, else 80."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ is not None else -1).columns or _COLUMNS
    except (AttributeError, OSError, ValueError):  # closed, or no terminal
        return _COLUMNS


def painted(text: str, style: Style, *, colour: bool) -> str:
    """A text in the colour of a style."""
    return f"{style.value}{text}{_RESET}" if colour and style is not Style.NONE else text


def short_id(text: str) -> str:
    """An id as tables show it: its first eight characters, or the last eight of a node's. Commands understand both."""
    text = plain(text)
    return f"{_CUT}{text[-_ID_CHARS:]}" if len(text) > _NODE_ID_CHARS else text[:_ID_CHARS]


def render(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, width: int | None, colour: bool) -> str:
    """A table with a head. With ``width`` no line is wider: columns of high rank are left out, and texts are cut.

    Text of strangers is made harmless and stays on one line.
    """
    shown = [[Cell(_shown(cell.text), cell.style) for cell in row] for row in rows]
    natural = [
        max([width_of(column.title), *(width_of(row[at].text) for row in shown)]) for at, column in enumerate(columns)
    ]
    kept = list(range(len(columns)))
    if width is not None:
        while len(kept) > 1 and _least(columns, natural, kept) > width:
            kept.remove(max(kept, key=lambda at: columns[at].rank))
    widths = _shared(columns, natural, kept, width)
    head = [Cell(column.title, Style.TITLE) for column in columns]
    lines = (_line([row[at] for at in kept], [columns[at] for at in kept], widths, colour) for row in [head, *shown])
    return "".join(f"{line}\n" for line in lines)


def _least(columns: Sequence[Column], natural: Sequence[int], kept: Iterable[int]) -> int:
    widths = [min(columns[at].least or natural[at], natural[at]) for at in kept]
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _shared(columns: Sequence[Column], natural: Sequence[int], kept: Sequence[int], width: int | None) -> list[int]:
    """Widths of the columns that are kept: what is left goes to those that were cut, the lowest rank first."""
    if width is None:
        return [natural[at] for at in kept]
    found = {at: min(columns[at].least or natural[at], natural[at]) for at in kept}
    left = width - sum(found.values()) - len(_GAP) * (len(kept) - 1)
    for at in sorted(kept, key=lambda at: columns[at].rank):
        more = max(min(left, natural[at] - found[at]), min(left, 0))
        found[at] = max(1, found[at] + more)
        left -= max(0, more)
    return [found[at] for at in kept]


def _line(cells: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int], colour: bool) -> str:
    parts: list[str] = []
    for at, (cell, column, width) in enumerate(zip(cells, columns, widths, strict=True)):
        text = cut_to(cell.text, width)
        space = " " * (width - width_of(text))
        last = at == len(cells) - 1
        shown = painted(text, cell.style, colour=colour)
        parts.append(space + shown if column.right else shown if last else shown + space)
    return _GAP.join(parts).rstrip()


def _shown(text: str) -> str:
    """Text of strangers for one cell: harmless, and without the marks that only choose between two looks."""
    text = plain(text[:_CELL_CHARS_MAX])
    if text.isascii():
        return text
    text = "".join(char for char in text if not "\ufe00" <= char <= "\ufe0f")
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def cut_to(text: str, columns: int) -> str:
    """A text that takes at most ``columns``. One that was cut ends with an ellipsis."""
    if width_of(text) <= columns:
        return text
    mark = _CUT
    try:
        mark.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        mark = _CUT_ASCII
    return fit(text, columns - 1) + mark if columns > 0 else ""


def fit(text: str, columns: int, *, pad: bool = False) -> str:
    """The beginning of a text that takes at most ``columns`` on a terminal. With ``pad`` it takes exactly so many."""
    taken, used = [], 0
    for char in text:
        width = _width(char)
        if used + width > columns:
            break
        taken.append(char)
        used += width
    return "".join(taken) + " " * (columns - used if pad else 0)


def width_of(text: str) -> int:
    """How many columns a text takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(char: str) -> int:
    """Columns of a character. Marks that sit on the character before them take none (Unicode, UAX 11)."""
    import unicodedata  # a large one, and most texts do without it

    if unicodedata.category(char) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1
