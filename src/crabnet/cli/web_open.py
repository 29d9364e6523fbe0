"""``crabnet web open``: a link that logs a browser in."""

from __future__ import annotations

import html
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import click

from crabnet.cli.context import State, state_of, write_object
from crabnet.cli.options import Command
from crabnet.cli.output import as_list, as_object, as_text, note, pause, write
from crabnet.errors import CrabnetError, Reason, RefusedError, UsageError
from crabnet.limits import WEB_LINK_MS
from crabnet.plain import plain

_URL: Final = re.compile(r"https?://[!-~]+")
_LOOK_S: Final = 0.5


@click.command("open", cls=Command)
@click.option("--print", "print_only", is_flag=True, help="Only print the link, also on a desktop.")
@click.option(
    "--url",
    metavar="URL",
    help="Address of the web page, if this node does not serve it or does not know it.",
)
@click.pass_context
def open_(context: click.Context, *, print_only: bool, url: str | None) -> None:
    """Print a link that logs a browser in, and on a desktop open it. The link is good once, for a minute.

    The login has the scope admin and ends after web_session_s. `crabnet token list` shows it, `crabnet token revoke`
    ends it. Needs a running node.
    """
    from crabnet.access.secret import digest_of, make_secret

    if url is not None and not _URL.fullmatch(url):
        raise UsageError(f"--url {url!r} is not an address such as http://127.0.0.1:3000", Reason.INVALID_ARGUMENT)
    state = state_of(context)
    code = make_secret()
    answer = as_object(state.perform("web.link", {"code_sha256": digest_of(code)}))
    base = url or answer.get("url")
    if not isinstance(base, str):
        raise RefusedError(
            "this node serves no web page; if another process does, give its address with --url",
            Reason.UNAVAILABLE,
        )
    link = f"{base.rstrip('/')}/#login={code}"
    if state.json:
        write_object({"link": link, "expires_at": answer.get("expires_at")})
        return
    write(f"{plain(link)}\n")
    if not print_only and _on_desktop(os.environ):
        _open(state, link, as_text(answer, "token_name"))


def _on_desktop(environ: Mapping[str, str]) -> bool:
    """Whether a person at a terminal has a screen on which a browser can open."""
    has_screen = bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))
    return has_screen and sys.stdout is not None and sys.stdout.isatty()


def _open(state: State, link: str, token_name: str) -> None:
    """Open the link in the browser, and wait until it has logged in or the minute is over."""
    import webbrowser

    with _redirect_file(state.settings.data_dir, link) as path:
        if not webbrowser.open(path.as_uri()):
            note("no browser could be opened; open the link yourself")
            return
        note("waiting for the browser to log in, for a minute at most")
        deadline = time.monotonic() + WEB_LINK_MS / 1000
        while time.monotonic() < deadline:
            if _has_logged_in(state, token_name):
                note("logged in")
                return
            pause(_LOOK_S)
        note("the browser did not log in in time; try again")


def _has_logged_in(state: State, token_name: str) -> bool:
    try:
        tokens = as_list(state.perform("token.list", {}), "tokens")
    except CrabnetError:
        return False
    return any(as_object(each).get("name") == token_name for each in tokens)


@contextmanager
def _redirect_file(data_dir: Path, link: str) -> Iterator[Path]:
    """A page that leads to the link, readable by this user only.

    The browser gets the name of this page and not the link, because every user can read the arguments of a process.
    """
    directory = os.environ.get("XDG_RUNTIME_DIR") or str(data_dir)
    fd, name = tempfile.mkstemp(prefix="crabnet-login-", suffix=".html", dir=directory)
    path = Path(name)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            target = html.escape(link)
            file.write(
                '<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
                f'<meta http-equiv="refresh" content="0;url={target}"><a href="{target}">Log in</a>\n'
            )
        yield path
    finally:
        with suppress(OSError):
            path.unlink()
