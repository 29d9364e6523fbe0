"""``crabnet audit``: check the ledger, and show what was decided."""

from __future__ import annotations

from pathlib import Path

import click

from crabnet.cli.options import Command, LazyGroup, state_of
from crabnet.cli.output import json_line, note, plain, write
from crabnet.control.client import JsonValue

audit = LazyGroup(
    "audit",
    "Check the ledger, and show what was decided. Needs no lock: works beside a running node.",
    {"verify": "crabnet.cli.audit:verify_"},
)


@click.command("verify", cls=Command)
@click.option(
    "--from-checkpoint",
    "start",
    metavar="genesis|state|bak|FILE",
    default="genesis",
    show_default=True,
    help="What the replay starts from: the first frame, state.json, state.json.bak, or another checkpoint file.",
)
@click.pass_context
def verify_(context: click.Context, start: str) -> None:
    """Check every frame, signature and feed, and replay the journal. Prints one line per finding.

    Exit code 5 when something was found.
    """
    state = state_of(context)
    settings = state.settings
    from crabnet.errors import DataDirDamagedError
    from crabnet.operator.audit import audit as run_audit
    from crabnet.operator.live import live_point
    from crabnet.storage.files import RealFiles

    report = run_audit(
        RealFiles(),
        settings.data_dir,
        namespace=settings.namespace,
        ask_node=lambda: live_point(settings),
        start=start if start in {"genesis", "state", "bak"} else str(Path(start).expanduser()),
    )
    if state.json:
        comparisons: list[JsonValue] = [
            {"with": each.name, "lsn": each.lsn, "expected": each.expected, "computed": each.computed}
            for each in report.comparisons
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
        write(
            json_line(
                {
                    "ok": report.ok,
                    "from": report.start,
                    "first_lsn": report.first_lsn,
                    "last_lsn": report.last_lsn,
                    "frames": report.frames,
                    "envelopes": report.envelopes,
                    "unsigned": report.unsigned,
                    "state_hash": report.state_hash or None,
                    "comparisons": comparisons,
                    "findings": findings,
                    "findings_total": report.findings_total,
                    "notes": [*report.notes],
                }
            )
        )
    else:
        for finding in report.findings:
            write(plain(str(finding)) + "\n")
        for text in report.notes:
            note(plain(text))
        if report.ok:
            write(_summary(report.frames, report.envelopes, report.unsigned))
            for each in report.comparisons:
                write(f"state hash equals that of {plain(each.name)} after frame {each.lsn}\n")
            write(f"state hash {report.state_hash or 'not computed'}\n")
    if not report.ok:
        raise DataDirDamagedError(f"{report.findings_total} findings in {settings.data_dir}; see `crabnet fsck`")


def _summary(frames: int, envelopes: int, unsigned: int) -> str:
    legacy = f", {unsigned} of them unsigned (of the old protocol)" if unsigned else ""
    return f"sound: {frames} frames, {envelopes} envelopes{legacy}\n"
