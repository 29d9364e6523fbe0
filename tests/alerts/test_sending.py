"""One try at one target, with real receivers and commands, whatever they do."""

from __future__ import annotations

import hashlib
import hmac
import os
import signal
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crabnet.alerts.config import config_of
from crabnet.alerts.messages import Entry, Message, Sender, bundle_of, message_of
from crabnet.alerts.sending import Outcome, Sending, send
from crabnet.alerts.targets import Target, targets_of
from crabnet.errors import Reason
from crabnet.settings import Settings
from tests.alerts.making import NODE, event
from tests.support.nodes import wait_for
from tests.support.ports import reserved_port
from tests.support.receiver import Answer, drip, flood, hang, receiver, status

LONG_MS = 60_000
SHORT_MS = 1_500
SECRET = "s3cret-path"


def message() -> Message:
    return message_of(bundle_of(Entry("alert", 7, event=event(7))), Sender(id=NODE, alias="a", namespace="n"), 99)


def target_of(tmp_path: Path, *, url: str = "", command: str = "") -> Target:
    settings = Settings(
        data_dir=tmp_path, alert_urls=(url,) if url else (), alert_commands=(command,) if command else ()
    )
    [target] = targets_of(config_of(settings))
    return target


def tried(target: Target, timeout_ms: int = LONG_MS, signing_secret: str | None = None) -> Outcome:
    return trio.run(send, target, message(), Sending(signing_secret=signing_secret, timeout_ms=timeout_ms))


def test_a_webhook_gets_the_message_signed_and_with_the_login_of_its_url(tmp_path: Path) -> None:
    with receiver() as server:
        url = server.url(f"/{SECRET}?k=v,w").replace("//", "//anna:p%40ss@", 1)
        assert tried(target_of(tmp_path, url=url), signing_secret="key").reason is None
    [posted] = server.posted
    assert posted.path == f"/{SECRET}?k=v,w"
    assert posted.message["text"].startswith("alert on a: ")
    assert posted.headers["content-type"] == "application/json"
    assert posted.headers["idempotency-key"] == f"{NODE}:7"
    assert posted.headers["authorization"] == "Basic YW5uYTpwQHNz"
    expected = hmac.new(b"key", posted.body, hashlib.sha256).hexdigest()
    assert posted.headers["x-crabnet-signature"] == f"sha256={expected}"


def test_without_a_secret_there_is_no_signature(tmp_path: Path) -> None:
    with receiver() as server:
        assert tried(target_of(tmp_path, url=server.url("/x"))) == Outcome()
    assert "x-crabnet-signature" not in server.posted[0].headers


