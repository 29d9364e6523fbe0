"""What is built: wheel and sdist, manual pages and completions from the command line, the bill of materials."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement

from crabnet.cli.completion import SHELLS, script
from crabnet.cli.context import State
from crabnet.cli.document import EXIT_CODES, commands
from crabnet.cli.group import cli
from crabnet.cli.manual import pages
from hatch_build import COMPLETIONS
from scripts import sbom
from scripts.lock import ROOT, parse_lock
from scripts.try_wheel import FailedError, build, demand_same, unpacked

WORDS = {"seed", "status", "listen", "completion"}
"""Some of the commands that a shell must offer."""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An sdist and a wheel of this tree."""
    sdist, wheel = sorted(build(ROOT, tmp_path_factory.mktemp("dist"), "sdist", "wheel"), key=lambda path: path.suffix)
    return sdist, wheel


def _command_line_files() -> dict[str, str]:
    """What a fresh process makes, as a build does."""
    program = (
        "import json, pathlib, hatch_build; print(json.dumps(hatch_build.command_line_files(pathlib.Path('src'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    files: dict[str, str] = json.loads(done.stdout)
    return files


def test_the_wheel_has_what_the_command_line_gives(dist: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(dist[1]) as archive:
        data = {name.partition(".data/data/")[2]: name for name in archive.namelist() if ".data/" in name}
        found = {place: archive.read(name).decode() for place, name in data.items()}
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        assert "\nName: crabnet-node\n" in archive.read(metadata).decode()
    assert found == _command_line_files()
    assert {f"share/man/man1/{name}" for name in pages()} <= found.keys()
    assert set(COMPLETIONS.values()) <= found.keys()


def test_the_wheel_has_the_files_of_the_page(dist: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(dist[1]) as archive:
        found = {name for name in archive.namelist() if name.startswith("crabnet/web/static/")}
    static = ROOT / "src" / "crabnet" / "web" / "static"
    assert found == {str(path.relative_to(ROOT / "src")) for path in static.rglob("*") if path.is_file()}
    assert "crabnet/web/static/index.html" in found


def test_the_sdist_builds_the_same_wheel(dist: tuple[Path, Path], tmp_path: Path) -> None:
    sdist, wheel = dist
    source = unpacked(sdist, tmp_path / "source")
    for place in ("deploy/README.md", "deploy/systemd/crabnet.service", "deploy/container/Containerfile", "LICENSE"):
        assert (source / place).is_file()
    (second,) = build(source, tmp_path / "second", "wheel")
    demand_same(wheel, second, "it")
    assert wheel.read_bytes() == second.read_bytes()
    (source / "src" / "crabnet" / "_version.py").write_text('__version__ = "0.1.0"  # other\n', encoding="utf-8")
    (third,) = build(source, tmp_path / "third", "wheel")
    with pytest.raises(FailedError, match=r"crabnet/_version\.py"):
        demand_same(wheel, third, "it")


def test_the_sdist_has_what_its_git_files_are(dist: tuple[Path, Path]) -> None:
    listing = subprocess.run(
        ["git", "ls-files", "src", "deploy", "tests", "scripts", "requirements", "docs"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listing.returncode != 0:
        pytest.skip("not a clone: what the sdist should hold is NOT tested")
    with tarfile.open(dist[0]) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in listing.stdout.splitlines() if (ROOT / name).is_file()} <= found


def test_each_command_has_a_page() -> None:
    found = pages()
    names = dict(commands(cli, ""))
    assert found.keys() == {"crabnet.1"} | {f"crabnet-{name.replace(' ', '-')}.1" for name in names}
    for name, command in names.items():
        page = found[f"crabnet-{name.replace(' ', '-')}.1"].replace("\\-", "-").replace("\\[u2026]", "…")
        bold = [line[3:-3] for line in page.splitlines() if line.startswith("\\fB") and line.endswith("\\fP")]
        words = {word.strip(",") for line in bold for word in line.split()}
        context = click.Context(command, info_name=name, obj=State([]))
        for option in command.get_params(context):
            if isinstance(option, click.Argument):
                assert option.make_metavar(context) in page
            elif isinstance(option, click.Option):
                assert (option.opts[0] in words) is not option.hidden, (name, option.opts)
        assert f"crabnet-{name.replace(' ', '-')}" in found["crabnet.1"].replace("\\-", "-")
    for code in EXIT_CODES:
        assert f".TP\n{int(code)}\n" in found["crabnet.1"]


@pytest.mark.parametrize("program", ["man", "mandoc"])
def test_the_pages_are_sound(tmp_path: Path, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: the manual pages are NOT checked by it")
    for name, text in pages().items():
        page = tmp_path / name
        page.write_text(text, encoding="utf-8")
        # The pages have no date, of which mandoc only warns: with one, two builds would differ.
        check = ["--warnings", "-E", "UTF-8", "-l"] if program == "man" else ["-Tlint", "-Werror"]
        env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "MANPAGER": "cat"}
        done = subprocess.run([program, *check, page], capture_output=True, text=True, check=False, env=env)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_text_that_roff_would_take_for_itself_is_text(tmp_path: Path) -> None:
    from crabnet.cli.manual import _text

    hostile = ".so /etc/passwd \\n(yr `-x` …"
    assert _text(hostile) == "\\&.so /etc/passwd \\en(yr \\fB\\-x\\fP \\[u2026]"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_with_the_installed_script(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its completion is NOT tried")
    path = tmp_path / Path(COMPLETIONS[shell]).name
    path.write_text(script(shell), encoding="utf-8")
    programs = {
        "bash": f"source {path}; COMP_WORDS=(crabnet ''); COMP_CWORD=1; _crabnet_completion crabnet '' crabnet;"
        ' printf "%s\\n" "${COMPREPLY[@]}"',
        # What _crabnet offers goes to compadd or _describe, which exist only while zsh completes.
        "zsh": f"compdef() {{ :; }}; _describe() {{ print -l ${{(P)3}}; }}; compadd() {{ print -l $@; }};"
        f" words=(crabnet ''); CURRENT=2; source {path}; _crabnet_completion",
        "fish": f"source {path}; complete --do-complete 'crabnet '",
    }
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    done = subprocess.run([shell, "-c", programs[shell]], capture_output=True, text=True, check=False, env=env)
    offered = {line.replace("\t", ":").split(":")[0] for line in done.stdout.splitlines()}
    assert offered >= WORDS, done.stderr


def test_the_bill_is_that_of_the_lock() -> None:
    text = sbom.as_json(sbom.bill(ROOT))
    bill = json.loads(text)
    locks = [
        parse_lock((ROOT / "requirements" / name).read_text(encoding="utf-8"))[0] for name in ("web.txt", "dht.txt")
    ]
    pins = {pin for lock in locks for pin in lock}
    listed = {(each["name"], each["version"]) for each in bill["components"]}
    assert listed == {(pin.name, pin.version) for pin in pins}
    for pin in pins:
        (component,) = (each for each in bill["components"] if each["name"] == pin.name)
        (files,) = component["externalReferences"]
        assert {each["content"] for each in files["hashes"]} == set(pin.hashes)
        assert component["licenses"]
    depends = {each["ref"]: set(each.get("dependsOn", ())) for each in bill["dependencies"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert depends[project["name"]] == {
        Requirement(text).name
        for extra in ("web", "dht")
        for text in (*project["dependencies"], *project["optional-dependencies"][extra])
    }
    assert "attrs" in depends["trio"]
    reached = {project["name"]}
    while more := {name for each in reached for name in depends[each]} - reached:
        reached |= more
    assert reached >= {pin.name for pin in pins}
    assert text == sbom.as_json(sbom.bill(ROOT))


def test_a_bill_of_other_versions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    lock = f"trio==0.1 --hash=sha256:{'0' * 64}\n"
    for name in ("web.txt", "dht.txt"):
        (tmp_path / "requirements" / name).write_text(lock, encoding="utf-8")
    with pytest.raises(ValueError, match=r"trio .* is installed, but the lock has 0\.1"):
        sbom.bill(tmp_path)
