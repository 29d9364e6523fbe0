"""The rules by which a debug bundle is redacted."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.control.client import JsonValue
from crabnet.monitor.redaction import LEFT_OUT, SECRET, TASK_FIELDS, Redaction, host_names
from crabnet.operator.bundle import Bundle, _places, archive_of

KEY = b"k" * 32


@pytest.mark.parametrize(
    "text",
    [
        "the token hunter2-hunter2 is in use",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n-----END PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw",
        "Authorization: Bearer MC4CAQAwBQYDK2Vw",
        "X-Api-Token: MC4CAQAwBQYDK2Vw",
        "crab_MC4CAQAwBQYDK2VwMC4CAQAwBQYDK2Vw",
    ],
)
def test_secrets_are_never_in_it(text: str) -> None:
    told = Redaction(secrets=("hunter2-hunter2",), with_tasks=True).text(text)
    assert SECRET in told
    assert "MC4CAQ" not in told
    assert "hunter2" not in told


@given(st.text("abXY01.-", min_size=8, max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_the_value_of_a_secret_setting_is_never_in_it(secret: str, before: str, after: str) -> None:
    told = Redaction(secrets=(secret,)).value({f"{before}{secret}": [before + secret + after]})
    assert secret not in json.dumps(told, ensure_ascii=False)


@pytest.mark.parametrize("field", sorted(TASK_FIELDS))
def test_what_people_put_into_tasks_is_left_out_by_default(field: str) -> None:
    value: JsonValue = {"seeds": [{"id": "x", field: "private"}]}
    assert Redaction().value(value) == {"seeds": [{"id": "x", field: LEFT_OUT}]}
    assert Redaction(with_tasks=True).value(value) == value


def test_the_home_directory_is_a_tilde() -> None:
    redaction = Redaction(home="/home/anna")
    assert redaction.text("/home/anna/.crabnet and /home/anna") == "~/.crabnet and ~"
    assert redaction.text("/home/annabel/x") == "/home/annabel/x"


@pytest.mark.parametrize(
    "text",
    [
        "from 192.0.2.77:9012 to us",
        "192.0.2.77",
        "[2001:db8::77]:9012",
        "2001:db8::77",
        "seen at peer.example.org:9012",
    ],
)
def test_addresses_are_words_on_request(text: str) -> None:
    told = Redaction(hash_key=KEY, host_names=("peer.example.org",)).text(text)
    assert "77" not in told.replace("addr-", "") or "addr-" in told
    assert not any(part in told for part in ("192.0.2", "2001:db8", "peer.example"))
    assert "addr-" in told
    assert Redaction().text(text) == text


def test_the_words_are_the_same_within_a_bundle_and_differ_between_bundles() -> None:
    one, other = Redaction(hash_key=KEY), Redaction(hash_key=b"o" * 32)
    assert one.text("192.0.2.1") == one.text("192.0.2.1")
    assert one.text("192.0.2.1") != one.text("192.0.2.2")
    assert one.text("192.0.2.1") != other.text("192.0.2.1")


@pytest.mark.parametrize("text", ["0.0.0.0:9012", "127.0.0.1:1", "version 0.1.0", "2026-11-29T22:19:07Z", "[::]:9012"])
def test_what_says_nothing_about_anybody_stays(text: str) -> None:
    assert Redaction(hash_key=KEY).text(text) == text


def test_the_text_of_an_exception_is_left_out_of_a_traceback() -> None:
    told = _places(
        "Traceback (most recent call last):\n"
        '  File "x.py", line 3, in f\n'
        "    raise ValueError(text)\n"
        "crabnet.errors.RefusedError: private\nand more private\n"
    )
    assert "private" not in told
    assert 'File "x.py", line 3' in told
    assert told.endswith("crabnet.errors.RefusedError")


def test_an_archive_has_one_directory_of_files_for_the_user_alone() -> None:
    content = archive_of(Bundle({"README.txt": "read\n", "a/b.json": "{}\n"}), "name", 5)
    with tarfile.open(fileobj=BytesIO(content)) as archive:
        assert [(each.name, each.mode, each.mtime) for each in archive] == [
            ("name/README.txt", 0o600, 5),
            ("name/a/b.json", 0o600, 5),
        ]


def test_hosts_of_addresses() -> None:
    assert host_names(("peer.example:1", "[::1]:2", "nonsense")) == ("peer.example", "::1")
