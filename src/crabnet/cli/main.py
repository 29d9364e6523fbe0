"""Entry point of ``crabnet``: the fast path, and the only place where errors become a line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from crabnet.signals import HELD

if TYPE_CHECKING:
    from crabnet.errors import CrabnetError

_EXIT_PIPE: Final = 141
"""The exit code that a shell reports for a program that SIGPIPE ended (128 + 13)."""
_EXIT_INTERRUPTED: Final = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (``crabnet.errors.ExitCode``); never raises, never prints a traceback.

    With ``CRABNET_DEBUG=1`` the traceback of an unexpected exception follows its line. Without ``argv`` the process
    ends after this call. Therefore it ignores signals that ask it to end from then on.
    """
    HELD.hold()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    try:
        code = _flushed(_interruptible(arguments), arguments)
        if argv is None:
            HELD.ignore()
        else:
            HELD.release()
        return code
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _interruptible(arguments: list[str]) -> int:
    try:
        if arguments in (["--version"], ["-V"]):
            return _version(arguments)
        return _run(arguments)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        return _EXIT_PIPE


def _version(arguments: list[str]) -> int:
    """Print the version without the modules that other commands need to print something."""
    from crabnet._version import __version__

    try:
        if sys.stdout is not None:
            sys.stdout.write(f"crabnet {__version__}\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        return _report_unwritable(error, arguments)
    return 0


def _run(arguments: list[str]) -> int:
    from crabnet.collector import tune_collector
    from crabnet.errors import CrabnetError, principal

    tune_collector()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _invoke(arguments)
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - the outermost frame: every error becomes one line
        first = principal(error)
        if isinstance(first, KeyboardInterrupt | BrokenPipeError):
            raise first from None
        if isinstance(first, CrabnetError):
            return _report(first, arguments)
        code = _report(_unexpected(first), arguments)
        _traceback()
        return code


def _flushed(code: int, arguments: list[str]) -> int:
    """The exit code after the last output. Output that cannot be written is discarded, or Python would complain."""
    error = _flush_error()
    if error is not None:
        if isinstance(error, BrokenPipeError):
            code = code or _EXIT_PIPE
        elif code == 0:
            code = _report_unwritable(error, arguments)
        _discard(1)
    if sys.stderr is not None:
        try:
            sys.stderr.flush()
        except (OSError, ValueError):
            _discard(2)
    return code


def _report_unwritable(error: OSError, arguments: list[str]) -> int:
    from crabnet.cli.output import unwritable

    return _report(unwritable(error), arguments)


def _flush_error() -> OSError | None:
    """The error because of which buffered output of stdout cannot be written."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError as error:
            return error
        except ValueError:  # closed
            pass
    return None


def _invoke(arguments: list[str]) -> int:
    import click

    from crabnet.cli.context import State
    from crabnet.cli.group import cli, command_path
    from crabnet.cli.options import said_by_click
    from crabnet.errors import Reason, UsageError

    if "_CRABNET_COMPLETE" in os.environ:
        from crabnet.cli.completion import complete

        complete(cli)
        return 0
    try:
        with cli.make_context("crabnet", list(arguments), obj=State(arguments)) as context:
            cli.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        raise UsageError(said_by_click(error, command_path(arguments)), Reason.INVALID_ARGUMENT) from None
    return 0


def _unexpected(error: BaseException) -> CrabnetError:
    from crabnet.errors import CrabnetError

    hint = "" if _debug() else "; set CRABNET_DEBUG=1 to see the traceback"
    return CrabnetError(f"unexpected {type(error).__name__}: {error}{hint}")


def _report(error: CrabnetError, arguments: list[str]) -> int:
    """One line on stderr: for people, or with ``--json`` an object. On a terminal a hint may follow."""
    from crabnet.cli.output import json_line, structured
    from crabnet.control.client import error_to_json

    line = json_line({"error": error_to_json(error)}) if structured(arguments) else _error_line(error)
    if sys.stderr is not None:
        try:
            sys.stderr.write(line)
            sys.stderr.flush()
        except OSError:
            pass  # Nobody reads it. The exit code still reports the error.
    return int(error.exit_code)


def _error_line(error: CrabnetError) -> str:
    """One line. On a terminal, candidates for an id have a line each, and a hint may follow."""
    from crabnet.cli.advice import local_times, remedy_for
    from crabnet.cli.output import AmbiguousError
    from crabnet.cli.tables import Style, colours, is_terminal, painted
    from crabnet.plain import plain

    message = plain(local_times(error.message))
    if isinstance(error, AmbiguousError) and is_terminal(sys.stderr):
        message = "\n  ".join(map(plain, [error.told, *error.candidates]))
    head = painted("error:", Style.BAD, colour=colours(sys.stderr))
    hint = remedy_for(error) if is_terminal(sys.stderr) else ""
    return f"{head} {error.reason.value}: {message}\n" + (f"hint: {hint}\n" if hint else "")


def _debug() -> bool:
    return os.environ.get("CRABNET_DEBUG") == "1"


def _traceback() -> None:
    if _debug():
        import traceback

        traceback.print_exc()


def _discard(fd: int) -> None:
    """Discard what a stream still holds."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, fd)
    os.close(sink)
