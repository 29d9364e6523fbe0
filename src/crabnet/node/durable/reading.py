"""A data dir that is only looked at: opened as a start would open it, on an overlay, so that nothing in it changes.

It needs no lock, and no right to write. What a start would repair, import or cut off is so in what is shown.
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
    """What a data dir holds."""

    core: Core
    archive: ArchiveScan
    last_lsn: int


def read_store(settings: Settings, files: Files) -> Reading:
    """Look at a data dir, also while somebody else writes to it. Blocks.

    Raises DataDirDamagedError, StorageFailedError when it cannot be read, UsageError for a data dir of another
    namespace, RefusedError for an unsigned baseline state.
    """
    for _ in range(_TRIES):
        try:
            return _read(settings, files)
        except (DataDirDamagedError, StorageFailedError):
            time.sleep(_PAUSE_S)  # files that a checkpoint moves meanwhile look like damage
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
            f"{data_dir} holds no key: no node of this program has run there yet; `crabnet listen` begins with what"
            " there is",
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
