"""Checks of the configuration, for ``crabnet config verify`` and ``--verify-config``."""

from __future__ import annotations

from crabnet.cli.context import State, write_object
from crabnet.cli.output import as_text, write
from crabnet.control.client import JsonValue


def check_line(row: JsonValue) -> str:
    """A finding for people: the verdict, what was checked and found, and what to do."""
    remedy = as_text(row, "remedy")
    shown = f" -> {remedy}" if remedy and remedy not in as_text(row, "detail") else ""
    return f"{as_text(row, 'verdict'):<8} {as_text(row, 'name')}: {as_text(row, 'detail')}{shown}\n"


def check_config(state: State) -> None:
    """Print one line per check. Raises the CrabnetError of the first check that failed."""
    settings = state.settings
    import msgspec

    from crabnet.operator.check import failure, row_of
    from crabnet.operator.verify_config import verify_config
    from crabnet.storage.files import RealFiles

    checks = verify_config(settings, RealFiles())
    error = failure(checks)
    rows: list[JsonValue] = [msgspec.to_builtins(row_of(check)) for check in checks]
    if state.json:
        write_object({"ok": error is None, "checks": rows})
    else:
        for row in rows:
            write(check_line(row))
    if error is not None:
        raise error
