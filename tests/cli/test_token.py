"""``crabnet token`` and ``crabnet web open``: real commands with and without a node; secrets stay where they belong."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crabnet.access.file import TOKENS_FILE, token_reader
from crabnet.access.secret import digest_of, make_secret
from crabnet.errors import ExitCode
from tests.support.nodes import CRABNET, Json, Nodes, crabnet, environment, quiet, wait_for

SECRET = re.compile(r"crab_[0-9A-Za-z]{49}")
BASE = "http://127.0.0.1:3000"


@pytest.fixture(name="nodes")
def _nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    yield made
    made.close()


@pytest.fixture(
    name="data_dir", params=[True, pytest.param(False, marks=pytest.mark.deep)], ids=["with a node", "without a node"]
)
def _data_dir(request: pytest.FixtureRequest, nodes: Nodes) -> Path:
    """A data dir, once with a running node and once without."""
    node = nodes.start("d")
    if not request.param:
        assert node.end() == 0
    return node.data_dir


def names(data_dir: Path) -> dict[str, str]:
    """The state of each token that ``token list`` shows."""
    done = crabnet("token", "list", "--json", *quiet(data_dir))
    assert done.returncode == 0, done.stderr
    return {each["name"]: each["state"] for each in json.loads(done.stdout)["tokens"]}


def cmdlines() -> str:
    """The arguments of all processes of the machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return "\n".join(found)


