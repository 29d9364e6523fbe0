"""The files in deploy/: the unit is one that systemd accepts, and the container file is what it says."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crabnet import limits
from crabnet.errors import ExitCode
from crabnet.settings import KNOBS
from scripts.lock import ROOT

UNIT = ROOT / "deploy" / "systemd" / "crabnet.service"
CONTAINER = ROOT / "deploy" / "container" / "Containerfile"
INSTALLED = "/opt/crabnet/bin/crabnet"
SANDBOX_NAMESPACES = {"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"}


def service() -> dict[str, str]:
    """The directives of [Service], those that are given several times joined by spaces."""
    found: dict[str, str] = {}
    text = UNIT.read_text(encoding="utf-8").split("[Service]")[1].split("[Install]")[0]
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name] = f"{found[name]} {value}" if name in found else value
    return found


def variables() -> set[str]:
    """The environment variables of all settings."""
    return {knob.env for knob in KNOBS if knob.env is not None}


def test_the_unit_is_valid(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd): the unit is NOT verified")
    unit = tmp_path / UNIT.name
    crabnet = Path(sys.executable).with_name("crabnet")
    unit.write_text(UNIT.read_text(encoding="utf-8").replace(INSTALLED, str(crabnet)), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_has_settings_that_exist() -> None:
    given = dict(pair.split("=", 1) for pair in service()["Environment"].split())
    assert set(given) <= variables()
    places = {f"/var/lib/{name}" for name in service()["StateDirectory"].split()}
    assert set(given.values()) <= places


def test_the_unit_leaves_time_and_codes_to_the_node() -> None:
    directives = service()
    never = {int(code) for code in directives["RestartPreventExitStatus"].split()}
    assert never == {ExitCode.USAGE, ExitCode.DAMAGED}
    ending_ms = limits.RUNNER_DRAIN_MS_DEFAULT + limits.RUN_END_WAIT_MS + limits.CONTROL_LAST_ANSWERS_MS
    assert int(directives["TimeoutStopSec"].removesuffix("s")) * 1000 > ending_ms
    assert int(directives["WatchdogSec"].removesuffix("s")) * 1000 > 2 * limits.SERVICE_ALIVE_MS
    assert int(directives["LimitNOFILE"]) >= limits.DESCRIPTORS_MIN
    assert set(directives["RestrictNamespaces"].split()) == SANDBOX_NAMESPACES
    assert directives["KillMode"] == "mixed"
    assert (directives["Type"], directives["Delegate"]) == ("notify", "yes")


def instructions() -> list[tuple[str, str]]:
    """The instructions of the container file, and what follows each."""
    text = CONTAINER.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in whole.splitlines())]


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, its FROM first."""
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions():
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, rest))
    return found


def test_the_last_stage_has_no_root_and_no_tools() -> None:
    build, final = stages()
    last = dict(final)
    user, _, group = last["USER"].partition(":")
    assert int(user) > 0 < int(group)
    assert [rest for name, rest in final if name == "COPY"] == ["--from=build /opt/crabnet /opt/crabnet"]
    assert build[0][1].endswith(" AS build")
    assert not any("pip" in rest for name, rest in final if name == "RUN")
    order = [name for name, _ in final]
    assert order.index("USER") > max(at for at, name in enumerate(order) if name == "RUN")


def test_every_package_is_pinned() -> None:
    installs = [part for _, rest in stages()[0] for part in rest.split("&&") if "pip install" in part]
    assert len(installs) == 5
    for install in installs:
        assert "--require-hashes" in install or {"--no-deps", "--no-index"} <= set(install.split())


def test_the_node_is_the_first_process_and_its_health_is_asked() -> None:
    last = dict(stages()[-1])
    assert last["ENTRYPOINT"] == '["crabnet"]'  # no shell, which would keep the signals
    assert last["CMD"] == '["listen"]'
    check = last["HEALTHCHECK"].split(" CMD ")[1].strip()
    assert shlex.split(check) == ["crabnet", "status", "--json", "|", "grep", "-q", '"running":true']
    assert last["EXPOSE"] == "9012/udp 9012/tcp"
    given = re.findall(r"(CRABNET_\w+)=(\S+)", last["ENV"])
    assert all(value.startswith(last["VOLUME"]) for _, value in given)
    assert {name for name, _ in given} <= variables()


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = CONTAINER.with_name("Containerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    for name, rest in stages()[0]:
        for source in rest.split()[:-1] if name == "COPY" else ():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored
