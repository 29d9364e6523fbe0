"""Checks of the door over HTTP: its address, its TLS files, and the strength of a token in the settings."""

from __future__ import annotations

import errno
import math
import socket
import ssl
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509

from crabnet import limits
from crabnet.errors import CrabnetError, NetworkError, Reason, UsageError
from crabnet.node.web import missing_for_web
from crabnet.operator.check import Check, Situation, Verdict
from crabnet.settings import OFF, is_loopback
from crabnet.transport.base import parse_address

_EXPIRES_SOON: Final = timedelta(days=limits.TLS_EXPIRY_WARNED_DAYS)
_TOKEN_BITS_MIN: Final = 80
"""Estimated bits of a token below which it counts as weak."""


class WebDoor(NamedTuple):
    """The settings of the door. ``running``: a node runs here and may serve the address already."""

    address: str
    tls_cert: Path | None
    tls_key: Path | None
    token: str | None
    running: bool


def web(at: Situation) -> Iterator[Check]:
    """The door over HTTP. A node starts without it all the same."""
    settings = at.settings
    missing = missing_for_web()
    if missing and settings.serves_http:
        error = UsageError(missing, Reason.UNAVAILABLE)
        yield Check("web_addr", Verdict.WARNING, missing, error, "install the extra, or set web_addr = off")
    door = WebDoor(settings.web_addr, settings.web_tls_cert, settings.web_tls_key, settings.web_api_token, at.running)
    yield from check_web(door, datetime.now(UTC))
    if settings.metrics_addr is not None:
        yield from _address("metrics_addr", settings.metrics_addr, running=at.running)
        yield from _plain_text("metrics_addr", settings.metrics_addr, door)


def check_web(door: WebDoor, now: datetime) -> Iterator[Check]:
    """All checks of the door. ``now`` has a time zone. Blocks for a name lookup. Raises nothing."""
    if door.address == OFF:
        yield Check("web_addr", Verdict.OK, "off: there is no page and no API over TCP")
    else:
        yield from _address("web_addr", door.address, running=door.running)
        yield from _plain_text("web_addr", door.address, door)
    yield from _tls(door, now)
    if door.token is not None:
        yield _token(door.token)


def _plain_text(name: str, address: str, door: WebDoor) -> Iterator[Check]:
    """Whether tokens can be read on the way."""
    if door.tls_cert is None and not is_loopback(address):
        detail = f"{address} can be reached from other machines without TLS: tokens travel in plain text"
        remedy = "set web_tls_cert, or use 127.0.0.1 and a reverse proxy or an SSH tunnel"
        yield Check(name, Verdict.WARNING, detail, None, remedy)


def _address(name: str, text: str, *, running: bool) -> Iterator[Check]:
    try:
        address = parse_address(text)
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except CrabnetError as error:
        yield Check(name, Verdict.FAILED, error.message, error)
        return
    except OSError as failed:
        unknown = NetworkError(f"the host of {text} cannot be found: {failed.strerror}", Reason.ADDRESS_INVALID)
        yield Check(name, Verdict.WARNING, unknown.message, unknown)
        return
    if running:
        yield Check(name, Verdict.OK, f"{text} is not tried, because a node runs on this data dir")
        return
    family, _, _, _, sockaddr = found[0]
    yield _bound(name, text, socket.AddressFamily(family), sockaddr)


def _bound(name: str, text: str, family: socket.AddressFamily, sockaddr: tuple[object, ...]) -> Check:
    """Bind the address for a moment. A node starts without its HTTP door all the same, so this is a warning."""
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(sockaddr)
            probe.listen(1)
        except OSError as failed:
            reason = Reason.ADDRESS_IN_USE if failed.errno == errno.EADDRINUSE else Reason.ADDRESS_INVALID
            error = NetworkError(f"{text} cannot be served over HTTP: {failed.strerror}", reason)
            return Check(name, Verdict.WARNING, error.message, error)
    return Check(name, Verdict.OK, f"{text} can be bound")


def _tls(door: WebDoor, now: datetime) -> Iterator[Check]:
    """Whether the files can be read, fit each other, and are valid now."""
    if door.tls_cert is None:
        return
    key = door.tls_key or door.tls_cert
    for name, path in (("web_tls_cert", door.tls_cert), ("web_tls_key", key)):
        try:
            path.read_bytes()
        except OSError as failed:
            yield _broken(name, f"{path} cannot be read: {failed.strerror}", "check the path and the rights")
            return
    if stat.S_IMODE(key.stat().st_mode) & (stat.S_IRWXO | stat.S_IWGRP):
        error = UsageError(f"{key} holds a private key that other users can use", Reason.UNSAFE_PERMISSIONS)
        yield Check("web_tls_key", Verdict.WARNING, error.message, error, f"run chmod 600 on {key}")
    try:
        # A password is never asked for: an encrypted key cannot be used by a service.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(door.tls_cert, door.tls_key, password=lambda: "")
        certificates = x509.load_pem_x509_certificates(door.tls_cert.read_bytes())
    except (OSError, ValueError) as failed:
        what = str(failed) or type(failed).__name__
        yield _broken("web_tls_cert", f"{door.tls_cert} and {key} do not work together: {what}", "give a matching pair")
        return
    yield _dates(door.tls_cert, certificates, now)


def _broken(name: str, detail: str, remedy: str) -> Check:
    return Check(name, Verdict.FAILED, detail, UsageError(detail, Reason.INVALID_CONFIG), remedy)


def _dates(path: Path, certificates: list[x509.Certificate], now: datetime) -> Check:
    first = max(each.not_valid_before_utc for each in certificates)
    last = min(each.not_valid_after_utc for each in certificates)
    name, remedy = "web_tls_cert", "renew the certificate"
    if now > last:
        return _broken(name, f"{path} expired on {_day(last)}", remedy)
    if now < first:
        return _broken(name, f"{path} is valid only from {_day(first)}", "check the clock of this machine")
    if last - now < _EXPIRES_SOON:
        return Check(name, Verdict.WARNING, f"{path} expires on {_day(last)}", None, remedy)
    return Check(name, Verdict.OK, f"{path} is valid until {_day(last)}, and its key fits")


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).date().isoformat()


def _token(token: str) -> Check:
    weak = token_weakness(token)
    if weak:
        return Check("web_api_token", Verdict.WARNING, weak, None, "make one with `crabnet token new`")
    return Check("web_api_token", Verdict.OK, "it is long and mixed enough")


def token_weakness(token: str) -> str:
    """Why a token may be guessed, "" if nothing shows that. The text does not contain the token.

    The bits are an estimate from the number of characters and how often each of them occurs. It is too high for words.
    """
    counts = Counter(token)
    per_char = -sum(count / len(token) * math.log2(count / len(token)) for count in counts.values()) if token else 0.0
    bits = int(per_char * len(token))
    if len(token) < limits.SECRET_CHARS_MIN:
        return f"it has {len(token)} characters, so it may be guessed; at least {limits.SECRET_CHARS_MIN} are needed"
    if bits < _TOKEN_BITS_MIN:
        return f"it has about {bits} bits, so it may be guessed; at least {_TOKEN_BITS_MIN} are needed"
    return ""
