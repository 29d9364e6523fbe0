"""The source of the package, for tests that read it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import crabnet

SOURCE: Final = Path(crabnet.__file__).parent


def modules() -> Iterator[tuple[str, ast.Module]]:
    """(path within the package, its syntax) of every module."""
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))
