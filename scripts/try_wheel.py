"""Builds sdist and wheel, installs each in a bare environment, and uses what was installed.

Only what users have is in such an environment: the locked dependencies, and this project. It needs the package index.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from crabnet._version import __version__
from hatch_build import command_line_files
from scripts.lock import ROOT, parse_lock

_PUBLISH = (
    "seed",
    "publish",
    "--title",
    "t",
    "--cmd",
    "echo hi",
    "--announce-addr",
    "",
    "--listen-addr",
    "127.0.0.1:0",
)

_LACKS = "from importlib.util import find_spec; print('' if find_spec('libp2p') else 'libp2p')"


class FailedError(Exception):
    """What was built or installed is not what it should be."""


def run(*words: str | Path, directory: Path, **environment: str) -> str:
    """Run a command without settings of Python and Crabnet, and return its output. Raises FailedError."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CRABNET_", "PYTHON", "XDG_"))}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=directory,
        env={**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise FailedError(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(source: Path, target: Path, *kinds: str) -> list[Path]:
    """Build from ``source`` without a network. Returns the files in ``target``."""
    run(
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-d",
        target,
        *(word for kind in kinds for word in ("-t", kind)),
        directory=source,
    )
    return sorted(target.iterdir())


def unpacked(sdist: Path, directory: Path) -> Path:
    """Unpack an sdist and return its root."""
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (root,) = directory.iterdir()
    return root


def digests(wheel: Path) -> dict[str, str]:
    """The SHA-256 of each file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def demand_same(wheel: Path, other: Path, what: str) -> None:
    """Raise FailedError if two wheels differ in any file."""
    found, expected = digests(other), digests(wheel)
    different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if different:
        raise FailedError(f"{what} differs in {', '.join(different)}")


def bare_environment(directory: Path, *install: str | Path) -> Path:
    """Make a new environment with the locked dependencies, install in it, and return its root."""
    root = directory / "environment"
    run(sys.executable, "-m", "venv", root, directory=directory)
    pip = (root / "bin" / "python", "-m", "pip", "install", "--quiet")
    locked = ROOT / "requirements" / "runtime.txt"
    run(*pip, "--require-hashes", "--only-binary", ":all:", "-r", locked, directory=directory)
    pins, _ = parse_lock((ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8"))
    constraints = directory / "constraints.txt"
    constraints.write_text("".join(f"{pin.name}=={pin.version}\n" for pin in pins if not pin.marker), encoding="utf-8")
    run(*pip, "--no-deps", *install, directory=directory, PIP_CONSTRAINT=str(constraints))
    return root


def use(root: Path, directory: Path) -> None:
    """Use what was installed in an environment. Raises FailedError."""

    def crabnet(*words: str) -> str:
        data_dir = str(directory / "data")
        return run(root / "bin" / "crabnet", *words, "--data-dir", data_dir, directory=directory, HOME=str(directory))

    version = run(root / "bin" / "crabnet", "--version", directory=directory)
    if version != f"crabnet {__version__}\n":
        raise FailedError(f"the installed command is of another version: {version!r}")
    published = crabnet(*_PUBLISH)
    seed_id = published.split("\n")[0].removeprefix("seed published ")
    shown = crabnet("seed", "list")
    if not shown.startswith(f"{seed_id} [OPEN]"):
        raise FailedError(f"a published seed is not there: {published!r} {shown!r}")
    if run(root / "bin" / "python", "-c", _LACKS, directory=directory) != "libp2p\n":
        raise FailedError("the environment is not bare: it has libp2p")
    try:
        crabnet("listen", "--network", "dht", "--listen-addr", "127.0.0.1:0")
    except FailedError as error:
        if "its extra `dht`" not in str(error):
            raise
    else:
        raise FailedError("a node takes part in the dht network without libp2p")
    for place, text in command_line_files(ROOT / "src").items():
        installed = root / place
        if not installed.is_file() or installed.read_text(encoding="utf-8") != text:
            raise FailedError(f"{place} is not what the command line gives")
    run(root / "bin" / "python", "-m", "pip", "check", directory=directory)


def main() -> int:
    """Build, compare, install, use. Returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="crabnet-try-") as name:
        directory = Path(name)
        try:
            sdist, wheel = sorted(build(ROOT, directory / "dist", "sdist", "wheel"), key=lambda path: path.suffix)
            source = unpacked(sdist, directory / "unpacked")
            (second,) = build(source, directory / "second", "wheel")
            demand_same(wheel, second, "the wheel that is built from the sdist")
            for built in (wheel, sdist):
                own = directory / built.suffix[1:]
                own.mkdir()
                use(bare_environment(own, built), own)
                print(f"try: {built.name} installs and works")
        except FailedError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
