"""The options of ``seed publish`` and ``run`` that say which results are acceptable."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import click

from crabnet.cli.options import WholeNumber
from crabnet.cli.values import Duration
from crabnet.control.client import JsonValue
from crabnet.limits import TIMEOUT_MS_MAX

F = TypeVar("F", bound=Callable[..., object])
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_WINDOW: Final = Duration(1, TIMEOUT_MS_MAX)
_FIELDS: Final = {
    "expect_exit": "exit_code",
    "expect_stdout_sha256": "stdout_sha256",
    "max_duration": "duration_ms_max",
    "check": "check",
}
Given = JsonValue | tuple[tuple[str, str], ...]
"""What click gives for an option."""


class _Sha256(click.ParamType[str]):
    """A SHA-256 in hexadecimal."""

    name = "sha256"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not _SHA256.fullmatch(text):
            self.fail(f"{text[:80]!r} is not a SHA-256: it takes 64 hexadecimal digits.", param, ctx)
        return text.lower()


class _NamedFile(click.ParamType[tuple[str, str]]):
    """``NAME=SHA256``. The name may contain ``=``."""

    name = "name=sha256"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, _, digest = str(value).rpartition("=")
        if not name:
            self.fail(f"{str(value)[:80]!r} is not NAME=SHA256.", param, ctx)
        return name, _Sha256().convert(digest, param, ctx)


def acceptance_options(function: F) -> F:
    """A decorator that adds the options. The command passes what it gets to ``take_acceptance``."""
    options = (
        click.option(
            "--expect-exit", type=WholeNumber(0, 255), metavar="CODE", help="Accept only a run with this exit code."
        ),
        click.option(
            "--expect-stdout-sha256", type=_Sha256(), metavar="SHA256", help="Accept only this stdout, byte for byte."
        ),
        click.option(
            "--expect-file",
            type=_NamedFile(),
            multiple=True,
            metavar="NAME=SHA256",
            help="Accept only a run that leaves this file in its work dir, with this content; repeatable.",
        ),
        click.option("--max-duration", type=_WINDOW, metavar="DURATION", help="Reject a run that takes longer."),
        click.option(
            "--check",
            metavar="COMMAND",
            help="A command that judges the output: it reads the stdout on its stdin, in your own node's sandbox, and"
            " accepts it with exit code 0.",
        ),
        click.option(
            "--settle-within",
            "settle_window_ms",
            type=_WINDOW,
            metavar="DURATION",
            help="How long after the result you settle it. After that all nodes show it as overdue. Default: 1d.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def take_acceptance(params: Mapping[str, Given]) -> dict[str, JsonValue]:
    """The parameters with the options of ``acceptance_options`` as the field ``acceptance`` of ``seed.publish``."""
    rest = {name: value for name, value in params.items() if not isinstance(value, tuple)}
    files = params["expect_file"]
    acceptance: dict[str, JsonValue] = {field: rest.pop(name) for name, field in _FIELDS.items()}
    if isinstance(files, tuple) and files:
        acceptance["files"] = [{"name": name, "sha256": digest} for name, digest in files]
    chosen: JsonValue = {name: value for name, value in acceptance.items() if value is not None}
    return {**rest, "acceptance": chosen} if chosen else rest