def files_with(text: str, directory: Path) -> list[Path]:
    """The files below a directory that contain a text."""
    return [path for path in directory.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_token_is_made_listed_and_revoked(data_dir: Path) -> None:
    done = crabnet("token", "new", "ci", "--scope", "operate", "--expires", "30d", *quiet(data_dir))
    assert done.returncode == 0, done.stderr
    secret = done.stdout.removesuffix("\n")
    assert SECRET.fullmatch(secret), "standard output has the secret and nothing else"
    assert secret not in done.stderr
    (token,) = token_reader(data_dir).tokens()
    assert (token.name, token.scope, token.sha256) == ("ci", "operate", digest_of(secret))
    assert token.expires_at == token.created_at + 30 * 86_400
    assert (data_dir / TOKENS_FILE).stat().st_mode & 0o7777 == 0o600

    again = crabnet("token", "new", "ci", *quiet(data_dir))
    assert again.returncode == ExitCode.REFUSED
    assert "token_exists" in again.stderr
    assert again.stdout == ""
    assert names(data_dir) == {"ci": "valid"}

    assert crabnet("token", "revoke", "nobody", *quiet(data_dir)).returncode == ExitCode.REFUSED
    assert crabnet("token", "revoke", "ci", *quiet(data_dir)).stdout == "revoked ci\n"
    assert names(data_dir) == {"ci": "revoked"}
    listed = crabnet("token", "list", *quiet(data_dir)).stdout
    assert re.fullmatch(r"ci  operate  revoked  created \S+Z  expires \S+Z  revoked \S+Z\n", listed)
    assert files_with(secret, data_dir) == []


def test_json_and_namespaces(data_dir: Path) -> None:
    done = crabnet("token", "new", "n", "--for-namespace", "a", "--for-namespace", "b", "--json", *quiet(data_dir))
    answer: Json = json.loads(done.stdout)
    assert SECRET.fullmatch(str(answer["secret"]))
    assert answer["token"] == json.loads(crabnet("token", "list", "--json", *quiet(data_dir)).stdout)["tokens"][0]
    assert token_reader(data_dir).tokens()[0].namespaces == ("a", "b")


def test_the_secret_can_go_to_a_new_file(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "secret"
    done = crabnet("token", "new", "ci", "--out", str(out), *quiet(data_dir))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert out.stat().st_mode & 0o7777 == 0o600
    assert digest_of(out.read_text().strip()) == token_reader(data_dir).tokens()[0].sha256
    before = out.read_text()
    assert crabnet("token", "new", "b", "--out", str(out), *quiet(data_dir)).returncode == ExitCode.USAGE
    assert out.read_text() == before
    other = tmp_path / "other"
    assert crabnet("token", "new", "ci", "--out", str(other), *quiet(data_dir)).returncode == ExitCode.REFUSED
    assert not other.exists(), "no token was made, so no secret is left"
    assert names(data_dir) == {"ci": "valid"}


def test_a_secret_of_ones_own_comes_from_a_file_standard_input_or_the_environment(
    data_dir: Path, tmp_path: Path
) -> None:
    secrets = [make_secret(), make_secret(), "x" * 32]
    file = tmp_path / "mine"
    file.write_text(secrets[0] + "\n")
    file.chmod(0o600)
    done = crabnet("token", "new", "a", "--secret-file", str(file), *quiet(data_dir))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "warning" not in done.stderr
    piped = subprocess.run(
        [*CRABNET, "token", "new", "b", "--secret-file", "-", *quiet(data_dir)],
        input=secrets[1],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    assert piped.stdout == ""
    crabnet("token", "new", "c", *quiet(data_dir), env=environment(CRABNET_TOKEN_SECRET=secrets[2]))
    assert [each.sha256 for each in token_reader(data_dir).tokens()] == [digest_of(secret) for secret in secrets]
    for secret in secrets:
        assert files_with(secret, data_dir) == []

    for bad in ("short", make_secret()[:-1] + "-", ""):
        done = crabnet("token", "new", "d", *quiet(data_dir), env=environment(CRABNET_TOKEN_SECRET=bad))
        assert done.returncode == ExitCode.USAGE
        assert not bad or bad not in done.stderr.replace("--", "")
    file.chmod(0o644)
    assert (
        "warning: every user can access"
        in crabnet("token", "new", "e", "--secret-file", str(file), *quiet(data_dir)).stderr
    )
    assert "d" not in names(data_dir)


@pytest.mark.parametrize("words", [("--expires", "soon"), ("--expires", "0"), ("--scope", "root"), ("--secret", "x")])
def test_bad_arguments(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert crabnet("token", "new", "ci", *words, *quiet(tmp_path / "d")).returncode == ExitCode.USAGE
    assert not (tmp_path / "d").exists()


def test_a_file_open_to_others_closes_the_door_until_it_is_repaired(data_dir: Path) -> None:
    assert crabnet("token", "new", "ci", *quiet(data_dir)).returncode == 0
    (data_dir / TOKENS_FILE).chmod(0o644)
    for words in (("token", "list"), ("token", "new", "b"), ("token", "revoke", "ci"), ("config", "verify")):
        done = crabnet(*words, *quiet(data_dir))
        assert done.returncode == ExitCode.DAMAGED, words
        assert "chmod 600" in done.stdout + done.stderr
    (data_dir / TOKENS_FILE).chmod(0o600)
    assert names(data_dir) == {"ci": "valid"}


def test_a_revocation_counts_at_once_for_who_reads_the_file(nodes: Nodes) -> None:
    node = nodes.start("d")
    node.ok("token", "new", "ci")
    reader = token_reader(node.data_dir)
    assert [each.revoked_at for each in reader.tokens()] == [None]
    node.kill()
    assert node.cli("token", "revoke", "ci").returncode == 0
    assert all(each.revoked_at for each in reader.tokens())


def test_config_verify_warns_of_weak_settings(tmp_path: Path) -> None:
    env = environment(CRABNET_WEB_API_TOKEN=" guessable ", CRABNET_WEB_API_AUTH_REQUIRED="No")
    done = crabnet("config", "verify", *quiet(tmp_path / "d"), env=env)
    assert "web_api_token: it has 9 characters" in done.stdout
    assert "web_api_auth_required: false: everybody" in done.stdout
    shown = crabnet("config", "show", *quiet(tmp_path / "d"), env=env)
    assert "guessable" not in done.stdout + done.stderr + shown.stdout
    assert "web_api_auth_required = false" in shown.stdout
    empty = crabnet("config", "verify", *quiet(tmp_path / "d"), env=environment(CRABNET_WEB_API_TOKEN="  "))
    assert "web_api_token" not in empty.stdout, "an empty token is none"


def test_a_secret_in_a_file_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "crabnet.toml"
    config.write_text('web_api_token = "the-static-token"\n')
    config.chmod(0o604)
    words = ("config", "show", "--config", str(config), *quiet(tmp_path / "d"))
    done = crabnet(*words)
    assert done.returncode == ExitCode.USAGE
    assert "unsafe_permissions" in done.stderr
    assert "the-static-token" not in done.stderr
    config.chmod(0o640)
    assert f"web_api_token = <secret>  (file {config})" in crabnet(*words).stdout


# --- web open ----------------------------------------------------------------------------------------------


def code_in(link: str) -> str:
    base, _, code = link.strip().partition("/#login=")
    assert base == BASE
    assert SECRET.fullmatch(code)
    return code


def test_a_link_is_printed_and_logs_in_once(nodes: Nodes) -> None:
    node = nodes.start("d")
    code = code_in(node.ok("web", "open", "--url", BASE))
    session = make_secret()
    node.ask("web.redeem", code=code, secret_sha256=digest_of(session))
    done = json.loads(node.ok("web", "open", "--url", BASE + "/", "--json"))
    unused = code_in(done["link"])
    states = {each.name: each.sha256 for each in token_reader(node.data_dir).tokens()}
    assert list(states.values()) == [digest_of(session)]
    (name,) = states
    node.ok("token", "revoke", name)
    node.await_event("web_login", token_name=name, scope="admin")
    node.await_event("token_revoked", token_name=name)
    assert node.end() == 0
    for secret in (code, unused, session):
        assert files_with(secret, node.data_dir) == []
        assert secret not in node.errors()


def test_without_a_node_or_a_page_there_is_no_link(nodes: Nodes) -> None:
    node = nodes.start("d")
    done = node.cli("web", "open")
    assert done.returncode == ExitCode.REFUSED
    assert "no web page" in done.stderr
    assert node.cli("web", "open", "--url", "javascript:alert(1)").returncode == ExitCode.USAGE
    node.kill()
    done = node.cli("web", "open", "--url", BASE)
    assert done.returncode == ExitCode.NETWORK
    assert done.stdout == ""


def test_on_a_desktop_the_browser_gets_a_private_page_and_never_the_link_in_its_arguments(
    nodes: Nodes, tmp_path: Path
) -> None:
    node = nodes.start("d")
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {seen}.part\nmv {seen}.part {seen}\n')
    browser.chmod(0o700)
    env = environment(DISPLAY=":0", BROWSER=f"{browser} %s", XDG_RUNTIME_DIR=str(tmp_path))
    leader, follower = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "crabnet", "web", "open", "--url", BASE, "--data-dir", str(node.data_dir)],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    os.close(follower)
    try:
        wait_for("the browser was started", seen.exists)
        (url,) = seen.read_text().splitlines()
        page = Path(url.removeprefix("file://"))
        assert page.parent == tmp_path
        assert page.stat().st_mode & 0o7777 == 0o600
        found = re.search(r'url=(http[^"]+)"', page.read_text())
        assert found is not None
        code = code_in(found[1])
        assert code not in cmdlines()
        assert code in os.read(leader, 4_096).decode(), "the link is printed, too"
        node.ask("web.redeem", code=code, secret_sha256=digest_of(make_secret()))
        _, errors = command.communicate(timeout=60)
        assert errors.endswith("logged in\n")
        assert command.returncode == 0
        assert not page.exists()
    finally:
        os.close(leader)
        if command.poll() is None:
            command.kill()
            command.wait()
