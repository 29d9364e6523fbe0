"""Imports a data dir of the Rust program. At the first start its state becomes unsigned facts in the journal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from crabnet import limits
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.replica.records import frame_of
from crabnet.domain.model import SeedStatus
from crabnet.errors import DataDirDamagedError, Reason, RefusedError
from crabnet.node.durable.framing import Framing
from crabnet.protocol.baseline_state import BaselineState, parse_baseline_state
from crabnet.settings import Settings
from crabnet.storage.checkpoint.format import CHECKPOINT_FORMAT
from crabnet.storage.files import Files, guarded, read_whole
from crabnet.storage.layout import Layout
from crabnet.storage.ledger import Ledger

_FORMAT_WITHIN_BYTES: Final = 256
UNSIGNED_HINT = "its content is unsigned: set require_signatures = false to import it as unauthenticated"


def holds_our_state(files: Files, data_dir: Path) -> bool:
    """True if a node of this program has used the data dir, so that it must hold a key. The Rust program has none."""
    layout = Layout(data_dir)
    with guarded("look into the data dir", data_dir):
        for path in (layout.state, layout.bak):
            if CHECKPOINT_FORMAT.encode() in (read_whole(files, path, _FORMAT_WITHIN_BYTES) or b""):
                return True
        return files.size(layout.journal) is not None and bool(files.listdir(layout.journal))


def demand_importable(files: Files, settings: Settings) -> None:
    """Check a data dir before anything is written to it. Raises RefusedError (MISSING_SIGNATURE) if it holds a state of
    the Rust program and signatures are required.
    """
    layout = Layout(settings.data_dir)
    if not settings.require_signatures or holds_our_state(files, settings.data_dir):
        return
    with guarded("look into the data dir", settings.data_dir):
        content = read_whole(files, layout.state, limits.BASELINE_STATE_BYTES_MAX)
    found = None if content is None else parse_baseline_state(content)
    if found is not None and found.facts:
        raise _unsigned(settings.data_dir)


def _unsigned(data_dir: Path) -> RefusedError:
    return RefusedError(
        f"{data_dir} holds the state.json of the Rust program; {UNSIGNED_HINT}, or use another data dir",
        Reason.MISSING_SIGNATURE,
    )


def result_links(files: Files, directory: Path) -> dict[str, str]:
    """Result id -> seed id, as far as the Rust program's event files in a directory tell. Raises nothing."""
    links: dict[str, str] = {}
    with suppress(OSError):
        for name in files.listdir(directory):
            if name.startswith("events") and name.endswith(".ndjson"):
                content = read_whole(files, directory / name, limits.BASELINE_STATE_BYTES_MAX) or b""
                for line in content.splitlines():
                    links |= _link(line)
    return links


def _link(line: bytes) -> dict[str, str]:
    if b'"result_id"' not in line or b'"seed_id"' not in line:
        return {}
    try:
        payload = msgspec.json.decode(line, type=_Event).payload
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return {}
    return {payload.result_id: payload.seed_id} if payload.result_id and payload.seed_id else {}


class _EventPayload(msgspec.Struct):
    result_id: str = ""
    seed_id: str = ""


class _Event(msgspec.Struct):
    payload: _EventPayload


def import_baseline(core: Core, ledger: Ledger, files: Files, now_ms: int) -> tuple[str, ...]:
    """Write the facts of the baseline's state.json to the journal. Returns a sentence for each that was not imported.

    If a crash interrupts the import, the next import adds only the missing facts. Raises RefusedError if signatures are
    required and nothing was imported before, DataDirDamagedError, StorageFailedError.
    """
    content = ledger.recovery.baseline()
    if content is None:
        return ()
    found = parse_baseline_state(content, result_links(files, ledger.data_dir))
    if found is None:
        raise DataDirDamagedError(f"{ledger.data_dir}: the state.json of the Rust program cannot be parsed")
    if core.config.policy.require_signatures:
        if core.replica.arrivals or not found.facts:
            return ()
        raise _unsigned(ledger.data_dir)
    effects = Effects()
    for fact in found.facts:
        core.import_fact(fact, now_ms, effects)
    framing: Framing[None] = Framing()
    framing.put(effects, None)
    while framing:
        batch = framing.take()
        if batch.records:
            ledger.append(frame_of(batch.records))
    return (*found.problems, *differences(found, core))


def differences(found: BaselineState, core: Core) -> Iterator[str]:
    """A sentence for each seed whose status here differs from that in the file."""
    records = core.replica.state.records
    for seed_id, status in found.statuses.items():
        record = records.get(seed_id)
        here = None if record is None else record.progress.status
        if here is None:
            yield f"Seed {seed_id}: it was not imported"
        elif here is not status and not (status is SeedStatus.OPEN and here is SeedStatus.EXPIRED):
            yield f"Seed {seed_id}: it is {status.value} in the file, but {here.value} here"
