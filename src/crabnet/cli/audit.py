"""``crabnet audit``: check the ledger and show the node's decisions."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from crabnet.cli.context import object_text, state_of, write_object
from crabnet.cli.options import Command, LazyGroup, WholeNumber
from crabnet.cli.output import note, note_line, write
from crabnet.cli.values import MOMENT, MOMENT_HELP, IdPrefix, since_s
from crabnet.control.client import JsonValue
from crabnet.limits import INTEGER_MAX
from crabnet.plain import plain

if TYPE_CHECKING:
    from crabnet.operator.chains import ChainReport
    from crabnet.operator.findings import AuditReport

KINDS: Final = ("seed", "bid", "claim", "started", "result", "settle", "forfeit", "close", "acknowledged", "refold")

audit = LazyGroup(
    "audit",
    "Check the ledger and show the node's decisions. Needs no lock and also works while a node runs.",
    {"verify": "crabnet.cli.audit:verify_", "log": "crabnet.cli.audit:log_", "proof": "crabnet.cli.audit:proof_"},
)


@click.command("verify", cls=Command)
@click.option(
    "--from-checkpoint",
    "start",
    metavar="genesis|state|bak|FILE",
    default="genesis",
    show_default=True,
    help="Where the replay starts: at the first frame, state.json, state.json.bak, or another checkpoint file.",
)
@click.pass_context
def verify_(context: click.Context, start: str) -> None:
    """Check every frame, signature and feed, replay the journal, and check the chain of steps of every task.

    Prints one line per finding, the head of each feed, and how many tasks have a complete chain.

    The exit code is 5 if there are findings.
    """
    state = state_of(context)
    settings = state.settings
    from crabnet.errors import DataDirDamagedError
    from crabnet.operator.audit import audit as run_audit
    from crabnet.operator.live import live_point
    from crabnet.operator.paths import input_file
    from crabnet.storage.files import RealFiles

    report = run_audit(
        RealFiles(),
        settings.data_dir,
        namespace=settings.namespace,
        ask_node=lambda: live_point(settings.data_dir, settings.control_timeout_ms),
        start=start if start in {"genesis", "state", "bak"} else str(input_file(Path(start))),
    )
    if state.json:
        write_object(_report_fields(report))
    else:
        _show_report(report)
    if not report.ok:
        raise DataDirDamagedError(f"{report.findings_total} findings in {settings.data_dir}; see `crabnet fsck`")


def _report_fields(report: AuditReport) -> dict[str, JsonValue]:
    """The output of ``audit verify --json``."""
    comparisons: list[JsonValue] = [
        {"with": each.name, "lsn": each.lsn, "expected": each.expected, "computed": each.computed}
        for each in report.comparisons
    ]
    feeds: list[JsonValue] = [
        {"author": each.author, "seq": each.seq, "id": each.id, "whole": each.whole, "end": each.end or None}
        for each in report.feeds
    ]
    findings: list[JsonValue] = [
        {
            "file": str(each.path),
            "offset": each.offset,
            "lsn": each.lsn,
            "envelope_id": each.envelope_id or None,
            "detail": each.detail,
        }
        for each in report.findings
    ]
    return {
        "ok": report.ok,
        "from": report.start,
        "first_lsn": report.first_lsn,
        "last_lsn": report.last_lsn,
        "frames": report.frames,
        "envelopes": report.envelopes,
        "unsigned": report.unsigned,
        "facts": report.facts,
        "decided_otherwise": report.otherwise,
        "state_hash": report.state_hash or None,
        "comparisons": comparisons,
        "feeds": feeds,
        "tasks": _task_fields(report.chains),
        "findings": findings,
        "findings_total": report.findings_total,
        "notes": [*report.notes],
    }


def _task_fields(chains: ChainReport) -> dict[str, JsonValue]:
    import msgspec

    shown = chains.shown()
    return {
        "total": chains.tasks,
        "complete": chains.complete,
        "acknowledged": chains.acknowledged,
        "disputed": chains.disputed,
        "broken": chains.broken,
        "left_out": chains.tasks - len(shown),
        "chains": msgspec.to_builtins(shown),
    }


def _show_report(report: AuditReport) -> None:
    for finding in report.findings:
        write(plain(str(finding)) + "\n")
    for text in report.notes:
        note(plain(text))
    for feed in report.feeds:
        verdict = "verified, without gaps" if feed.whole else "not whole"
        forked = f"; it ends before {feed.end}, because two envelopes are signed for that place" if feed.end else ""
        write(f"feed {plain(feed.author)}: 1 to {feed.seq} {verdict}, head {feed.id}{forked}\n")
    if report.state_hash:
        from crabnet.operator.chains import describe

        for line in describe(report.chains):
            write(plain(line) + "\n")
    if report.ok:
        write(_summary(report.frames, report.envelopes, report.unsigned, report.facts))
        for each in report.comparisons:
            write(f"the state hash equals that of {plain(each.name)} after frame {each.lsn}\n")
        write(f"state hash {report.state_hash or 'not computed'}\n")


@click.command("log", cls=Command)
@click.option("--seed", "seed_id", type=IdPrefix("seed"), help="Only entries about this task.")
@click.option("--since", metavar=MOMENT, help=f"Only decisions made since {MOMENT_HELP}")
@click.option("--after", type=WholeNumber(0, INTEGER_MAX), help="Only entries after this frame of the journal.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Only this kind; repeatable.")
@click.option("--all", "everything", is_flag=True, help="All envelopes, not only claims, results and settlements.")
@click.option(
    "--limit",
    type=WholeNumber(0, INTEGER_MAX),
    help="Maximum number of entries: the first ones with --since or --after, else the newest ones.",
)
@click.pass_context
def log_(
    context: click.Context,
    seed_id: str | None,
    since: str | None,
    after: int | None,
    kinds: tuple[str, ...],
    everything: bool,
    limit: int | None,
) -> None:
    """Show claims, results and settlements: the author, the time, the envelope and the decision.

    The time is when this node decided. With --json, prints one object per line.
    """
    state = state_of(context)
    settings = state.settings
    import msgspec

    from crabnet.operator.live import durable_lsn
    from crabnet.operator.log import LogFilter, describe_row, newest, read_log
    from crabnet.storage.files import RealFiles

    if seed_id is not None:
        seed_id = state.full_id("seed", seed_id)
    from_s = 0 if since is None else since_s(since, int(time.time()))
    wanted = LogFilter(seed_id, from_s, after or 0, frozenset(kinds) if kinds else frozenset() if everything else None)
    rows = read_log(
        RealFiles(), settings.data_dir, wanted, until_lsn=durable_lsn(settings.data_dir, settings.control_timeout_ms)
    )
    if limit is not None:
        rows = islice(rows, limit) if since is not None or after is not None else newest(rows, limit)
    for row in rows:
        fields: JsonValue = msgspec.to_builtins(row) if state.json else None
        write(object_text(fields) if state.json else plain(describe_row(row)) + "\n")


@click.command("proof", cls=Command)
@click.argument("author", required=False, metavar="[AUTHOR]")
@click.option(
    "--out",
    metavar="FILE",
    help="Write the proofs to FILE (- for standard output), one document per line. Anybody can check them.",
)
@click.option(
    "--check",
    metavar="FILE",
    help="Check the proofs in FILE (- for standard input) instead. Needs neither a data dir nor a node.",
)
@click.pass_context
def proof_(context: click.Context, author: str | None, out: str | None, check: str | None) -> None:
    """Show the authors that signed two envelopes for one place of their feed, with proofs that anybody can check.

    A proof contains both envelopes. Two signatures by the same key are enough to prove the fork. With --json, prints
    one object per line.
    """
    state = state_of(context)
    from crabnet.cli.streams import is_stream, reading, writing
    from crabnet.errors import Reason, RefusedError, UsageError
    from crabnet.operator.proofs import check_file, describe, shown, stored_proofs
    from crabnet.storage.files import RealFiles, replace_file, storage_failed

    files = RealFiles()
    if check is not None and out is not None:
        raise UsageError("give --check or --out, not both", Reason.INVALID_ARGUMENT)
    if check is not None:
        with reading(Path(check)) as path:
            proofs = check_file(files, path)
        if author is not None and any(each.row.author != author for each in proofs):
            raise RefusedError(f"{path} proves nothing about {author}", Reason.UNKNOWN_KEY)
    else:
        proofs = stored_proofs(files, state.settings.data_dir, author)
    if out is not None:
        if not proofs:
            raise RefusedError("no fork is proved in this data dir; no file was written", Reason.INVALID_ARGUMENT)
        with writing(Path(out)) as path:
            try:
                replace_file(files, path, b"".join(each.document + b"\n" for each in proofs))
            except OSError as error:
                raise storage_failed(error, "write the proofs", path) from error
    report = note_line if out is not None and is_stream(Path(out)) else write
    for each in proofs:
        report(object_text(shown(each)) if state.json else plain(describe(each.row)) + "\n")
    if not proofs and not state.json:
        note("no fork is proved here" if author is None else f"no fork by {plain(author)} is proved here")


def _summary(frames: int, envelopes: int, unsigned: int, facts: int) -> str:
    legacy = f", {unsigned} of them unsigned (of the old protocol)" if unsigned else ""
    imported = f", {facts} unsigned facts of an imported baseline state" if facts else ""
    return f"sound: {frames} frames, {envelopes} envelopes{legacy}{imported}\n"
