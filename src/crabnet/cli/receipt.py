"""``crabnet receipt``: the receipt of a task, and its verification."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from crabnet.cli.context import state_of, write_object
from crabnet.cli.options import Command, LazyGroup
from crabnet.cli.output import as_object, note, write, write_raw
from crabnet.cli.values import IdPrefix
from crabnet.control.client import JsonValue
from crabnet.errors import Reason, RefusedError, UsageError
from crabnet.limits import RECEIPT_BYTES_MAX
from crabnet.plain import plain

if TYPE_CHECKING:
    from crabnet.operator.receipts import ReceiptPage

_STREAM: Final = "-"
_MAKE: Final = "make"


class _Receipts(LazyGroup):
    """``crabnet receipt ID`` means ``crabnet receipt make ID``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = self._first_word(args)
        if first is not None and first not in self.lazy:
            args = [_MAKE, *args]
        return super().parse_args(ctx, args)

    def _first_word(self, args: list[str]) -> str | None:
        """The first argument that is no global option. None if there is none, or if it asks for help."""
        options = {name: each for each in self.params if isinstance(each, click.Option) for name in each.opts}
        at = 0
        while at < len(args):
            known = options.get(args[at].partition("=")[0])
            if known is None:
                return None if args[at] in {"-h", "--help"} else args[at]
            at += 1 if known.is_flag or "=" in args[at] else 2
        return None


receipt = _Receipts(
    "receipt",
    "Make the receipt of a task (crabnet receipt ID), or verify one that somebody gave you.",
    {_MAKE: "crabnet.cli.receipt:make_", "verify": "crabnet.cli.receipt:verify_"},
)


@click.command(_MAKE, cls=Command)
@click.argument("seed_id", metavar="ID", type=IdPrefix("seed"))
@click.option("-o", "--out", metavar="FILE", help="Write it to FILE, which must be new (- for standard output).")
@click.pass_context
def make_(context: click.Context, seed_id: str, out: str | None) -> None:
    """Write the receipt of a task that was settled, withdrawn or forfeited: crabnet receipt ID -o FILE.

    A receipt is one file with the signed envelopes of the task's steps. It proves itself: anybody can verify it with
    crabnet receipt verify, without a node and without trust in who gave it.

    Without -o the receipt goes to standard output. On a terminal it is shown as crabnet receipt verify shows it.
    """
    state = state_of(context)
    answer = as_object(state.perform("seed.receipt", {"seed_id": seed_id}))
    document = answer.get("document")
    data = document.encode() if isinstance(document, str) else b""
    from crabnet.operator.receipts import read_receipt

    page = read_receipt(data, "the answer of the node")
    if out is not None and out != _STREAM:
        path = _written(Path(out), data)
        note(f"receipt of {page.seed_id} with {len(page.steps)} steps written to {plain(str(path))}")
        if state.json:
            write_object(_fields(page))
    elif out is None and sys.stdout is not None and sys.stdout.isatty():
        _show(page)
        note("This is what the receipt says. To write the receipt itself to a file, give -o FILE.")
    else:
        write_raw(data)


def _written(path: Path, data: bytes) -> Path:
    from crabnet.operator.paths import output_file
    from crabnet.storage.files import guarded

    path = output_file(path)
    with guarded("write the receipt", path):
        try:
            file = path.open("xb")
        except FileExistsError:
            raise UsageError(f"{path} exists; give the name of a new file", Reason.FILE_EXISTS) from None
        try:
            with file:
                file.write(data)
        except OSError:
            path.unlink(missing_ok=True)  # a part of a receipt is none
            raise
    return path


@click.command("verify", cls=Command)
@click.argument("file", metavar="FILE")
@click.pass_context
def verify_(context: click.Context, file: str) -> None:
    """Verify a receipt, and print what it says. FILE may be - for standard input.

    Needs no data dir, no network and no settings. The exit code is 0 if every signature and step is right. Otherwise it
    is 3, and the error names the first thing that is wrong.
    """
    from crabnet.operator.receipts import read_receipt

    data, name = _read(file)
    if len(data) > RECEIPT_BYTES_MAX:
        raise RefusedError(f"{name} has more than {RECEIPT_BYTES_MAX} bytes: it is not a receipt", Reason.TOO_LARGE)
    page = read_receipt(data, name)
    if state_of(context).json:
        write_object(_fields(page))
    else:
        _show(page)


def _read(file: str) -> tuple[bytes, str]:
    """At most one byte more than a receipt may have, and the name of the place they are from."""
    if file == _STREAM:
        if sys.stdin is None:
            raise UsageError("there is no standard input to read", Reason.INVALID_ARGUMENT)
        return sys.stdin.buffer.read(RECEIPT_BYTES_MAX + 1), "standard input"
    from crabnet.operator.paths import input_file
    from crabnet.storage.files import guarded

    path = input_file(Path(file))
    with guarded("read the receipt", path), path.open("rb") as stream:
        return stream.read(RECEIPT_BYTES_MAX + 1), str(path)


def _fields(page: ReceiptPage) -> dict[str, JsonValue]:
    import msgspec

    return as_object(msgspec.to_builtins(page, str_keys=True))


def _show(page: ReceiptPage) -> None:
    from crabnet.operator.receipts import describe

    for line in describe(page):
        write(plain(line) + "\n")
