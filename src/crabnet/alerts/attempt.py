"""One try to give a message to one target, in a process of its own, so that it can be ended whatever it does.

The process reads its order from standard input, and writes one line about the outcome to standard output. It imports
little, because each try waits for it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from crabnet import limits
from crabnet._version import __version__
from crabnet.child import die_with_parent
from crabnet.errors import Reason

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

SIGNATURE_HEADER: Final = "X-Crabnet-Signature"
_RETRY_AFTER_DIGITS: Final = 6

Order = dict[str, str]
"""``way``, ``secret`` (the URL or command), ``body``, ``title``, ``text``, ``id``, ``signing_secret``, ``parent``."""


class TryFailedError(Exception):
    """A try has failed. The message shows no secret and nothing of what the target has answered."""

    def __init__(self, reason: Reason, detail: str, ask_ms: int = 0) -> None:
        self.reason, self.detail, self.ask_ms = reason, detail, ask_ms
        super().__init__(detail)


def main() -> None:
    """The program of one try."""
    die_with_parent(signal.SIGTERM)
    order: Order = json.loads(sys.stdin.buffer.read())
    if os.getppid() != int(order["parent"]):
        raise SystemExit(1)  # The parent has died before this process could ask to die with it.
    outcome: dict[str, str | int] = {}
    try:
        {"webhook": _post, "apprise": _notify, "command": _run}[order["way"]](order)
    except TryFailedError as error:
        outcome = {"reason": error.reason.value, "detail": error.detail, "ask_ms": error.ask_ms}
    except Exception as error:  # noqa: BLE001 - its text may contain the secret
        outcome = {"reason": Reason.INTERNAL.value, "detail": f"unexpected {type(error).__name__}"}
    sys.stdout.write(json.dumps(outcome) + "\n")
    sys.stdout.flush()


def signature(secret: str, body: bytes) -> str:
    """The value of the signature header: ``sha256=`` and HMAC-SHA256 of the body, in hex."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _post(order: Order) -> None:
    """Send a POST request. Follows no redirect. Raises TryFailedError."""
    from http.client import HTTPException  # noqa: PLC0415 - not needed by the other ways

    url = urlsplit(order["secret"])
    body = order["body"].encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"crabnet/{__version__}",
        "Idempotency-Key": order["id"],
        "Connection": "close",
    }
    if order["signing_secret"]:
        headers[SIGNATURE_HEADER] = signature(order["signing_secret"], body)
    if url.username is not None:
        login = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    try:
        connection = _connection(url.scheme.lower(), url.hostname or "", url.port)
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        response.read(limits.ALERT_RESPONSE_BYTES_MAX)
        connection.close()
    except OSError as error:
        raise _unreachable(error) from None
    except HTTPException as error:
        raise TryFailedError(Reason.MALFORMED, f"its answer is not HTTP ({type(error).__name__})") from None
    _judge(response)


def _connection(scheme: str, host: str, port: int | None) -> HTTPConnection:
    from http.client import HTTPConnection, HTTPSConnection  # noqa: PLC0415 - not needed by the other ways

    if scheme == "http":
        return HTTPConnection(host, port)
    import ssl  # noqa: PLC0415 - not needed for http

    return HTTPSConnection(host, port, context=ssl.create_default_context())


def _judge(response: HTTPResponse) -> None:
    status = response.status
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise TryFailedError(
            Reason.SEND_FAILED, f"it answered {status}, a redirect, which is not followed; configure the final URL"
        )
    asked = response.headers.get("Retry-After", "").strip()
    ask_ms = int(asked) * 1000 if asked.isascii() and asked.isdigit() and len(asked) <= _RETRY_AFTER_DIGITS else 0
    raise TryFailedError(Reason.SEND_FAILED, f"it answered {status}", ask_ms)


def _unreachable(error: OSError) -> TryFailedError:
    import socket  # noqa: PLC0415 - loaded already
    import ssl  # noqa: PLC0415 - seldom needed

    if isinstance(error, ssl.SSLCertVerificationError):
        return TryFailedError(Reason.SEND_FAILED, f"its certificate is not valid: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        return TryFailedError(Reason.SEND_FAILED, f"TLS failed ({error.reason or 'unknown'})")
    if isinstance(error, socket.gaierror):
        return TryFailedError(Reason.ADDRESS_INVALID, "its host name cannot be resolved")
    return TryFailedError(Reason.SEND_FAILED, f"it cannot be reached: {error.strerror or type(error).__name__}")


def _notify(order: Order) -> None:
    """Have apprise send it. Raises TryFailedError."""
    from crabnet.alerts.targets import UNKNOWN_SERVICE, service_of  # noqa: PLC0415 - not needed by the other ways

    service = service_of(order["secret"])
    if service is None:
        raise TryFailedError(Reason.INVALID_CONFIG, UNKNOWN_SERVICE)
    logging.disable(logging.CRITICAL)  # its log may contain secrets
    if not service.notify(title=order["title"], body=order["text"]):
        raise TryFailedError(Reason.SEND_FAILED, "the service did not take it")


def _run(order: Order) -> None:
    """Run a command with the body as its standard input. Raises TryFailedError."""
    # The command is in the group of this process. When this process is to end, so is everything in the group.
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    words = shlex.split(order["secret"])
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            preexec_fn=die_with_parent,  # noqa: PLW1509 - this process has one thread
        )
    except OSError as error:
        raise TryFailedError(Reason.SPAWN_FAILED, f"it cannot be started: {error.strerror}") from None
    with suppress(BrokenPipeError):  # it may end without reading all
        process.communicate(order["body"].encode() + b"\n")
    code = process.wait()
    if code:
        how = f"exit status {code}" if code > 0 else f"signal {-code}"
        raise TryFailedError(Reason.SEND_FAILED, f"it failed: {how}")
