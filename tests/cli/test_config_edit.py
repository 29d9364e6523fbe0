"""``crabnet config init``, ``get`` and ``set``: the file, its mode, secrets, and values that are refused."""

from __future__ import annotations

import io
import re
import stat
import tomllib
from pathlib import Path

import pytest

from crabnet.cli.main import main
from crabnet.settings import KNOBS

SECRET = "s3cret-of-thirty-two-characters!"


def run(capsys: pytest.CaptureFixture[str], data_dir: Path, *words: str) -> tuple[int, str, str]:
    code = main(["config", *words, "-d", str(data_dir)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_new_file_shows_common_settings_and_sets_those_that_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = tmp_path / "new" / "data"
    file = data_dir / "crabnet.toml"
    assert run(capsys, data_dir, "init", "--alias", "lab") == (0, f"wrote {file}\n", "")
    text = file.read_text()
    assert tomllib.loads(text) == {"alias": "lab", "work": {}}
    assert '# listen_addr = "0.0.0.0:9012"\n' in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    code, _, err = run(capsys, data_dir, "init")
    assert (code, "exists; change it with crabnet config set" in err) == (2, True)
    assert file.read_text() == text
    assert main(["config", "verify", "-d", str(data_dir), "--listen-addr", "127.0.0.1:0"]) in {0, 5}
    capsys.readouterr()


def test_the_settings_of_a_new_file_are_right_without_their_comments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, tmp_path, "init")[0] == 0
    file = tmp_path / "crabnet.toml"
    text, settings = re.subn(r"^# (\w+ = )", r"\1", file.read_text(), flags=re.MULTILINE)
    file.write_text(text)
    assert settings > 15
    code, out, err = run(capsys, tmp_path, "show")
    assert (code, err) == (0, "")
    assert out.count(f"(file {file})") == settings


@pytest.mark.parametrize(
    ("key", "value", "printed", "got"),
    [
        ("alias", "x y", 'alias = "x y"', "x y"),
        ("work.allow", "echo,sha256sum", 'work.allow = ["echo", "sha256sum"]', "echo,sha256sum"),
        ("runner_allowed_commands", "cat", 'runner_allowed_commands = ["cat"]', "cat"),
        ("work.price", "5", "work.price = 5", "5"),
        ("work.min_settled", "0.9", "work.min_settled = 0.9", "0.9"),
        ("auto_bid", "yes", "auto_bid = true", "true"),
        ("bootstrap_peers", "h:1,[::1]:2", 'bootstrap_peers = ["h:1", "[::1]:2"]', "h:1,[::1]:2"),
    ],
)
def test_what_is_set_is_got(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: str, printed: str, got: str
) -> None:
    file = tmp_path / "crabnet.toml"
    file.write_text("# mine\nnamespace = 'n' # stays\n[work]\nmin_price = 1\n")
    file.chmod(0o640)
    assert run(capsys, tmp_path, "set", key, value) == (0, f"{printed}\n", "")
    assert run(capsys, tmp_path, "get", key)[:2] == (0, f"{got}\n")
    assert {"# mine", "namespace = 'n' # stays", "min_price = 1"} <= set(file.read_text().splitlines())
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_setting_with_two_names_is_changed_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "crabnet.toml"
    file.write_text("[work]\nallow = ['a']\n")
    assert run(capsys, tmp_path, "set", "runner_allowed_commands", "b")[0] == 0
    assert file.read_text() == '[work]\nallow = ["b"]\n'


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["alais", "x"], "did you mean alias?"),
        (["work.prise", "1"], "did you mean work.price?"),
        (["listen_addr", "nonsense"], "has no port"),
        (["work.min_settled", "1.5"], "work_min_settled"),
        (["data_dir", "/x"], "use -d"),
        (["web_api_token", SECRET], "give - and write the secret to standard input"),
    ],
)
def test_what_is_wrong_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    file = tmp_path / "crabnet.toml"
    file.write_text("alias = 'a'\n")
    code, out, err = run(capsys, tmp_path, "set", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert SECRET not in err
    assert file.read_text() == "alias = 'a'\n"


def test_a_secret_is_never_shown_and_hides_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "crabnet.toml"
    file.write_text("")
    file.chmod(0o644)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{SECRET}\n".encode())))
    code, out, err = run(capsys, tmp_path, "set", "web_api_token", "-")
    assert code == 0, err
    assert tomllib.loads(file.read_text()) == {"web_api_token": SECRET}
    assert stat.S_IMODE(file.stat().st_mode) & 0o007 == 0
    shown = out + err + "".join(run(capsys, tmp_path, "get", "web_api_token")[1:])
    assert SECRET not in shown
    assert next(knob for knob in KNOBS if knob.name == "web_api_token").secret
