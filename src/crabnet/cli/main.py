"""Entry point of ``crabnet``: the fast path, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from crabnet.errors import CrabnetError

_EXIT_PIPE: Final = 141
"""What a shell reports for a program that SIGPIPE ended (128 + 13)."""
_EXIT_INTERRUPTED: Final = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (``crabnet.errors.ExitCode``); never raises, never prints a traceback.

    With ``CRABNET_DEBUG=1`` an unexpected exception shows its traceback behind its line.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments in (["--version"], ["-V"]):
            from crabnet._version import __version__

            sys.stdout.write(f"crabnet {__version__}\n")
            sys.stdout.flush()
            return 0
        return _run(arguments)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return _EXIT_PIPE


def _run(arguments: list[str]) -> int:
    from crabnet.errors import CrabnetError

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _invoke(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except CrabnetError as error:
        return _report(error, arguments)
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - the outermost frame: all becomes one line
        known = _known(error)
        if isinstance(known, CrabnetError):
            return _report(known, arguments)
        if known is not None:
            raise known from None
        code = _report(_unexpected(error), arguments)
        _traceback()
        return code


def _invoke(arguments: list[str]) -> int:
    import click

    from crabnet.cli.group import cli
    from crabnet.cli.options import State
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
        raise UsageError(f"{error.format_message()} See crabnet --help.", Reason.INVALID_ARGUMENT) from None
    return 0


def _known(error: BaseException) -> BaseException | None:
    """The error, also in a group from concurrent tasks, that says by itself what happened; None: it is unexpected."""
    from crabnet.errors import CrabnetError

    if isinstance(error, BaseExceptionGroup):
        found = [_known(inner) for inner in error.exceptions]
        interrupts = [inner for inner in found if isinstance(inner, KeyboardInterrupt)]
        return interrupts[0] if interrupts else None if None in found else found[0]
    return error if isinstance(error, CrabnetError | KeyboardInterrupt | BrokenPipeError) else None


def _unexpected(error: BaseException) -> CrabnetError:
    from crabnet.errors import CrabnetError

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]

    hint = "" if _debug() else "; CRABNET_DEBUG=1 shows where"
    return CrabnetError(f"unexpected {type(error).__name__}: {error}{hint}")


def _report(error: CrabnetError, arguments: list[str]) -> int:
    """One line on stderr: for people, or with ``--json`` an object."""
    from crabnet.cli.output import json_line, plain
    from crabnet.control.client import error_to_json

    if "--json" in arguments:
        line = json_line({"error": error_to_json(error)})
    else:
        line = f"error: {error.reason.value}: {plain(error.message)}\n"
    if sys.stderr is not None:
        try:
            sys.stderr.write(line)
            sys.stderr.flush()
        except OSError:
            pass  # Nobody reads it; the exit code still tells.
    return int(error.exit_code)


def _debug() -> bool:
    return os.environ.get("CRABNET_DEBUG") == "1"


def _traceback() -> None:
    if _debug():
        import traceback

        traceback.print_exc()


def _discard_stdout() -> None:
    """Keep the interpreter from complaining about the closed pipe when it flushes at its end."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.close(sink)
