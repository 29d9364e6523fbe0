"""How each kind of configuration value is read, checked and shown.

A kind turns the text of a flag or environment variable, or a TOML value, into a typed value. It says in one clause
what is wrong with a value. It does not know where the value came from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from crabnet.errors import Reason, UsageError

PORT_MAX: Final = 65_535
HOST_CHARS_MAX: Final = 253
"""Longest host name, RFC 1035 section 2.3.4 without the root label."""
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?", re.ASCII)
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


class Wrong(Exception):  # noqa: N818 - a signal between the kinds and the resolver, never seen by callers
    """A value is not acceptable; the text is a clause such as ``is not a whole number``."""


OFF: Final = "off"
"""The address of a door that is not there."""


def is_loopback(address: str) -> bool:
    """Whether only programs on this machine can reach an address ``host:port``."""
    host, _ = split_address(address)
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def split_address(text: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[IPv6]:port`` into host (without brackets) and port.

    The host is an IPv4 address, an IPv6 address (a ``%zone`` is allowed) or a host name by its shape (RFC 1123);
    no name is looked up. Raises UsageError (ADDRESS_INVALID).
    """
    try:
        return host_and_port(text)
    except Wrong as wrong:
        raise UsageError(f"the address {text!r} {wrong}", Reason.ADDRESS_INVALID) from None


