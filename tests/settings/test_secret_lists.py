"""Lists of secrets: how they are split, and that no message, answer or representation shows one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet.errors import Reason, UsageError
from crabnet.settings import KNOBS, Settings, resolve, shown

VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=30)


def urls(text: str) -> tuple[str, ...]:
    return resolve({}, {"CRABNET_ALERT_URLS": text}, None).settings.alert_urls


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        (" \n", ()),
        ("https://a/x", ("https://a/x",)),
        ("https://a/x,https://b/y", ("https://a/x", "https://b/y")),
        ("https://a/x, tgram://b/y\n  json://c", ("https://a/x", "tgram://b/y", "json://c")),
        ("mailto://a?to=b,c,d https://a/?q=1,2", ("mailto://a?to=b,c,d", "https://a/?q=1,2")),
        ("https://a/x https://a/x", ("https://a/x",)),
        ("HTTPS://[::1]:8443/x", ("HTTPS://[::1]:8443/x",)),
    ],
)
def test_urls_are_split_at_commas_and_white_space_before_a_scheme(text: str, found: tuple[str, ...]) -> None:
    assert urls(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "s3cr3t",
        "https://",
        "https://host/s3 cr3t",
        "https://host:99999/s3cr3t",
        "https://ho%st/s3cr3t",
        "https://h\\@s3cr3t/",
        "https://h/s3cr3t\u00e9",
        "https:///s3cr3t",
        "https://host/" + "s3cr3t" * 400,
        " ".join(f"https://s3cr3t{number}/" for number in range(17)),
    ],
)
def test_what_is_no_url_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        urls(text)
    assert refused.value.reason is Reason.INVALID_CONFIG
    assert "cr3t" not in refused.value.message
    assert "alert_urls = <secret> has" in refused.value.message


@pytest.mark.parametrize("command", ["echo 's3cr3t", "'", "   x'"])
def test_what_is_no_command_is_refused_without_showing_it(command: str) -> None:
    with pytest.raises(UsageError) as refused:
        resolve({}, {"CRABNET_ALERT_COMMANDS": command}, None)
    assert "s3cr3t" not in refused.value.message
    with pytest.raises(UsageError):
        Settings(alert_commands=(command,))


def test_commands_are_one_per_line_and_may_contain_anything_else() -> None:
    text = "mail -s 'a, b' x@y\n\n /bin/tee /tmp/x \n"
    found = resolve({}, {"CRABNET_ALERT_COMMANDS": text}, None).settings.alert_commands
    assert found == ("mail -s 'a, b' x@y", "/bin/tee /tmp/x")


def test_of_a_url_only_scheme_and_host_of_a_webhook_are_shown() -> None:
    settings = Settings(
        alert_urls=("https://u:pw@host.example:8443/path?key#frag", "tgram://token/chat", "slack://a/b/c"),
        alert_commands=("/usr/bin/curl -u me:pw", "true"),
        alert_secret="s3cr3t",
    )
    values = shown(settings)
    assert values["alert_urls"] == "https://host.example:8443/…, tgram://…, slack://…"
    assert values["alert_commands"] == "curl …, true …"
    assert values["alert_secret"] == "<secret>"
    assert shown(Settings())["alert_urls"] == "(none)"


@given(VISIBLE, VISIBLE)
def test_no_path_or_login_is_ever_shown(login: str, path: str) -> None:
    url = f"https://{login}-s3cr3t@host/s3cr3t-{path}"
    try:
        said = str(shown(Settings(alert_urls=(url,)))["alert_urls"])
    except UsageError as refused:
        said = refused.message
    assert "s3cr3t" not in said


def test_secrets_have_no_flag_and_need_a_private_file(tmp_path: Path) -> None:
    secret = {knob.name: knob.flag for knob in KNOBS if knob.name in {"alert_urls", "alert_commands", "alert_secret"}}
    assert secret == {"alert_urls": None, "alert_commands": None, "alert_secret": None}
    path = tmp_path / "c.toml"
    path.write_text('alert_urls = ["https://host/a,b"]\nalert_commands = ["true x"]\n')
    path.chmod(0o600)
    assert resolve({}, {}, path).settings.alert_urls == ("https://host/a,b",)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="every user can access it"):
        resolve({}, {}, path)
