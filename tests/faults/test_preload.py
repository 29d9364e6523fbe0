"""The same faults against a real process, by a C library in front of the file calls of libc."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.preload import COMPILER, build_shim
from tests.faults.suites import Report
from tests.faults.workload import Trail, judge, put, scratch

ROOT = Path(__file__).parent.parent.parent
MODES = [
    ("error", errno.EIO),
    ("error", errno.ENOSPC),
    ("sticky", errno.EROFS),
    ("short", errno.EIO),
    ("shorterror", errno.EIO),
    ("kill", 0),
    ("killafter", 0),
    ("halfkill", 0),
    ("fsyncdrop", errno.EIO),
]
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD: Linux only; faults in a real process NOT tested"),
    pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc): faults in a real process NOT tested"),
]


@pytest.fixture(name="shim", scope="module")
def _shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(name="base")
def _base() -> Iterator[Path]:
    with scratch() as directory:
        yield directory


def work(shim: Path, base: Path, at: int, mode: str, number: int, log: Path | None = None) -> tuple[Trail, str]:
    """Run the child in an empty data dir with one fault; what it said, and its stderr."""
    data_dir = base / "data"
    put(data_dir, {})
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "COV_"))},
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), *sys.path]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LD_PRELOAD": str(shim),
        "FAULT_DIR": str(data_dir),
        "FAULT_AT": str(at),
        "FAULT_MODE": mode,
        "FAULT_ERRNO": str(number),
    }
    if log is not None:
        environment["FAULT_LOG"] = str(log)
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.child", str(data_dir)],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    trail = Trail()
    for line in done.stdout.splitlines(keepends=True):
        word, _, rest = line.partition(" ")
        if not line.endswith("\n"):
            continue
        if word == "TRY":
            trail.attempted.append(int(rest))
        elif word == "ACK":
            trail.acknowledged.append(int(rest))
        else:
            trail.violations.append(line.strip())
    return trail, done.stderr


def count_calls(shim: Path, base: Path) -> int:
    log = base / "calls"
    trail, stderr = work(shim, base, 0, "error", 0, log)
    assert trail.acknowledged == [1, 2, 3, 4, 5, 6, 7], stderr
    return len(log.read_text().splitlines())


def run_share(shim: Path, base: Path, share: int) -> Report:
    report = Report()
    calls = count_calls(shim, base)
    assert calls > 60
    plans = [(at, mode, number) for at in range(1, calls + 1) for mode, number in MODES]
    for at, mode, number in plans[::share]:
        trail, stderr = work(shim, base, at, mode, number)
        broken = judge(base / "data", trail) + ([f"traceback: {stderr}"] if stderr else [])
        report.add(f"{mode} {errno.errorcode.get(number, '')} at call {at}", broken)
    return report


def test_faults_in_a_real_process(shim: Path, base: Path) -> None:
    report = run_share(shim, base, 31)
    print(f"faults in a real process: {report.cases} cases, {len(report.broken)} broken promises")
    assert report.broken == []
    assert report.cases >= 20


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_many_faults_in_a_real_process(shim: Path, base: Path) -> None:
    report = run_share(shim, base, 3)
    print(f"faults in a real process: {report.cases} cases, {len(report.broken)} broken promises")
    assert report.broken == []
    assert report.cases >= 250
