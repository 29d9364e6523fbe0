"""``crabnet fsck``: for a data dir on which the node does not start."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from crabnet.cli.context import state_of, write_object
from crabnet.cli.options import Command
from crabnet.cli.output import note, write
from crabnet.control.client import JsonValue
from crabnet.errors import DataDirDamagedError, Reason, RefusedError
from crabnet.plain import plain

if TYPE_CHECKING:
    from crabnet.operator.fsck import FsckReport
    from crabnet.operator.transfer import ImportTotals


@click.command("fsck", cls=Command)
@click.option("--repair", is_flag=True, help="Save what can be saved. The original files are kept in damaged/.")
@click.pass_context
def fsck(context: click.Context, repair: bool) -> None:
    """Show whether a node starts on the data dir, what is damaged, and what can be saved.

    Without --repair it changes nothing. The exit code is 0 if there is nothing to repair or the repair is done, 5 if
    damage remains, and 4 if a node runs.
    """
    run = state_of(context)
    settings = run.settings
    from crabnet.operator.fsck import examine, fsck_lock
    from crabnet.operator.repair import apply_pending, prepare
    from crabnet.storage.files import RealFiles

    files = RealFiles()
    now_ms = time.time_ns() // 1_000_000
    totals: ImportTotals | None = None
    with fsck_lock(files, settings.data_dir, now_ms) as lock:
        examination = examine(files, settings)
        before = report = examination.report
        repairs = repair and not before.obstacle and bool(before.repair or examination.pending)
        if repairs:
            prepare(files, settings, examination, lock, now_ms)
            examination = examine(files, settings)
    if repairs:
        totals = apply_pending(files, settings, examination.pending)
        with fsck_lock(files, settings.data_dir, now_ms):
            report = examine(files, settings).report
    if run.json:
        write_object(_fields(before, report, totals))
    else:
        _show(before, report, totals)
    if report.obstacle:
        if report.obstacle_reason is Reason.MISSING_SIGNATURE:
            raise RefusedError(report.obstacle, report.obstacle_reason)
        raise DataDirDamagedError(report.obstacle, report.obstacle_reason)
    if not report.healthy:
        hint = "; `crabnet fsck --repair` saves what can be saved" if report.repair else ""
        raise DataDirDamagedError(f"{settings.data_dir} is damaged{hint}")


def _show(before: FsckReport, after: FsckReport, totals: ImportTotals | None) -> None:
    for name, condition in before.conditions.items():
        write(f"{name}: {condition}\n")
    for damage in before.damages:
        write(f"damage: {plain(damage)}\n")
    for notice in before.notices:
        write(f"notice: {plain(notice)}\n")
    if before.opens and totals is None and not before.repair:
        words = "healthy" if before.healthy else "not healthy, but a node starts on it"
        write(f"{words}: {before.seeds_kept} tasks up to frame {before.kept_lsn}\n")
        return
    if before.obstacle:
        return
    if before.repair:
        write(f"repair: {before.repair}\n")
    write(f"kept unchanged: {before.seeds_kept} tasks up to frame {before.kept_lsn}\n")
    for first, last in before.lost:
        write(f"not readable: frames {first} to {last}\n")
    for envelope_id in before.envelopes_broken:
        write(f"not readable: envelope {plain(envelope_id)}\n")
    write(f"readable after that: {before.envelopes_behind} envelopes\n")
    if totals is None:
        return
    write(f"repaired: {totals.accepted} of {totals.entries} envelopes were applied again\n")
    for word, counts in (("ignored", totals.ignored), ("rejected", totals.rejected)):
        for reason, count in sorted(counts.items()):
            write(f"{word} {count}: {plain(reason)}\n")
    write(f"now: {after.seeds_kept} tasks up to frame {after.kept_lsn}\n")
    note(
        "the node may have sent envelopes that it has lost; it writes nothing into its feed until a peer confirms the "
        "end of the feed, or until it is started with --accept-feed-risk"
    )


def _fields(before: FsckReport, after: FsckReport, totals: ImportTotals | None) -> dict[str, JsonValue]:
    applied: dict[str, JsonValue] | None = None
    if totals is not None:
        applied = {
            "entries": totals.entries,
            "accepted": totals.accepted,
            "ignored": {**totals.ignored},
            "rejected": {**totals.rejected},
        }
    return {
        "opens": after.opens,
        "healthy": after.healthy,
        "repaired": totals is not None,
        "conditions": {**before.conditions},
        "recovery": before.recovery,
        "damages": [*before.damages],
        "notices": [*before.notices],
        "obstacle": after.obstacle or None,
        "repair": before.repair or None,
        "kept_lsn": before.kept_lsn,
        "lost": [[first, last] for first, last in before.lost],
        "seeds_kept": before.seeds_kept,
        "envelopes_behind": before.envelopes_behind,
        "envelopes_broken": [*before.envelopes_broken],
        "applied": applied,
    }
