"""The checks of the door over HTTP: address, TLS files, strength of a token."""

from __future__ import annotations

import secrets
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from crabnet.errors import Reason
from crabnet.operator.check import Check, Verdict, row_of
from crabnet.operator.verify_web import WebDoor, check_web, token_weakness

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def pair(directory: Path, name: str, *, days: int, from_day: int = -1) -> tuple[Path, Path]:
    """A self-signed certificate that is valid for some days around NOW, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "crabnet.test")])
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW + timedelta(days=from_day))
        .not_valid_after(NOW + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = directory / f"{name}.crt", directory / f"{name}.key"
    cert_path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    key_path.chmod(0o600)
    return cert_path, key_path


def worst(door: WebDoor) -> dict[str, Check]:
    """The worst finding of each name."""
    found: dict[str, Check] = {}
    order = [Verdict.OK, Verdict.WARNING, Verdict.FAILED]
    for each in check_web(door, NOW):
        assert each.verdict is Verdict.OK or row_of(each).remedy
        known = found.get(each.name)
        if known is None or order.index(each.verdict) > order.index(known.verdict):
            found[each.name] = each
    return found


def door(
    address: str = "127.0.0.1:0", cert: Path | None = None, key: Path | None = None, token: str | None = None
) -> WebDoor:
    return WebDoor(address, cert, key, token, running=False)


def test_a_free_address_of_this_machine_is_fine_and_off_is_too() -> None:
    assert worst(door())["web_addr"].verdict is Verdict.OK
    assert worst(door("off"))["web_addr"].verdict is Verdict.OK


def test_a_port_in_use_and_a_name_without_address_are_warnings() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = worst(door(f"127.0.0.1:{taken.getsockname()[1]}"))["web_addr"]
        assert found.verdict is Verdict.WARNING
        assert found.error is not None
        assert found.error.reason is Reason.ADDRESS_IN_USE
        running = WebDoor(f"127.0.0.1:{taken.getsockname()[1]}", None, None, None, running=True)
        assert worst(running)["web_addr"].verdict is Verdict.OK
    found = worst(door("no.such.invalid:1"))["web_addr"]
    assert found.error is not None
    assert found.error.reason is Reason.ADDRESS_INVALID


def test_other_machines_without_tls_are_a_warning(tmp_path: Path) -> None:
    assert worst(door("0.0.0.0:0"))["web_addr"].verdict is Verdict.WARNING
    cert, key = pair(tmp_path, "good", days=90)
    assert worst(door("0.0.0.0:0", cert, key))["web_addr"].verdict is Verdict.OK


@pytest.mark.parametrize(
    ("days", "from_day", "verdict", "said"),
    [
        (90, -1, Verdict.OK, "valid until"),
        (3, -1, Verdict.WARNING, "expires on"),
        (-1, -9, Verdict.FAILED, "expired on"),
        (90, 2, Verdict.FAILED, "valid only from"),
    ],
)
def test_the_dates_of_a_certificate(tmp_path: Path, days: int, from_day: int, verdict: Verdict, said: str) -> None:
    cert, key = pair(tmp_path, "pair", days=days, from_day=from_day)
    found = worst(door(cert=cert, key=key))["web_tls_cert"]
    assert (found.verdict, said in found.detail) == (verdict, True)


def test_files_that_do_not_work(tmp_path: Path) -> None:
    cert, key = pair(tmp_path, "one", days=90)
    _, other_key = pair(tmp_path, "two", days=90)
    assert worst(door(cert=cert, key=other_key))["web_tls_cert"].verdict is Verdict.FAILED
    assert worst(door(cert=tmp_path / "no.crt", key=key))["web_tls_cert"].verdict is Verdict.FAILED
    assert worst(door(cert=cert, key=tmp_path / "no.key"))["web_tls_key"].verdict is Verdict.FAILED
    garbage = tmp_path / "garbage.crt"
    garbage.write_text("garbage")
    assert worst(door(cert=garbage, key=key))["web_tls_cert"].verdict is Verdict.FAILED
    both = tmp_path / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    both.chmod(0o600)
    assert worst(door(cert=both))["web_tls_cert"].verdict is Verdict.OK
    key.chmod(0o644)
    assert worst(door(cert=cert, key=key))["web_tls_key"].verdict is Verdict.WARNING


@pytest.mark.parametrize("token", ["secret", "changeme", "a" * 64, "abababab" * 8, "1234567890"])
def test_weak_tokens(token: str) -> None:
    found = worst(door(token=token))["web_api_token"]
    assert found.verdict is Verdict.WARNING
    assert token not in found.detail


@pytest.mark.parametrize("make", [secrets.token_hex, secrets.token_urlsafe])
def test_random_tokens_are_strong(make: object) -> None:
    assert callable(make)
    assert not token_weakness(str(make(32)))
