"""``crabnet doctor`` and ``crabnet debug bundle``."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from crabnet.cli.checking import check_line
from crabnet.cli.context import state_of, write_object
from crabnet.cli.options import Command, LazyGroup
from crabnet.cli.output import note, write, write_raw
from crabnet.control.client import JsonValue
from crabnet.errors import Reason, UsageError
from crabnet.plain import plain

debug = LazyGroup("debug", "Collect what helps to find a fault.", {"bundle": "crabnet.cli.doctor:bundle"})


@click.command("doctor", cls=Command)
@click.pass_context
def doctor(context: click.Context) -> None:
    """Check everything: settings, data dir, ledger, sync, sandbox, clock, disk, peers. The node need not run.

    Each line says ok, warn or fail, and what to do. The exit code is that of the first check that failed, 0 if only
    warnings were found.
    """
    state = state_of(context)
    settings = state.settings
    import msgspec

    from crabnet.operator.check import row_of
    from crabnet.operator.doctor import examine
    from crabnet.storage.files import RealFiles

    report = examine(settings, RealFiles())
    start: list[JsonValue] = [msgspec.to_builtins(row_of(each)) for each in report.checks]
    live: list[JsonValue] = [msgspec.to_builtins(each) for each in report.live]
    error = report.error
    if state.json:
        write_object({"ok": error is None, "running": report.running, "checks": start, "node": live})
    else:
        write("settings and data dir\n" + "".join(f"  {check_line(row)}" for row in start))
        if live:
            write("running node\n" + "".join(f"  {check_line(row)}" for row in live))
    if error is not None:
        raise error


@click.command("bundle", cls=Command)
@click.option("--out", "out", metavar="FILE", help="The archive (- for standard output). Default: a new file here.")
@click.option("--with-tasks", is_flag=True, help="Include what people have put into tasks, and titles.")
@click.option("--hash-addresses", is_flag=True, help="Replace network addresses by words.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_context
def bundle(context: click.Context, out: str | None, with_tasks: bool, hash_addresses: bool, force: bool) -> None:
    """Write status, settings, checks, topology, the last events and kept faults to an archive (tar.gz).

    Keys, tokens and other secrets are never included, nor the contents of tasks without --with-tasks. Read the files
    before you send them. Works with and without a running node.
    """
    state = state_of(context)
    resolved = state.resolved
    settings = resolved.settings
    from crabnet.monitor.redaction import redaction_for
    from crabnet.operator.bundle import archive_of, make_bundle
    from crabnet.operator.doctor import examine
    from crabnet.storage.files import RealFiles

    now_s = int(time.time())
    redaction = redaction_for(settings, with_tasks=with_tasks, hash_key=os.urandom(32) if hash_addresses else None)
    name = f"crabnet-debug-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now_s))}"
    made = make_bundle(resolved, state.perform, examine(settings, RealFiles()), redaction, now_s)
    content = archive_of(made, name, now_s)
    if out == "-":
        write_raw(content)
        return
    path = Path(out or f"{name}.tar.gz")
    _save(path, content, force=force)
    if state.json:
        write_object({"file": str(path), "bytes": len(content), "files": [*made.files]})
        return
    for each, text in made.files.items():
        write(f"{len(text):>10}  {plain(each)}\n")
    write(f"wrote {plain(str(path))} ({len(content)} bytes)\n")
    note("read the files before you send them; README.txt in the archive says what is left out")


def _save(path: Path, content: bytes, *, force: bool) -> None:
    """Write a file that only this user can read. Raises UsageError and StorageFailedError."""
    from crabnet.storage.files import guarded

    with guarded("write the bundle", path):
        if force:
            path.unlink(missing_ok=True)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise UsageError(f"{path} exists; name another file, or use --force", Reason.FILE_EXISTS) from None
        with os.fdopen(fd, "wb") as file:
            file.write(content)
