"""What ``crabnet listen`` writes: the addresses to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import Final

import click

from crabnet.cli.context import State, write_object
from crabnet.cli.output import note_at_once, write
from crabnet.cli.reachable import join_line, own_addresses
from crabnet.errors import CrabnetError, principal
from crabnet.monitor.operator_log import OperatorLog
from crabnet.monitor.sentences import Level
from crabnet.plain import plain

_LISTENING: Final = "listen started on "


def listen_until_ended(state: State) -> None:
    """Run the node with a log in the format of the settings. Raises what ``run_node`` raises.

    With ``log_format = json`` the error that ends the node is an object like all other lines, too.
    """
    from crabnet.node.run import run_node

    settings = state.settings
    as_json = settings.log_format == "json"
    log = OperatorLog(
        note_at_once, _now_ms, level=Level(settings.log_level), as_json=as_json, stamped=not _reader_stamps()
    )
    try:
        run_node(settings, log, _listening(log, as_json=as_json, only_address=state.json))
    except (CrabnetError, BaseExceptionGroup) as error:
        first = principal(error)
        if not as_json or not isinstance(first, CrabnetError):
            raise
        log.say(first.message, "ended", Level.ERROR, {"reason": first.reason.value})
        raise click.exceptions.Exit(int(first.exit_code)) from None


def _listening(log: OperatorLog, *, as_json: bool, only_address: bool) -> Callable[[str], None]:
    """Writes the line that scripts wait for. A closed stdout does not end the node."""

    def listening(address: str) -> None:
        text = _LISTENING + address
        told = join_line(address, own_addresses)
        with contextlib.suppress(OSError, ValueError, CrabnetError):
            if only_address:
                write_object({"listening": address})
            elif as_json:
                write(log.line(text, "listen_started", Level.INFO, {"address": address}))
            else:
                write(plain(text) + "\n")
        if told:
            log.say(told, "join", Level.INFO, {"address": address})

    return listening


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _reader_stamps() -> bool:
    """True if whoever reads stderr sees the time anyway: a person at a terminal, or the journal of systemd."""
    if sys.stderr is None:
        return False
    try:
        if sys.stderr.isatty():
            return True
        found = os.fstat(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
