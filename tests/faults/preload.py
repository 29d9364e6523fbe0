"""The C library that injects faults into the file calls of a process: built here, loaded by LD_PRELOAD."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build_shim(directory: Path) -> Path:
    """Compile ``shim.c``; the path of the library. Needs COMPILER."""
    library = directory / "shim.so"
    source = Path(__file__).with_name("shim.c")
    command = [COMPILER or "cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return library
