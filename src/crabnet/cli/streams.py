"""``-`` instead of a file: standard input or output, through a temporary file."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from crabnet import limits
from crabnet.cli.output import write_raw
from crabnet.errors import Reason, UsageError
from crabnet.operator.paths import input_file, output_file
from crabnet.storage.files import guarded

_STREAM: Final = "-"


def is_stream(path: Path | None) -> bool:
    """Whether ``path`` stands for standard input or output."""
    return path is not None and str(path) == _STREAM


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """A file to read, as ``input_file`` gives it. For ``-`` it is a copy of standard input, since it is read twice.

    Raises UsageError and StorageFailedError.
    """
    if not is_stream(path):
        yield input_file(path)
        return
    if sys.stdin is None:
        raise UsageError("there is no standard input to read", Reason.INVALID_ARGUMENT)
    with _temporary("standard-input") as copy:
        with guarded("copy standard input to", copy), copy.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, limits.STORAGE_CHUNK_BYTES)
        yield copy


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A file to write, as ``output_file`` gives it. For ``-`` its content goes to standard output at the end.

    Raises UsageError, StorageFailedError, and the errors of ``write_raw``.
    """
    if not is_stream(path):
        yield output_file(path)
        return
    if sys.stdout is not None and sys.stdout.isatty():
        raise UsageError(
            "standard output (-) is a terminal; redirect it to a file or to another command",
            Reason.INVALID_ARGUMENT,
        )
    with _temporary("standard-output") as copy:
        yield copy
        with guarded("read the file", copy), copy.open("rb") as file:
            while chunk := file.read(limits.STORAGE_CHUNK_BYTES):
                write_raw(chunk)


@contextmanager
def _temporary(name: str) -> Iterator[Path]:
    try:
        directory = tempfile.TemporaryDirectory(prefix="crabnet-")
    except OSError as error:
        raise UsageError(f"a temporary directory cannot be created: {error}", Reason.INVALID_ARGUMENT) from None
    with directory as place:
        yield Path(place).resolve() / name
