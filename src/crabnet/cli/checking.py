"""Checks of the configuration, for ``crabnet config verify`` and ``--verify-config``."""

from __future__ import annotations

from crabnet.cli.context import State
from crabnet.cli.output import json_line, write
from crabnet.control.client import JsonValue
from crabnet.plain import plain


def check_config(state: State) -> None:
    """Print one line per check. Raises the CrabnetError of the first check that failed."""
    settings = state.settings
    from crabnet.operator.verify_config import failure, verify_config
    from crabnet.storage.files import RealFiles

    checks = verify_config(settings, RealFiles())
    error = failure(checks)
    if state.json:
        rows: list[JsonValue] = [
            {
                "name": check.name,
                "verdict": check.verdict.value,
                "reason": None if check.error is None else check.error.reason.value,
                "detail": check.detail,
            }
            for check in checks
        ]
        write(json_line({"ok": error is None, "checks": rows}))
    else:
        for check in checks:
            write(f"{check.verdict.value:<8} {check.name}: {plain(check.detail)}\n")
    if error is not None:
        raise error
