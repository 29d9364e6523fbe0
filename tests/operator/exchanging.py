"""Exports and imports of data dirs at rest, as the tests make them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from crabnet.node.node import Node
from crabnet.operator.compare import Difference, compare, load_side
from crabnet.operator.exchange import (
    Vector,
    check_export,
    read_entries,
)
from crabnet.operator.export import ExportResult, Source, Wanted, export_state
from crabnet.operator.source import key_seed_of
from crabnet.operator.source import source_of as exporter_of
from crabnet.operator.transfer import ImportTotals, import_entries
from crabnet.storage.files import RealFiles
from tests.operator.support import Clock, settings_of, work
from tests.support.asking import asked
from tests.support.envelopes import NOW_S

FILES = RealFiles()


def envelopes_in(path: Path) -> list[bytes]:
    """The envelopes of an export, in their order."""
    return [each for each in read_entries(FILES, check_export(FILES, path)) if isinstance(each, bytes)]


def source_of(data_dir: Path) -> Source:
    found: list[Source] = []

    async def look(node: Node) -> None:
        found.append(exporter_of(await asked(node, "state.vector", {})))

    work(data_dir, look)
    return found[0]


def export(data_dir: Path, path: Path, base: Vector | None = None, *, unsigned: bool = False) -> ExportResult:
    return export_state(
        FILES,
        data_dir,
        path,
        source=source_of(data_dir),
        wanted=Wanted(base or {}, unsigned),
        key_seed=key_seed_of(FILES, data_dir),
        now_s=NOW_S,
    )


def bring(data_dir: Path, path: Path, **flags: str | bool) -> ImportTotals:
    settings = settings_of(data_dir, **flags)
    return import_entries(settings, read_entries(FILES, check_export(FILES, path, settings.namespace)))


def difference(a: Path, b: Path) -> Difference:
    sides = [
        load_side(FILES, str(path), data_dir=path, namespace="default", durable_lsn=lambda _: None) for path in (a, b)
    ]
    return compare(sides[0], sides[1])


def import_with_clock(data_dir: Path, entries: list[bytes], clock: Clock) -> dict[str, object]:
    from crabnet.node.operations.importing import import_entries as import_into

    answers: list[dict[str, object]] = []

    async def job(node: Node) -> None:
        answers.append(msgspec.to_builtins(await import_into(node, entries, [])))

    work(data_dir, job, clock)
    return answers[0]


def state_hash(data_dir: Path) -> str:
    found: list[str] = []

    async def look(node: Node) -> None:
        found.append(await node.state_hash())

    work(data_dir, look)
    return found[0]


def import_at(data_dir: Path, entries: list[bytes]) -> dict[str, object]:
    return import_with_clock(data_dir, entries, Clock())
