"""Runs tests as an ordinary user that is created for this run and removed after it. For root; used by `make test`.

Takes the arguments of pytest. If the user cannot read the clone, the tests run in a copy.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("src", "tests", "scripts", "bench", "docs", "requirements", "Makefile", "README.md", "pyproject.toml")
KEPT = ("PATH", "LANG", "CRABNET_HYPOTHESIS_PROFILE")
"""Environment variables that are passed on to the tests."""
NO_TESTS = 5
"""Exit code of pytest if no test was selected."""


def main() -> int:
    """Run the tests. Returns the exit code of pytest; 1 if a process is left; 0 with a note if they cannot be run."""
    if os.geteuid() != 0:
        return 0  # the main run of the tests was that of an ordinary user
    missing = [name for name in ("useradd", "userdel") if shutil.which(name) is None]
    if missing:
        return skipped(f"because this system has no {missing[0]}")
    with ordinary_user() as user:
        clone = ROOT if interpreter(user, ROOT) else copy_of_clone(Path(user.pw_dir))
        python = interpreter(user, clone)
        if python is None:
            return skipped("because this user can start no suitable Python")
        print(f"as the ordinary user {user.pw_name} (uid {user.pw_uid}):", flush=True)
        code = as_user(user, [python, "-m", "pytest", "-p", "no:cacheprovider", *sys.argv[1:]], clone).returncode
        left = processes_of(user)
        if left:
            print("the tests of the ordinary user have left processes:", *left.values(), sep="\n  ", file=sys.stderr)
    return 1 if left else 0 if code == NO_TESTS else code


def skipped(why: str) -> int:
    """Print that the tests were skipped. Returns exit code 0."""
    print(f"SKIPPED: the tests of an ordinary user were NOT run, {why}", file=sys.stderr)
    return 0


@contextmanager
def ordinary_user() -> Iterator[pwd.struct_passwd]:
    """A user with a home directory, while the block runs. At the end its remaining processes are killed."""
    home = Path(tempfile.mkdtemp(prefix="crabnet-user-"))
    name = f"crabnet-test-{os.getpid()}"
    subprocess.run(["useradd", "--no-create-home", "--home-dir", home, "--shell", "/bin/sh", name], check=True)
    try:
        user = pwd.getpwnam(name)
        os.chown(home, user.pw_uid, user.pw_gid)
        yield user
        for pid in processes_of(user):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    finally:
        subprocess.run(["userdel", "--force", name], check=True, capture_output=True)
        shutil.rmtree(home, ignore_errors=True)


def copy_of_clone(home: Path) -> Path:
    """Copy the files that the tests need, with the packages of the environment. Returns the directory."""
    clone = home / "clone"
    for name in (*COPIED, packages_of(ROOT).relative_to(ROOT)):
        source, target = ROOT / name, clone / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    return clone


def packages_of(clone: Path) -> Path:
    """The directory of the environment's packages in a clone."""
    return clone / Path(sysconfig.get_path("purelib")).relative_to(ROOT)


def interpreter(user: pwd.struct_passwd, clone: Path) -> str | None:
    """A Python of the running version that the user can start and that imports everything from this clone; or None."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (Path(sys.executable), Path(sys.executable).resolve(), Path("/usr/bin") / version):
        with suppress(OSError):
            if as_user(user, [candidate, "-c", "import msgspec, pytest, crabnet"], clone, quiet=True).returncode == 0:
                return str(candidate)
    return None


def as_user(
    user: pwd.struct_passwd, command: list[str | Path], clone: Path, *, quiet: bool = False
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in the clone with a minimal environment. Raises OSError if it cannot be started."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment = {
        **kept,
        "HOME": user.pw_dir,
        "HYPOTHESIS_STORAGE_DIRECTORY": f"{user.pw_dir}/hypothesis",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (clone, clone / "src", packages_of(clone)))),
    }
    return subprocess.run(
        command, cwd=clone, env=environment, check=False, capture_output=quiet,
        user=user.pw_uid, group=user.pw_gid, extra_groups=[],
    )  # fmt: skip


def processes_of(user: pwd.struct_passwd) -> dict[int, str]:
    """The processes of this user: pid -> command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == user.pw_uid:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


if __name__ == "__main__":
    sys.exit(main())