@pytest.mark.parametrize(
    ("answer", "reason", "said"),
    [
        (status(500), Reason.SEND_FAILED, "it answered 500"),
        (status(404), Reason.SEND_FAILED, "it answered 404"),
        (hang, Reason.TIMEOUT, "it took longer than 1500 ms"),
        (drip, Reason.TIMEOUT, "it took longer than 1500 ms"),
        (lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n"), Reason.MALFORMED, "its answer is not HTTP"),
        (lambda handler: handler.connection.close(), Reason.SEND_FAILED, "it cannot be reached"),
    ],
    ids=["500", "404", "hangs", "drips", "no-http", "closes"],
)
def test_what_a_receiver_may_do_wrong(tmp_path: Path, answer: Answer, reason: Reason, said: str) -> None:
    with receiver() as server:
        server.usual[f"/{SECRET}"] = answer
        timeout_ms = SHORT_MS if reason is Reason.TIMEOUT else LONG_MS
        outcome = tried(target_of(tmp_path, url=server.url(f"/{SECRET}")), timeout_ms)
    assert outcome.reason is reason
    assert said in outcome.detail
    assert SECRET not in outcome.detail


def test_an_endless_answer_is_not_read_to_its_end(tmp_path: Path) -> None:
    with receiver() as server:
        server.usual["/x"] = flood
        assert tried(target_of(tmp_path, url=server.url("/x"))).reason is None


def test_a_receiver_may_ask_for_a_pause(tmp_path: Path) -> None:
    with receiver() as server:
        server.usual["/x"] = status(429, Retry_After="17")
        assert tried(target_of(tmp_path, url=server.url("/x"))).ask_ms == 17_000
        server.usual["/x"] = status(503, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT")
        assert tried(target_of(tmp_path, url=server.url("/x"))).ask_ms == 0


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(tmp_path: Path, code: int) -> None:
    with receiver() as server, receiver() as other:
        server.usual["/x"] = status(code, Location=other.url("/stolen"))
        outcome = tried(target_of(tmp_path, url=server.url("/x")))
        assert outcome.reason is Reason.SEND_FAILED
        assert "redirect" in outcome.detail
        assert other.posted == []


def test_a_port_without_receiver(tmp_path: Path) -> None:
    outcome = tried(target_of(tmp_path, url=f"http://127.0.0.1:{reserved_port()}/x"))
    assert outcome == Outcome(reason=Reason.SEND_FAILED, detail="it cannot be reached: Connection refused")


def test_a_certificate_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_certificate(tmp_path)
    with receiver(path) as server:
        refused = tried(target_of(tmp_path, url=server.url("/x")))
        assert refused.reason is Reason.SEND_FAILED
        assert "its certificate is not valid" in refused.detail
        assert server.posted == []
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        assert tried(target_of(tmp_path, url=server.url("/x"))).reason is None
        assert len(server.posted) == 1


def test_a_service_of_apprise_gets_title_and_text(tmp_path: Path) -> None:
    pytest.importorskip("apprise")
    with receiver() as server:
        url = server.url("/service").replace("http", "json")
        assert tried(target_of(tmp_path, url=url)).reason is None
        server.usual["/service"] = status(500)
        assert tried(target_of(tmp_path, url=url)).reason is Reason.SEND_FAILED
    assert server.posted[0].message["title"] == "Crabnet: a"
    assert server.posted[0].message["message"] == message().text


def test_a_service_that_nobody_knows(tmp_path: Path) -> None:
    pytest.importorskip("apprise")
    outcome = tried(target_of(tmp_path, url=f"nosuch://{SECRET}"))
    assert outcome.reason is Reason.INVALID_CONFIG
    assert SECRET not in outcome.detail


def test_a_command_gets_the_message_and_little_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRABNET_ALERT_SECRET", SECRET)
    out, env = tmp_path / "out put", tmp_path / "env"
    script = f"cat > '{out}'; env > '{env}'; pwd >> '{env}'"
    assert tried(target_of(tmp_path, command=f'/bin/sh -c "{script}" $(unused)')).reason is None
    assert out.read_text().count("\n") == 1
    assert f'"id":"{NODE}:7"' in out.read_text()
    names = {line.partition("=")[0] for line in env.read_text().splitlines()}
    assert names <= {"PATH", "HOME", "LANG", "PWD", "OLDPWD", "SHLVL", "_", "/"}


@pytest.mark.parametrize(
    ("command", "reason", "said"),
    [
        ("/nowhere/at/all x", Reason.SPAWN_FAILED, "it cannot be started: No such file or directory"),
        ("false", Reason.SEND_FAILED, "it failed: exit status 1"),
        ("sh -c 'kill -9 $$'", Reason.SEND_FAILED, "it failed: signal 9"),
    ],
)
def test_commands_that_fail(tmp_path: Path, command: str, reason: Reason, said: str) -> None:
    assert tried(target_of(tmp_path, command=command)) == Outcome(reason=reason, detail=said)


def test_a_command_that_reads_nothing_may_succeed(tmp_path: Path) -> None:
    assert tried(target_of(tmp_path, command="true")).reason is None


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def pids_in(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


FAMILY = "sh -c 'sleep 1000 & echo $! >> {0}; echo $$ >> {0}; wait'"
"""A command with a child of its own, which notes both."""


def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    noted = tmp_path / "pids"
    outcome = tried(target_of(tmp_path, command=FAMILY.format(noted)), SHORT_MS)
    assert outcome.reason is Reason.TIMEOUT
    assert len(pids_in(noted)) == 2
    wait_for("they are gone", lambda: not any(map(alive, pids_in(noted))))


def test_a_command_dies_with_the_process_that_has_started_it(tmp_path: Path) -> None:
    noted = tmp_path / "pids"
    pid = os.fork()
    if not pid:
        os.setsid()
        try:
            tried(target_of(tmp_path, command=FAMILY.format(noted)))
        finally:
            os._exit(1)
    wait_for("the command runs", lambda: len(pids_in(noted)) == 2)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for("they are gone", lambda: not any(map(alive, pids_in(noted))))


def test_a_command_that_ends_leaves_nothing_behind(tmp_path: Path) -> None:
    noted = tmp_path / "pids"
    assert tried(target_of(tmp_path, command=f"sh -c 'sleep 1000 & echo $! > {noted}'")).reason is None
    wait_for("it is gone", lambda: not any(map(alive, pids_in(noted))))


def test_no_argument_of_a_process_shows_the_secret(tmp_path: Path) -> None:
    seen: list[str] = []
    with receiver() as server:

        def look(handler: object) -> None:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.append(path.read_bytes().decode(errors="replace"))
                except OSError:
                    continue
            status(200)(handler)  # type: ignore[arg-type]

        server.usual[f"/{SECRET}"] = look
        assert tried(target_of(tmp_path, url=server.url(f"/{SECRET}"))).reason is None
    assert any("crabnet.alerts.attempt" in words for words in seen)
    assert not any(SECRET in words for words in seen)


def make_certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody trusts, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path
