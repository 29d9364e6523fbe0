"""``crabnet top``: a live view of the running node on a terminal. Elsewhere it prints one picture."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

import click
import msgspec

from crabnet.cli.context import State, state_of, write_object
from crabnet.cli.options import Command
from crabnet.cli.output import write
from crabnet.cli.tables import fit
from crabnet.cli.top_view import Screen, View, picture
from crabnet.cli.values import duration_option
from crabnet.control.client import JsonValue, call
from crabnet.errors import CrabnetError
from crabnet.operations.info import Status
from crabnet.operations.network import Sync, Topology
from crabnet.operations.seeds import RunList
from crabnet.plain import plain

_ENTER: Final = "\x1b[?1049h\x1b[?25l"
"""Switch to the other screen, hide the cursor."""
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_QUIT: Final = frozenset(b"qQ\x03\x04")
_FOOT: Final = "q quits"


@click.command("top", cls=Command)
@duration_option("--interval", ms_min=100, ms_max=3_600_000, default=1_000, help_text="Time between two looks.")
@click.option("--once", is_flag=True, help="Print one picture and end, also on a terminal.")
@click.pass_context
def top(context: click.Context, interval_ms: int, once: bool) -> None:
    """Show peers, queues, runs and rates of the running node, again and again until q or Ctrl-C.

    If standard output is no terminal, it prints one picture and ends.
    """
    state = state_of(context)
    if state.json:
        answers = _ask(state)
        write_object(answers)
        return
    if once or not _is_terminal():
        first = _look(state)
        time.sleep(interval_ms / 1000)
        size = shutil.get_terminal_size()
        screen = Screen(size.columns, 10_000 if not _is_terminal() else size.lines)
        write("".join(f"{line.rstrip()}\n" for line in picture(_look(state), first, screen)))
        return
    with _drawing():
        _draw_until_quit(state, interval_ms)


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _ask(state: State) -> dict[str, JsonValue]:
    """The answers that a picture needs, by operation. Raises CrabnetError."""
    settings = state.settings
    return {
        method: call(settings.data_dir, method, {}, settings.control_timeout_ms)
        for method in ("status", "topology", "sync", "run.list")
    }


def _look(state: State) -> View:
    answers = _ask(state)
    try:
        return View(
            time.monotonic(),
            msgspec.convert(answers["status"], Status),
            msgspec.convert(answers["topology"], Topology),
            msgspec.convert(answers["sync"], Sync),
            msgspec.convert(answers["run.list"], RunList),
        )
    except msgspec.ValidationError as error:
        raise CrabnetError(f"the node's answer is not understood: {error}; is it of the same version?") from error


def _draw_until_quit(state: State, interval_ms: int) -> None:
    before: View | None = None
    while True:
        size = shutil.get_terminal_size()
        screen = Screen(size.columns, max(1, size.lines - 1))
        try:
            view = _look(state)
            lines, before = picture(view, before, screen), view
        except CrabnetError as error:
            lines, before = [fit(plain(error.message), screen.columns)], None
        drawn = "".join(f"{line}\x1b[K\n" for line in lines)
        write(f"\x1b[H{drawn}\x1b[J{fit(_FOOT, screen.columns)}")
        if _quits(interval_ms):
            return


def _quits(wait_ms: int) -> bool:
    """Wait for a key. True if it is one that quits, or if nobody can press one any more."""
    deadline = time.monotonic() + wait_ms / 1000
    while (left := deadline - time.monotonic()) > 0:
        if sys.stdin is None or not sys.stdin.isatty():
            time.sleep(left)
            return False
        if not select.select([sys.stdin], [], [], left)[0]:
            return False
        keys = os.read(sys.stdin.fileno(), 64)
        if not keys or _QUIT.intersection(keys):
            return True
    return False


@contextmanager
def _drawing() -> Iterator[None]:
    """A terminal in which single keys are read. It is as before afterwards, whatever ends the block."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    fd = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else -1
    saved = termios.tcgetattr(fd) if fd >= 0 else None
    earlier = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        if fd >= 0:
            tty.setcbreak(fd)
        write(_ENTER)
        yield
    finally:
        with suppress(OSError, CrabnetError):
            write(_LEAVE)
        if saved is not None:
            with suppress(termios.error):
                termios.tcsetattr(fd, termios.TCSADRAIN, saved)
        for number, handler in earlier.items():
            signal.signal(number, handler)
