"""Where alerts go: the targets of the settings, and their names, which show no secret."""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import shutil
import stat
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from crabnet import limits
from crabnet.alerts.config import AlertsConfig
from crabnet.errors import CrabnetError, Reason, UsageError
from crabnet.plain import plain
from crabnet.settings.kinds import Kind, Wrong
from crabnet.settings.secret_kinds import CommandLineKind, UrlKind

if TYPE_CHECKING:
    import apprise

APPRISE: Final = "apprise"
UNKNOWN_SERVICE: Final = "apprise does not know this service, or the URL is incomplete"
INSTALL: Final = "install crabnet with its extra `alerts`: pip install 'crabnet-node[alerts]'"
_HTTP: Final = ("http://", "https://")
_URL: Final = UrlKind(limits.ALERT_URL_CHARS_MAX)
_COMMAND: Final = CommandLineKind(limits.ALERT_URL_CHARS_MAX)


class Way(StrEnum):
    """How a message is given to a target."""

    WEBHOOK = "webhook"
    APPRISE = "apprise"
    COMMAND = "command"


class Target(Struct, frozen=True, kw_only=True):
    """One target. ``secret`` is its URL or command."""

    number: int
    """Its place among all targets, from 1."""
    way: Way
    secret: str
    name: str
    """For messages and events. It shows the scheme, and of webhooks the host, or the program of a command."""

    @property
    def key(self) -> str:
        """The name of the target in the cursor file. It does not depend on the order of the targets."""
        return hashlib.sha256(f"{self.way}\0{self.secret}".encode()).hexdigest()[:32]

    def __repr__(self) -> str:
        return f"Target({self.name!r})"


def targets_of(config: AlertsConfig) -> list[Target]:
    """All targets of the settings: URLs, URLs in the file, commands. Raises UsageError if the file cannot be used."""
    urls = [*config.alert_urls]
    if config.alert_urls_file is not None:
        urls += read_urls(Path(config.alert_urls_file))
    urls = list(dict.fromkeys(urls))
    made = [(Way.WEBHOOK if url.lower().startswith(_HTTP) else Way.APPRISE, url, _URL.masked(url)) for url in urls]
    made += [(Way.COMMAND, line, _COMMAND.masked(line)) for line in config.alert_commands]
    return [
        Target(number=number, way=way, secret=secret, name=plain(f"{number} {masked}")[: limits.ALERT_TARGET_CHARS_MAX])
        for number, (way, secret, masked) in enumerate(made, 1)
    ]


def read_urls(path: Path) -> list[str]:
    """The URLs in a file, one per line; empty lines and those that begin with ``#`` are left out. Raises UsageError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _unusable(path, "is not a regular file")
            if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise UsageError(
                    f"alert_urls_file = {path} contains secrets, but other users can access it; run chmod 600 on it,"
                    " and replace the secrets",
                    Reason.UNSAFE_PERMISSIONS,
                )
            content = file.read(limits.ALERT_URLS_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from None
    if len(content) > limits.ALERT_URLS_FILE_BYTES_MAX:
        raise _unusable(path, f"has more than {limits.ALERT_URLS_FILE_BYTES_MAX} bytes")
    urls = []
    for place, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            urls.append(_checked(path, place, line.strip()))
    if len(urls) > limits.ALERT_TARGETS_MAX:
        raise _unusable(path, f"has more than {limits.ALERT_TARGETS_MAX} URLs")
    return urls


def _checked(path: Path, place: int, url: str) -> str:
    kind: Kind = _URL
    try:
        kind.check(url)
    except Wrong as wrong:
        raise _unusable(path, f"has a line (number {place}) that {wrong}") from None
    return url


def _unusable(path: Path, problem: str) -> UsageError:
    return UsageError(f"alert_urls_file = {path} {problem}", Reason.INVALID_CONFIG)


def missing_extra(target: Target) -> CrabnetError | None:
    """What must be installed before a target can be served; None if it can be."""
    if target.way is Way.APPRISE and find_spec(APPRISE) is None:
        return UsageError(f"{APPRISE} is not installed; {INSTALL}", Reason.UNAVAILABLE)
    return None


def obstacle(target: Target) -> CrabnetError | None:
    """Why no message can reach a target, as far as that can be known without sending one; None if nothing is known.

    Blocks. Loads apprise if the target is one of its services.
    """
    missing = missing_extra(target)
    if missing is not None:
        return missing
    if target.way is Way.COMMAND:
        program = shlex.split(target.secret)[0]
        if shutil.which(program) is None:
            return UsageError(f"the command {plain(program)} cannot be found or executed", Reason.SPAWN_FAILED)
    if target.way is Way.APPRISE and service_of(target.secret) is None:
        return UsageError(UNKNOWN_SERVICE, Reason.INVALID_CONFIG)
    return None


def service_of(url: str) -> apprise.NotifyBase | None:
    """The service of a URL, if apprise knows it and the URL is complete. Raises ModuleNotFoundError."""
    import apprise  # noqa: PLC0415 - an extra

    logging.disable(logging.CRITICAL)  # its log may contain secrets
    try:
        return apprise.Apprise.instantiate(url, asset=apprise.AppriseAsset(async_mode=False))
    finally:
        logging.disable(logging.NOTSET)
