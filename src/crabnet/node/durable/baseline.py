"""A data dir that was one of the Rust program: at the first start its state becomes unsigned facts in the journal."""

from __future__ import annotations

from collections.abc import Iterator

from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.core.replica.records import frame_of
from crabnet.domain.model import SeedStatus
from crabnet.errors import DataDirDamagedError, Reason, RefusedError
from crabnet.node.durable.framing import Framing
from crabnet.protocol.baseline_state import BaselineState, parse_baseline_state
from crabnet.storage.ledger import Ledger

UNSIGNED_HINT = "its content is unsigned: set require_signatures = false to import it as unauthenticated"


def import_baseline(core: Core, ledger: Ledger, now_ms: int) -> tuple[str, ...]:
    """Journal what the baseline's state.json says and is not known yet; returns what could not be imported.

    Importing again, after a crash in between, adds only what is missing. Raises RefusedError when signatures are
    required and nothing was imported before, DataDirDamagedError, StorageFailedError.
    """
    content = ledger.recovery.baseline()
    if content is None:
        return ()
    found = parse_baseline_state(content)
    if found is None:
        raise DataDirDamagedError(f"{ledger.data_dir}: the baseline's state.json cannot be read as one")
    if core.config.policy.require_signatures:
        if core.replica.arrivals or not found.facts:
            return ()
        raise RefusedError(
            f"{ledger.data_dir} holds the state.json of the Rust program; {UNSIGNED_HINT}, or use another data dir",
            Reason.MISSING_SIGNATURE,
        )
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
    """Seeds that do not stand here as they stood in the file."""
    records = core.replica.state.records
    for seed_id, status in found.statuses.items():
        record = records.get(seed_id)
        here = None if record is None else record.progress.status
        if here is None:
            yield f"Seed {seed_id}: it was not imported"
        elif here is not status and not (status is SeedStatus.OPEN and here is SeedStatus.EXPIRED):
            yield f"Seed {seed_id}: it is {status.value} in the file, but {here.value} here"
