"""``crabnet token``: who may use the HTTP door."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from crabnet.cli.context import state_of, write_object
from crabnet.cli.listing import Row, write_rows
from crabnet.cli.options import Command, LazyGroup
from crabnet.cli.output import as_list, as_object, as_text, note, write
from crabnet.cli.tables import Cell, Column, Style
from crabnet.cli.values import span_s
from crabnet.control.client import JsonValue
from crabnet.errors import NodeTimeoutError, Reason, UsageError
from crabnet.plain import plain

SECRET_ENV: Final = "CRABNET_TOKEN_SECRET"  # noqa: S105 - the name of a variable
_FILE_BYTES_MAX: Final = 4_096

token = LazyGroup(
    "token",
    "Make, list and revoke the tokens that open the HTTP door.",
    {name: f"crabnet.cli.token:{name}_" for name in ("new", "list", "revoke")},
)


@click.command("new", cls=Command)
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(["read", "operate", "admin"]),
    default="read",
    show_default=True,
    help="What the token may do. Each scope includes those before it.",
)
@click.option("--expires", metavar="SPAN", help="How long it is valid: 90 (seconds), 15m, 2h, 30d. Default: for ever.")
@click.option(
    "--for-namespace", "namespaces", multiple=True, metavar="NAME", help="Valid only for nodes of this namespace."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write the secret to this new file (mode 0600) instead of stdout."
)
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help=f"Use the secret in this file, - for standard input, instead of a new one. The environment variable"
    f" {SECRET_ENV} does the same.",
)
@click.pass_context
def new_(
    context: click.Context,
    /,
    name: str,
    scope: str,
    expires: str | None,
    namespaces: tuple[str, ...],
    out: Path | None,
    secret_file: Path | None,
) -> None:
    """Make a token. Prints its secret, once: the node stores only the SHA-256 of it.

    A client sends the secret in the header Authorization: Bearer SECRET, or X-Api-Token: SECRET.
    """
    from crabnet.access.secret import digest_of, make_secret

    given = _given_secret(secret_file)
    if given is not None and out is not None:
        raise UsageError("--out is for a new secret, but a secret was given", Reason.INVALID_ARGUMENT)
    ttl_s = None if expires is None else _ttl_s(expires)
    secret = make_secret() if given is None else given
    params: dict[str, JsonValue] = {"name": name, "scope": scope, "secret_sha256": digest_of(secret)}
    params |= {"ttl_s": ttl_s, "namespaces": [*namespaces]}
    state = state_of(context)
    if out is None:
        answer = state.perform("token.new", params)
    else:
        with _secret_file(out, secret):
            answer = state.perform("token.new", params)
    shown = secret if given is None and out is None else None
    if state.json:
        write_object({"token": as_object(answer, "token"), "secret": shown})
        return
    note(f"token {_line(as_object(answer, 'token'))}" + ("" if out is None else f", secret in {plain(str(out))}"))
    if shown is not None:
        write(f"{shown}\n")


_COLUMNS: Final = (
    Column("NAME", 0, least=8),
    Column("SCOPE", 1),
    Column("STATE", 2),
    Column("CREATED", 4),
    Column("EXPIRES", 3),
)


@click.command("list", cls=Command, prints_ids=True)
@click.pass_context
def list_(context: click.Context) -> None:
    """Show the tokens and logins, oldest first: name, scope, state, times, namespaces. The node need not run.

    A token that has expired or was revoked is shown for 30 days.
    """
    state = state_of(context)
    answer = state.perform("token.list", {})
    if state.json:
        write_object(answer)
        return
    write_rows(state, _COLUMNS, [_row(as_object(each)) for each in as_list(answer, "tokens")], "no tokens")


def _row(token_info: dict[str, JsonValue]) -> Row:
    """One token. Times are local in a table."""
    name, state = as_text(token_info, "name"), as_text(token_info, "state")
    cells = [
        Cell(name),
        Cell(as_text(token_info, "scope")),
        Cell(state, Style.GOOD if state == "valid" else Style.OVER),
    ]
    for word in ("created", "expires"):
        at_s = token_info.get(f"{word}_at")
        shown = f"{datetime.fromtimestamp(at_s).astimezone():%Y-%m-%d %H:%M}" if isinstance(at_s, int) else ""
        cells.append(Cell(shown))
    return Row(name, _line(token_info), cells)


@click.command("revoke", cls=Command)
@click.argument("name")
@click.pass_context
def revoke_(context: click.Context, name: str) -> None:
    """Revoke a token, or end a login. It takes effect at once, also if the node does not run. Prints: revoked NAME."""
    answer = state_of(context).perform("token.revoke", {"name": name})
    if state_of(context).json:
        write_object(answer)
        return
    write(f"revoked {as_text(as_object(answer, 'token'), 'name')}\n")


def _line(token_info: dict[str, JsonValue]) -> str:
    parts = [as_text(token_info, "name"), as_text(token_info, "scope"), as_text(token_info, "state")]
    for word in ("created", "expires", "revoked"):
        at_s = token_info.get(f"{word}_at")
        if isinstance(at_s, int):
            parts.append(f"{word} {datetime.fromtimestamp(at_s, UTC).isoformat().replace('+00:00', 'Z')}")
    namespaces = token_info.get("namespaces")
    if isinstance(namespaces, list) and namespaces:
        parts.append(f"namespaces {plain(','.join(map(str, namespaces)))}")
    return "  ".join(parts)


def _ttl_s(text: str) -> int:
    ttl_s = span_s(text)
    if not ttl_s:
        raise UsageError(f"--expires {text!r} is not a time span such as 90, 15m, 2h or 30d", Reason.INVALID_ARGUMENT)
    return ttl_s


def _given_secret(path: Path | None) -> str | None:
    """The secret of the caller; None if there is none. Raises UsageError."""
    from crabnet.access.secret import demand_secret

    if path is None:
        secret = os.environ.get(SECRET_ENV)
        return None if secret is None else demand_secret(secret.strip())
    try:
        if str(path) == "-":
            content = b"" if sys.stdin is None else sys.stdin.buffer.read(_FILE_BYTES_MAX)
        else:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & stat.S_IRWXO:
                    note(f"warning: every user can access {plain(str(path))}")
                content = file.read(_FILE_BYTES_MAX)
    except OSError as error:
        raise UsageError(f"the secret in {path} cannot be read: {error.strerror}", Reason.INVALID_ARGUMENT) from None
    return demand_secret(content.decode("utf-8", "replace").strip())


@contextmanager
def _secret_file(path: Path, secret: str) -> Iterator[None]:
    """Keep the secret in a new file of mode 0600, unless the block certainly made no token. Raises UsageError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists; give the name of a new file", Reason.FILE_EXISTS) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be made: {error.strerror}", Reason.INVALID_ARGUMENT) from None
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(f"{secret}\n")
            file.flush()
            os.fsync(file.fileno())
        yield
    except NodeTimeoutError:
        raise  # The node may have made the token.
    except BaseException as error:
        with suppress(OSError):
            path.unlink()
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise UsageError(f"{path} cannot be written: {error.strerror}", Reason.DISK_FULL) from None
        raise
