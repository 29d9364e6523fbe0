"""The check of the locked dependencies: what it must notice before a lock is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.lock import check

HASH = "--hash=sha256:" + "0" * 64
PYPROJECT = """
[build-system]
requires = ["builder>=1"]
[project]
dependencies = ["Some_Lib>=2,<3"]
[project.optional-dependencies]
dev = ["tester>=5"]
web = ["server>=1"]
alerts = ["caller>=1"]
dht = ["router>=1"]
build = ["compiler>=1"]
"""
RUNTIME = f"some-lib==2.4 \\\n    {HASH}\n"
DEV = (
    RUNTIME
    + f"builder==1.0 ; python_version < '4' \\\n    {HASH} \\\n    {HASH}\ntester==5.1 {HASH}\n"
    + f"server==1.0 {HASH}\ncaller==1.0 {HASH}\nrouter==1.0 {HASH}\ncompiler==1.0 {HASH}\n"
)


def faults_of(root: Path, runtime: str, dev: str) -> list[str]:
    (root / "requirements").mkdir()
    (root / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (root / "requirements" / "runtime.txt").write_text(runtime, encoding="utf-8")
    (root / "requirements" / "dev.txt").write_text(dev, encoding="utf-8")
    for lock, name in {"web": "server", "alerts": "caller", "dht": "router", "build": "compiler"}.items():
        (root / "requirements" / f"{lock}.txt").write_text(f"{RUNTIME}{name}==1.0 {HASH}\n", encoding="utf-8")
    return check(root)


def test_a_complete_lock_has_no_faults(tmp_path: Path) -> None:
    assert faults_of(tmp_path, RUNTIME, DEV) == []


@pytest.mark.parametrize(
    ("runtime", "dev", "fault"),
    [
        ("", DEV, "requirements/runtime.txt lacks Some_Lib"),
        (RUNTIME.replace("2.4", "3.0"), DEV, "requirements/runtime.txt has Some_Lib 3.0"),
        (RUNTIME.replace("2.4", "2.5"), DEV, "requirements/dev.txt lacks some-lib 2.5"),
        (RUNTIME, DEV.replace("builder==1.0", "builder==0.9"), "requirements/dev.txt has builder 0.9"),
        (RUNTIME, RUNTIME, "requirements/dev.txt lacks tester"),
        (RUNTIME, DEV.replace("server==1.0", "server==0.9"), "requirements/dev.txt has server 0.9"),
        (RUNTIME, f"{DEV}fastecdsa==2.3 {HASH}\n", "requirements/dev.txt has fastecdsa, which is left out"),
        (RUNTIME, DEV.replace("server==1.0", "server==1.1"), "dev.txt lacks server 1.0 of requirements/web.txt"),
        ("some-lib==2.4\n", DEV, "has no hash for: some-lib==2.4"),
        (RUNTIME.replace("0" * 64, "0" * 63), DEV, "not a locked package"),
        (RUNTIME.replace("==2.4", ">=2.4"), DEV, "not locked to one version"),
        (RUNTIME.replace("==2.4", "==2.*"), DEV, "not locked to one version"),
        (f"-i https://registry.invalid/\n{RUNTIME}", DEV, "names an address"),
        (f"some-lib @ file:///srv/some-lib.whl {HASH}\n", DEV, "names an address"),
        (f"--find-links /srv\n{RUNTIME}", DEV, "not a locked package"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, runtime: str, dev: str, fault: str) -> None:
    assert any(fault in found for found in faults_of(tmp_path, runtime, dev))


def test_a_missing_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    assert "requirements/dev.txt is missing" in check(tmp_path)