def host_and_port(text: str) -> tuple[str, int]:
    """Like ``split_address``, but raises Wrong, whose text does not contain the address."""
    host, colon, port_text = text.rpartition(":")
    if not colon:
        raise Wrong("has no port: write host:port or [IPv6]:port")
    if not re.fullmatch(r"[0-9]{1,5}", port_text, re.ASCII) or int(port_text) > PORT_MAX:
        raise Wrong(f"has no valid port: a port is a number from 0 to {PORT_MAX}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        _check_ipv6(host)
    elif ":" in host:
        raise Wrong("has an IPv6 address without brackets: write [IPv6]:port")
    else:
        _check_host(host)
    return host, int(port_text)


def _check_ipv6(host: str) -> None:
    import socket  # noqa: PLC0415 - costs more than the rest of this module and is seldom needed

    literal, _, zone = host.partition("%")
    if "%" in host and not _LABEL.fullmatch(zone):
        raise Wrong("has an empty or malformed zone after its IPv6 address")
    try:
        socket.inet_pton(socket.AF_INET6, literal)
    except (OSError, ValueError):
        raise Wrong("has no valid IPv6 address between its brackets") from None


def _check_host(host: str) -> None:
    if not host:
        raise Wrong("has no host: write host:port, for example 0.0.0.0:9012")
    labels = host.split(".")
    if labels[-1].isdigit():
        numbers = [label for label in labels if re.fullmatch(r"0|[1-9][0-9]{0,2}", label, re.ASCII)]
        if len(labels) != 4 or len(numbers) != 4 or any(int(number) > 255 for number in numbers):
            raise Wrong("has no valid IPv4 address")
    elif len(host) > HOST_CHARS_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise Wrong("has no valid host name")


class Kind:
    """Base class. ``from_text`` and ``from_toml`` read a value, ``check`` checks it. All three raise Wrong.

    ``name`` is for documents.
    """

    name = "value"

    def from_text(self, text: str) -> object:
        """Read the text of a flag or environment variable."""
        raise NotImplementedError

    def from_toml(self, value: object) -> object:
        """Read a TOML value. By default it is the same text as for a flag."""
        if not isinstance(value, str):
            raise Wrong(f"is {_toml_type(value)}, not a string")
        return self.from_text(value)

    def check(self, value: object) -> None:
        """Check a value of the right Python type."""
        raise NotImplementedError

    def range_text(self) -> str:
        """The accepted values, for documents."""
        return ""

    def masked(self, secret: object) -> str | None:
        """What may be shown of a secret; None if nothing may be."""
        del secret
        return None


class IntKind(Kind):
    """A whole number within bounds. Both bounds are included."""

    name = "integer"

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def from_text(self, text: str) -> int:
        if not _INTEGER.fullmatch(text.strip()):
            raise Wrong("is not a whole number")
        return int(text)

    def from_toml(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Wrong(f"is {_toml_type(value)}, not an integer")
        return value

    def check(self, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Wrong("is not an integer")
        if not self.low <= value <= self.high:
            raise Wrong(f"is out of range: {self.low} to {self.high}")

    def range_text(self) -> str:
        return f"{self.low} to {self.high}"


class NumberKind(Kind):
    """A number with at most six decimal places, within bounds. Both bounds are included."""

    name = "number"

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def from_text(self, text: str) -> float:
        if not _NUMBER.fullmatch(text.strip()):
            raise Wrong("is not a number with at most six decimal places, such as 0.25")
        return float(text)

    def from_toml(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Wrong(f"is {_toml_type(value)}, not a number")
        return float(value)

    def check(self, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Wrong("is not a number")
        if not self.low <= value <= self.high:
            raise Wrong(f"is out of range: {self.low:g} to {self.high:g}")
        if value != round(value, 6):
            raise Wrong("has more than six decimal places")

    def range_text(self) -> str:
        return f"{self.low:g} to {self.high:g}"


class BoolKind(Kind):
    """True or false."""

    name = "boolean"

    def from_text(self, text: str) -> bool:
        word = text.strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
        raise Wrong("is not a boolean: write true or false")

    def from_toml(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise Wrong(f"is {_toml_type(value)}, not a boolean")
        return value

    def check(self, value: object) -> None:
        if not isinstance(value, bool):
            raise Wrong("is not a boolean")

    def range_text(self) -> str:
        return "true, false"


class TextKind(Kind):
    """A short printable text, optionally restricted by a pattern."""

    name = "string"

    def __init__(self, chars_max: int, pattern: str | None = None, says: str = "") -> None:
        self.chars_max, self.says = chars_max, says
        self.pattern = None if pattern is None else re.compile(pattern, re.ASCII)

    def from_text(self, text: str) -> str:
        return text

    def check(self, value: object) -> None:
        if not isinstance(value, str):
            raise Wrong("is not a string")
        if not 1 <= len(value) <= self.chars_max:
            raise Wrong(f"must have 1 to {self.chars_max} characters")
        if _CONTROL.search(value):
            raise Wrong("has control or invisible characters")
        if self.pattern is not None and not self.pattern.fullmatch(value):
            raise Wrong(f"must have only {self.says}")

    def range_text(self) -> str:
        return f"1 to {self.chars_max} characters" + (f": {self.says}" if self.says else "")


class SecretKind(Kind):
    """A secret of visible ASCII characters, without the white space around it. An empty one is none."""

    name = "string"

    def __init__(self, chars_max: int) -> None:
        self._text = TextKind(chars_max, r"[!-~]+", "visible ASCII characters")

    def from_text(self, text: str) -> str | None:
        return text.strip() or None

    def check(self, value: object) -> None:
        if value is not None:
            self._text.check(value)

    def range_text(self) -> str:
        return self._text.range_text()


class ChoiceKind(Kind):
    """One of a few words."""

    name = "string"

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def from_text(self, text: str) -> str:
        return text

    def check(self, value: object) -> None:
        if value not in self.choices:
            raise Wrong(f"is not one of: {', '.join(self.choices)}")

    def range_text(self) -> str:
        return ", ".join(self.choices)


class PathKind(Kind):
    """A path. ``~`` is the home directory."""

    name = "path"

    def from_text(self, text: str) -> Path:
        self.check(Path(text) if text else text)
        return expand_home(Path(text))

    def check(self, value: object) -> None:
        if not isinstance(value, Path):
            raise Wrong("is not a path" if value else "is an empty path")
        if _CONTROL.search(str(value)):
            raise Wrong("has control or invisible characters")


def address_text(text: str) -> str:
    """An address as settings have it. It may be given as commands show it, with the name of its transport before it.

    Raises Wrong.
    """
    if text.strip().startswith("p2p:"):
        raise Wrong("is the id of a libp2p peer, not an address; `crabnet peers` shows the address behind it")
    return text.strip().removeprefix("udp:")


class AddressKind(Kind):
    """``host:port`` or ``[IPv6]:port``."""

    name = "address"

    def __init__(self, port_min: int) -> None:
        self.port_min = port_min

    def from_text(self, text: str) -> str:
        return address_text(text)

    def check(self, value: object) -> None:
        if not isinstance(value, str):
            raise Wrong("is not an address")
        _, port = host_and_port(value)
        if port < self.port_min:
            raise Wrong("has port 0, to which nothing can be sent")

    def range_text(self) -> str:
        return "`host:port` or `[IPv6]:port`"


class WebAddressKind(AddressKind):
    """An address to serve HTTP at, or ``off``."""

    def check(self, value: object) -> None:
        if value != "off":
            super().check(value)

    def range_text(self) -> str:
        return f"{super().range_text()}, or `off`"


class ListKind(Kind):
    """A list of another kind: comma-separated as text, an array in TOML. An empty text is the empty list."""

    name = "list"

    def __init__(self, item: Kind, items_max: int) -> None:
        self.item, self.items_max = item, items_max

    def from_text(self, text: str) -> object:
        return self.from_texts([text])

    def from_texts(self, texts: Sequence[str]) -> object:
        """Read a repeated flag: each occurrence may hold several items."""
        parts = [part.strip() for text in texts for part in (text.split(",") if text.strip() else [])]
        return self._unique([self.item.from_text(part) for part in parts])

    def from_toml(self, value: object) -> object:
        if not isinstance(value, list):
            raise Wrong(f"is {_toml_type(value)}, not an array of strings")
        return self._unique([self.item.from_toml(item) for item in value])

    def _unique(self, items: list[object]) -> tuple[object, ...]:
        return tuple(dict.fromkeys(items))

    def check(self, value: object) -> None:
        if not isinstance(value, tuple):
            raise Wrong("is not a tuple")
        if len(value) > self.items_max:
            raise Wrong(f"has more than {self.items_max} items")
        for item in value:
            try:
                self.item.check(item)
            except Wrong as wrong:
                raise Wrong(f"has an item {item!r} that {wrong}") from None

    def range_text(self) -> str:
        return f"at most {self.items_max} items, comma-separated; {self.item.range_text()}".rstrip("; ")


class ListenKind(ListKind):
    """Addresses of this machine to listen on. The value is one comma-separated text; in TOML a string or an array."""

    name = "addresses"

    def __init__(self, item: Kind, items_max: int) -> None:
        super().__init__(item, items_max)

    def from_texts(self, texts: Sequence[str]) -> object:
        return _joined(super().from_texts(texts))

    def from_toml(self, value: object) -> object:
        return self.from_text(value) if isinstance(value, str) else _joined(super().from_toml(value))

    def check(self, value: object) -> None:
        if not isinstance(value, str):
            raise Wrong("is not an address")
        items = value.split(",")
        if len(items) == 1:
            self.item.check(value)
        else:
            super().check(tuple(items))


def _joined(items: object) -> str:
    return ",".join(map(str, items)) if isinstance(items, tuple) else str(items)


def expand_home(path: Path) -> Path:
    """Replace a leading ``~``. Raises Wrong when there is no such home directory."""
    try:
        # With an empty HOME the library would use the root directory as the home directory.
        if path.parts[:1] != ("~",) or os.environ.get("HOME") != "":
            return path.expanduser()
    except RuntimeError:
        pass
    raise Wrong("begins with ~, but the home directory is not known")


def _toml_type(value: object) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array", dict: "a table"}
    return names.get(type(value), "a date or time")
