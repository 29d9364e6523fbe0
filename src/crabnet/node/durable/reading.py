"""Reads a data dir without changing it. It is opened as at a start, but on an overlay, so nothing in it changes.

This needs no lock and no write permission. The content that is shown has the repairs, imports and cuts that a start
would make.
"""

from __future__ import annotations

import time
from typing import Final

from msgspec import Struct

from crabnet.core.core import Core
from crabnet.errors import DataDirDamagedError, Reason, StorageFailedError, UsageError
from crabnet.node.clock import wall_ms
from crabnet.node.config import core_config
from crabnet.node.durable.baseline import holds_our_state, import_baseline
from crabnet.node.durable.own_feed import examine, traces_of
from crabnet.node.durable.store import (
    archive_segments,
    entropy,
    key_lost,
    read_former,
    restore_core,
    signer_of,
)
from crabnet.settings import Settings
from crabnet.storage.archive.scan import ArchiveScan
from crabnet.storage.files import Files
from crabnet.storage.keyfile import load_key_file
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole
from crabnet.storage.overlay import OverlayFiles

_TRIES: Final = 5
_PAUSE_S: Final = 0.1


class Reading(Struct, frozen=True):
    """The content of a data dir."""

    core: Core
    archive: ArchiveScan
    last_lsn: int


def read_store(settings: Settings, files: Files) -> Reading:
    """Read a data dir, even while another process writes to it. Blocks.

    Raises DataDirDamagedError, StorageFailedError if it cannot be read, UsageError for a data dir without a key
    (NO_DATA_DIR) or of another namespace, RefusedError for an unsigned baseline state.
    """
    for _ in range(_TRIES):
        try:
            return _read(settings, files)
        except (DataDirDamagedError, StorageFailedError):
            time.sleep(_PAUSE_S)  # files that a checkpoint moves during the read look like damage
    return _read(settings, files)


def _read(settings: Settings, files: Files) -> Reading:
    data_dir, now_ms = settings.data_dir, wall_ms()
    overlay = OverlayFiles(files)
    traces = traces_of(data_dir)
    pem = load_key_file(overlay, data_dir)
    if pem is None:
        if holds_our_state(files, data_dir):
            raise key_lost(data_dir)
        raise UsageError(
            f"{data_dir} holds no key, so no node of this program has run there yet; `crabnet listen` starts one",
            Reason.NO_DATA_DIR,
        )
    signer = signer_of(pem, data_dir)
    with Ledger.open(
        data_dir,
        files=overlay,
        now_ms=now_ms,
        role=LockRole.COMMAND,
        expected_node_id=signer.node_id,
        former_ids=read_former(overlay, data_dir),
    ) as ledger:
        core = Core(core_config(settings, stays=False), signer, entropy)
        restore_core(core, ledger)
        examine(overlay, settings, ledger, core, traces, key_created=False)
        archive = ArchiveScan(files, data_dir, archive_segments(core))
        core.replica.archived.read_row = archive.get
        import_baseline(core, ledger, overlay, now_ms)
        return Reading(core, archive, ledger.last_lsn)
