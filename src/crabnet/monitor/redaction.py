"""What leaves a report or debug bundle: the rules by which its content is redacted (docs/OPERATIONS.md).

1. Secrets never: values of secret settings, PEM blocks, bearer tokens, and what looks like a token of Crabnet.
2. Contents of tasks not by default: title, description, command, rules, notes and output.
3. Names of the user not: the home directory is ``~``.
4. Addresses on request: each is replaced by a word that is the same in the whole bundle, and in no other one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from crabnet.errors import CrabnetError
from crabnet.protocol.canonical import JsonValue
from crabnet.settings import KNOBS, Settings
from crabnet.settings.kinds import split_address

TASK_FIELDS: Final = frozenset(
    {"title", "description", "command", "rules", "notes", "note", "stdout", "stderr", "stdout_base64", "stderr_base64"}
)
"""Fields that hold what people have put into tasks, and what came out of them."""
SECRET: Final = "[secret]"  # noqa: S105 - what is written in the place of one
LEFT_OUT: Final = "[task content]"
_SECRETS: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)"
    r"|(?i:bearer|x-api-token:?)\s+[^\s\"',;]+"
    r"|crab_[0-9A-Za-z]{16,}",
    re.DOTALL,
)
_ADDRESS: Final = re.compile(
    r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w.]*[0-9]\.)"  # IPv4
    r"|\[[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(?:%\w+)?\]"  # IPv6 with a port
    r"|(?<![\w:.])(?:[0-9a-fA-F]{1,4}:){2,7}[0-9a-fA-F:]*[0-9a-fA-F](?![\w:])"  # IPv6 alone
)
_KEPT: Final = frozenset({"0.0.0.0", "127.0.0.1", "255.255.255.255", "[::]", "[::1]"})  # noqa: S104 - nothing is bound
"""Addresses that say nothing about anybody."""
_WORD_CHARS: Final = 10


class Redaction:
    """The rules for one bundle. ``secrets`` are the values of secret settings, ``home`` is the home directory.

    ``host_names`` are names in the settings that stand for addresses. With ``hash_key`` addresses are replaced.
    """

    def __init__(
        self,
        *,
        secrets: tuple[str, ...] = (),
        home: str = "",
        host_names: tuple[str, ...] = (),
        with_tasks: bool = False,
        hash_key: bytes | None = None,
    ) -> None:
        self._secrets = sorted((each for each in secrets if each), key=len, reverse=True)
        self._home = home.rstrip("/")
        self._names = sorted((each for each in host_names if each and not _is_number(each)), key=len, reverse=True)
        self._with_tasks = with_tasks
        self._hash_key = hash_key

    def value(self, value: JsonValue, field: str = "") -> JsonValue:
        """A JSON value without what must not leave the machine. ``field`` is its name."""
        if isinstance(value, dict):
            return {self.text(name): self.value(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [self.value(item, field) for item in value]
        if not isinstance(value, str):
            return value
        if field in TASK_FIELDS and not self._with_tasks and value:
            return LEFT_OUT
        return self.text(value)

    def fields(self, fields: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """The same for an object."""
        return {name: self.value(item, name) for name, item in fields.items()}

    def text(self, text: str) -> str:
        """A text without secrets, home directory and, if wanted, addresses."""
        for secret in self._secrets:
            text = text.replace(secret, SECRET)
        text = _SECRETS.sub(SECRET, text)
        if self._home:
            text = re.sub(rf"{re.escape(self._home)}(?=/|\W|\Z)", "~", text)
        if self._hash_key is None:
            return text
        for name in self._names:
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", lambda found: self._word(found[0]), text)
        return _ADDRESS.sub(lambda found: self._word(found[0]), text)

    def _word(self, address: str) -> str:
        if address in _KEPT or self._hash_key is None:
            return address
        digest = hmac.new(self._hash_key, address.encode(), hashlib.sha256).hexdigest()
        return f"addr-{digest[:_WORD_CHARS]}"


def redaction_for(settings: Settings, *, with_tasks: bool = False, hash_key: bytes | None = None) -> Redaction:
    """The rules for what comes from a node with these settings."""
    return Redaction(
        secrets=tuple(str(getattr(settings, knob.name) or "") for knob in KNOBS if knob.secret),
        home=str(Path.home()),
        host_names=host_names((*settings.announce_addrs, *settings.bootstrap_peers)),
        with_tasks=with_tasks,
        hash_key=hash_key,
    )


def host_names(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """The hosts in addresses of the settings."""
    found = []
    for text in addresses:
        with suppress(CrabnetError):
            found.append(split_address(text)[0])
    return tuple(found)


def _is_number(host: str) -> bool:
    """Whether a host is an address already, which the pattern finds."""
    return ":" in host or host.replace(".", "").isdigit()
