"""Performs the operation ``seed.receipt``: finds the envelopes of a task's steps, in a node or in the files."""

from __future__ import annotations

from functools import partial

import trio

from crabnet.core.core import Core
from crabnet.core.replica.records import EnvelopeRecord, decode_frame, stored_envelope
from crabnet.domain.model import Fact
from crabnet.domain.record import Record
from crabnet.errors import RefusedError
from crabnet.node.node import Node
from crabnet.node.operations.performing import reads
from crabnet.node.operations.trail import frames_after
from crabnet.operations import market
from crabnet.protocol.receipt import RawOf, ReceiptRefusedError, compose_receipt
from crabnet.settings import Settings
from crabnet.storage.files import Files


@reads(market.RECEIPT)
async def receipt(node: Node, given: market.ReceiptRequest) -> market.Receipt:
    """The receipt of a task."""
    record, held = node.core.record(given.seed_id), node.core.replica.held

    def raw_of(fact: Fact) -> bytes | None:
        found = held.envelope(given.seed_id, fact.envelope)
        return None if found is None else found[1]

    await node.durable()
    namespace = node.settings.namespace
    return await trio.to_thread.run_sync(partial(_receipt, namespace, given.seed_id, record, raw_of))


def receipt_from_files(
    files: Files, settings: Settings, core: Core, given: market.ReceiptRequest, until_lsn: int
) -> market.Receipt:
    """The receipt of a task of a data dir that was read. Raises RefusedError, and the errors of ``frames_after``."""
    seed_id = given.seed_id
    record = core.record(seed_id)
    wanted = {fact.envelope for fact in (*record.facts(), *record.fallen)}
    raws: dict[str, bytes] = {}
    for frame in frames_after(files, settings.data_dir, 0, until_lsn=until_lsn):
        if seed_id.encode() not in frame.payload:
            continue
        for each in decode_frame(frame.payload):
            if isinstance(each, EnvelopeRecord):
                raw = bytes(each.raw)
                envelope_id = stored_envelope(raw).meta.id
                if envelope_id in wanted:
                    raws[envelope_id] = raw
    return _receipt(settings.namespace, seed_id, record, lambda fact: raws.get(fact.envelope))


def _receipt(namespace: str, seed_id: str, record: Record, raw_of: RawOf) -> market.Receipt:
    try:
        document = compose_receipt(namespace, record, raw_of)
    except ReceiptRefusedError as error:
        raise RefusedError(f"there is no receipt of seed {seed_id}: {error.detail}", error.reason) from error
    return market.Receipt(seed_id=seed_id, document=document.decode())
