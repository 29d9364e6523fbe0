"""``crabnet id renew``: a new identity in the same data dir after the feed of the old one has ended (ADR 26).

Only the key changes; all stored data stays. The old key is kept beside it, so that the operator can explain what it
signed.
"""

from __future__ import annotations

import os
from typing import Final

from msgspec import Struct

from crabnet.errors import DataDirDamagedError, RefusedError
from crabnet.node.durable.own_feed import high_water_of
from crabnet.node.durable.store import FORMER_FILE, open_store, read_former
from crabnet.protocol.identity import Signer
from crabnet.protocol.keys import pem_of_seed
from crabnet.settings import Settings
from crabnet.storage.files import Files, guarded, replace_file
from crabnet.storage.keyfile import KEY_FILE, load_key_file
from crabnet.storage.layout import Layout
from crabnet.storage.lock import LockRole
from crabnet.storage.origin import ORIGIN_FILE, Origin

_SEED_BYTES: Final = 32


class Renewal(Struct, frozen=True, kw_only=True):
    """The result: the old id, the place at which its feed was forked, the new id, and where the old key is kept."""

    former: str
    end: int
    node_id: str
    key_kept: str


def renew(files: Files, settings: Settings, now_ms: int) -> Renewal:
    """Give a data dir a new key. After every step the data dir can be opened, with the old key or with the new one.

    Raises RefusedError if the feed has not ended, DataDirBusyError if a node runs, and the errors of opening.
    """
    data_dir = settings.data_dir
    store = open_store(settings, files, role=LockRole.COMMAND, now_ms=now_ms)
    try:
        former = store.core.signer.node_id
        end = store.core.replica.feeds.get(former).end
        if not end:
            raise RefusedError(f"the feed of {former} has not ended, so a new identity is not needed")
        old = load_key_file(files, data_dir)
        if old is None:
            raise DataDirDamagedError(f"{data_dir / KEY_FILE} is missing; restore it from a backup")
        seed = os.urandom(_SEED_BYTES)
        kept = data_dir / f"identity-{former[-8:]}.key"
        with guarded("give the data dir a new identity", data_dir):
            ids = dict.fromkeys((*read_former(files, data_dir), former))
            replace_file(files, data_dir / FORMER_FILE, "".join(f"{each}\n" for each in ids).encode())
            replace_file(files, kept, old)
            if files.size(data_dir / ORIGIN_FILE) is not None:
                files.unlink(data_dir / ORIGIN_FILE)
            replace_file(files, data_dir / KEY_FILE, pem_of_seed(seed))
        Origin(files, data_dir, (KEY_FILE, Layout(data_dir).journal.name)).keep()
        high_water = high_water_of(files, settings, Signer(seed).node_id)
        high_water.keep(0, "")
        high_water.close()
        return Renewal(former=former, end=end, node_id=Signer(seed).node_id, key_kept=str(kept))
    finally:
        store.close()
