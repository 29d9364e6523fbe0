"""One line on a terminal that says how far a purchase is."""

from __future__ import annotations

import os
import sys
import time
from typing import Final

from crabnet.cli.tables import cut_to, width_of
from crabnet.control.client import JsonValue
from crabnet.plain import plain

_WIDTH_DEFAULT: Final = 80
_NODE_ID_SHOWN: Final = 4
_ECHO_COLUMNS: Final = 2
"""Of the ``^C`` that a terminal writes behind the line."""


class ProgressLine:
    """A line that is rewritten in place, cut to the width of the terminal. Nothing if ``shown`` is false."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._last: dict[str, JsonValue] = {}
        self._written = 0

    def show(self, purchase: dict[str, JsonValue]) -> None:
        """Show another view of the purchase."""
        self._last = purchase
        self.again()

    def again(self) -> None:
        """Write the line again: time has passed."""
        if self._shown and self._last:
            self._write(fitting(parts(self._last, time.time()), max(1, _width() - 1)))

    def clear(self) -> None:
        """Remove the line."""
        if self._written:
            width = min(self._written + _ECHO_COLUMNS, max(1, _width() - 1))
            self._put(f"\r{' ' * width}\r")
            self._written = 0

    def _write(self, text: str) -> None:
        columns = width_of(text)
        before, self._written = self._written, max(self._written, columns)  # first: Ctrl-C may come in the middle
        self._put(f"\r{text}{' ' * max(0, before - columns)}")

    def _put(self, text: str) -> None:
        if sys.stderr is not None:
            try:
                sys.stderr.write(text)
                sys.stderr.flush()
            except (OSError, ValueError):
                self._shown = False


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _WIDTH_DEFAULT
    except (AttributeError, OSError, ValueError):
        return _WIDTH_DEFAULT


def fitting(told: list[str], columns: int) -> str:
    """As many of the last parts as fit; the last one is cut if it does not fit alone."""
    while len(told) > 1 and width_of("; ".join(told)) > columns:
        told = told[1:]
    return cut_to("; ".join(told), columns)


def parts(purchase: dict[str, JsonValue], now_s: float) -> list[str]:
    """How far a purchase is: what was, then what is waited for, and until when."""
    stage, heard, bids = purchase.get("stage"), _number(purchase, "heard_by"), _number(purchase, "bids")
    told = [f"published, heard by {max(heard, bids)}"]
    if _number(purchase, "tries") > 1:
        told.insert(0, f"try {purchase['tries']}")
    if bids:
        told.append(f"{bids} {'bid' if bids == 1 else 'bids'}")
    if stage == "published":
        said = str(purchase.get("detail") or "").partition(": ")[2]
        told += [plain(said)] if said else []
        told.append(f"no bid yet{_left(purchase, now_s)}")
    elif stage == "bids":
        told.append(f"choosing{_left(purchase, now_s)}")
    else:
        worker, price = plain(str(purchase.get("worker") or "")), purchase.get("price")
        if len(worker) > 2 * _NODE_ID_SHOWN:
            worker = f"{worker[:_NODE_ID_SHOWN]}..{worker[-_NODE_ID_SHOWN:]}"
        told.append(f"awarded to {worker} for {price}")
        since_s = max(0, round(now_s - _number(purchase, "since_ts")))
        doing = {"awarded": f"waiting for its start{_left(purchase, now_s)}", "running": f"running for {since_s} s"}
        doing |= {"judging": "judging the result", "settled": "done", "asks": "done, to be settled"}
        told.append(doing.get(str(stage), str(stage)))
    return told


def _left(purchase: dict[str, JsonValue], now_s: float) -> str:
    until_ms = purchase.get("until_ms")
    if not isinstance(until_ms, int):
        return ""
    return f" ({max(0, round(until_ms / 1000 - now_s))} s left)"


def _number(members: dict[str, JsonValue], name: str) -> int:
    value = members.get(name)
    return value if isinstance(value, int) else 0
