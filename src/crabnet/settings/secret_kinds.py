"""Kinds of secrets: where alerts go. Nothing that a message may show of them is secret."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from crabnet.settings.kinds import Kind, ListKind, TextKind, Wrong, host_and_port

_HTTP: Final = frozenset({"http", "https"})
_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>[!-\[\]-~]+)", re.ASCII)
_AUTHORITY_END: Final = re.compile(r"[/?#]")
_SHOWN_HOST_CHARS: Final = 64


class SecretsKind(ListKind):
    """A list of secrets. No message shows an item. As text it is split at ``separator``, a regular expression."""

    def __init__(self, item: Kind, items_max: int, separator: str, says: str) -> None:
        super().__init__(item, items_max)
        self._separator, self._says = re.compile(separator), says

    def from_texts(self, texts: Sequence[str]) -> object:
        parts = [part.strip() for text in texts for part in self._separator.split(text)]
        return self._unique([self.item.from_text(part) for part in parts if part])

    def check(self, value: object) -> None:
        if not isinstance(value, tuple):
            raise Wrong("is not a tuple")
        if len(value) > self.items_max:
            raise Wrong(f"has more than {self.items_max} items")
        for place, item in enumerate(value, 1):
            try:
                self.item.check(item)
            except Wrong as wrong:
                raise Wrong(f"has an item (number {place}) that {wrong}") from None

    def masked(self, secret: object) -> str | None:
        if not isinstance(secret, tuple):
            return None
        return ", ".join(self.item.masked(item) or "?" for item in secret) or "(none)"

    def range_text(self) -> str:
        return f"at most {self.items_max} items, {self._says}; {self.item.range_text()}"


class UrlKind(Kind):
    """A URL with any scheme. What follows the scheme may be secret, and for HTTP what follows the host."""

    name = "URL"

    def __init__(self, chars_max: int) -> None:
        self._chars_max = chars_max

    def from_text(self, text: str) -> str:
        return text

    def check(self, value: object) -> None:
        if not isinstance(value, str):
            raise Wrong("is not a URL")
        if len(value) > self._chars_max:
            raise Wrong(f"has more than {self._chars_max} characters")
        match = _URL.fullmatch(value)
        if match is None:
            raise Wrong("is not a URL of visible ASCII characters (no backslash), such as https://host/path")
        if match["scheme"].lower() in _HTTP:
            self._check_http(match["rest"])

    @staticmethod
    def _check_http(rest: str) -> None:
        authority = _AUTHORITY_END.split(rest, maxsplit=1)[0].rpartition("@")[2]
        has_port = re.search(r":[0-9]*\Z", authority)
        try:
            host_and_port(authority if has_port else f"{authority}:443")
        except Wrong as wrong:
            raise Wrong(f"{wrong}" if has_port else "has no valid host") from None

    def masked(self, secret: object) -> str | None:
        match = _URL.fullmatch(secret) if isinstance(secret, str) else None
        if match is None:
            return None
        scheme = match["scheme"].lower()
        if scheme not in _HTTP:
            return f"{scheme}://…"
        host = _AUTHORITY_END.split(match["rest"], maxsplit=1)[0].rpartition("@")[2]
        return f"{scheme}://{host[:_SHOWN_HOST_CHARS]}/…"

    def range_text(self) -> str:
        return f"each a URL of at most {self._chars_max} visible ASCII characters"


class CommandLineKind(Kind):
    """A program and its arguments, in words as for a shell. The arguments may be secret."""

    name = "command"

    def __init__(self, chars_max: int) -> None:
        self._text = TextKind(chars_max)

    def from_text(self, text: str) -> str:
        return text

    def check(self, value: object) -> None:
        self._text.check(value)
        if not _words(value):
            raise Wrong("is not a command: check its quotes")

    def masked(self, secret: object) -> str | None:
        words = _words(secret)
        return f"{words[0].rpartition('/')[2][:_SHOWN_HOST_CHARS]} …" if words else None

    def range_text(self) -> str:
        return "each a program and its arguments, in words as for a shell"


def _words(value: object) -> list[str]:
    import shlex  # noqa: PLC0415 - seldom needed

    try:
        return shlex.split(value) if isinstance(value, str) else []
    except ValueError:
        return []
