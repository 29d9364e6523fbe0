"""Writes the locked dependencies of requirements/, or checks them without a network (``--check``).

The lock names every package, direct or indirect, with its version and the hashes of its files. It names no
address of a registry. Each user's own registry serves the files, and the hashes prove that they are the same.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
EXTRAS_BY_LOCK: dict[str, tuple[str, ...]] = {
    "runtime.txt": (),
    "web.txt": ("web",),
    "alerts.txt": ("alerts",),
    "build.txt": ("build",),
    "dht.txt": ("dht",),
    "dev.txt": ("dev", "web", "alerts", "dht", "build"),
}
LEFT_OUT = "fastecdsa"
"""libp2p requires it for a kind of key that Crabnet does not use, and it has no wheels (ADR 43)."""
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
UV_COMPILE = (
    *("-m", "uv", "pip", "compile", "pyproject.toml", "--quiet", "--universal", "--python-version", "3.11"),
    *("--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
    *("--no-emit-package", LEFT_OUT),
)


@dataclass(frozen=True, slots=True)
class Pin:
    """One locked package: its name, its version, the marker of its environments, and the SHA-256 of its files."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


def parse_lock(text: str) -> tuple[list[Pin], list[str]]:
    """Read a lock file. Returns its pins and one sentence for each fault."""
    pins: list[Pin] = []
    faults: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if "://" in line or " @ " in line:
            faults.append(f"names an address: {line.split()[0]}")
            continue
        words = HASH.sub("", line).strip()
        try:
            requirement = Requirement(words)
        except InvalidRequirement:
            faults.append(f"has a line that is not a locked package: {words}")
            continue
        specifiers = list(requirement.specifier)
        if len(specifiers) != 1 or specifiers[0].operator != "==" or specifiers[0].version.endswith(".*"):
            faults.append(f"has a package that is not locked to one version: {words}")
            continue
        hashes = tuple(HASH.findall(line))
        if not hashes:
            faults.append(f"has no hash for: {words}")
        name = canonicalize_name(requirement.name)
        pins.append(Pin(name, specifiers[0].version, str(requirement.marker or ""), hashes))
    return pins, faults


def unmet(requirements: list[str], pins: list[Pin]) -> list[str]:
    """Return one sentence for each of ``requirements`` that ``pins`` do not satisfy."""
    faults = []
    for requirement in map(Requirement, requirements):
        versions = [pin.version for pin in pins if pin.name == canonicalize_name(requirement.name)]
        if not versions:
            faults.append(f"lacks {requirement}")
        faults += [
            f"has {requirement.name} {version}, but pyproject.toml requires {requirement}"
            for version in versions
            if not requirement.specifier.contains(version, prereleases=True)
        ]
    return faults


def required(pyproject: dict[str, Any], extras: tuple[str, ...]) -> list[str]:
    """Return the requirements of the project with these extras. With ``dev`` this includes its build requirements."""
    project = pyproject["project"]
    requirements = list(project["dependencies"])
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    if "dev" in extras:
        requirements += pyproject["build-system"]["requires"]
    return requirements


def check(root: Path) -> list[str]:
    """Compare the locks under ``root`` with its pyproject.toml. Returns one sentence for each fault."""
    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    faults: list[str] = []
    pins_by_lock: dict[str, list[Pin]] = {}
    for lock, extras in EXTRAS_BY_LOCK.items():
        path = root / "requirements" / lock
        if not path.is_file():
            faults.append(f"requirements/{lock} is missing")
            continue
        pins, found = parse_lock(path.read_text(encoding="utf-8"))
        pins_by_lock[lock] = pins
        faults += [f"requirements/{lock} {fault}" for fault in found + unmet(required(pyproject, extras), pins)]
        faults += [f"requirements/{lock} has {LEFT_OUT}, which is left out" for pin in pins if pin.name == LEFT_OUT]
    development = {(pin.name, pin.version) for pin in pins_by_lock.get("dev.txt", [])}
    faults += [
        f"requirements/dev.txt lacks {pin.name} {pin.version} of requirements/{lock}"
        for lock, pins in pins_by_lock.items()
        for pin in pins
        if (pin.name, pin.version) not in development
    ]
    return faults


def write(root: Path, *, upgrade: bool) -> int:
    """Resolve the dependencies again with uv. Returns the exit code."""
    # The larger set comes first, because its versions then constrain the smaller set.
    constraints: list[str] = []
    for lock, extras in reversed(EXTRAS_BY_LOCK.items()):
        arguments = [word for extra in extras for word in ("--extra", extra)]
        output = f"requirements/{lock}"
        command = [sys.executable, *UV_COMPILE, *arguments, *constraints, "--output-file", output]
        code = subprocess.run([*command, *(["--upgrade"] if upgrade else [])], cwd=root, check=False).returncode
        if code != 0:
            return code
        constraints += ["--constraint", output]
    return 0


def main() -> int:
    """Run the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, need no network")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that pyproject.toml allows")
    options = parser.parse_args()
    if not options.check:
        code = write(ROOT, upgrade=options.upgrade)
        if code != 0:
            return code
    faults = check(ROOT)
    for fault in faults:
        print(f"error: {fault}; run `make lock` to write the locks again", file=sys.stderr)
    if not faults:
        print("lock: the locks satisfy pyproject.toml, and every package has hashes")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
