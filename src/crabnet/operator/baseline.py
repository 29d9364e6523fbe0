"""``crabnet state import`` of a baseline's ``state.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from crabnet.control.client import JsonValue
from crabnet.domain.model import SeedStatus
from crabnet.errors import Reason, RefusedError
from crabnet.limits import BASELINE_STATE_BYTES_MAX
from crabnet.node.durable.baseline import UNSIGNED_HINT, result_links
from crabnet.protocol.baseline_state import BaselineState, parse_baseline_state
from crabnet.storage.files import Files, guarded, read_whole


def read_importable(files: Files, path: Path, config: JsonValue) -> BaselineState:
    """The facts in the file, if ``config`` allows unsigned ones. ``config`` is the answer of the method ``config``.

    Raises RefusedError, and StorageFailedError if the file cannot be read.
    """
    with guarded("read the file", path):
        content = read_whole(files, path, BASELINE_STATE_BYTES_MAX)
    found = None if content is None else parse_baseline_state(content, result_links(files, path.parent))
    if found is None:
        raise RefusedError(
            f"{path} is neither an export of Crabnet nor a state.json of the Rust program; nothing was imported",
            Reason.MALFORMED,
        )
    settings = config.get("settings") if isinstance(config, dict) else None
    if not isinstance(settings, dict) or settings.get("require_signatures") is not False:
        raise RefusedError(
            f"{path} is a state.json of the Rust program; {UNSIGNED_HINT}; nothing was imported",
            Reason.MISSING_SIGNATURE,
        )
    return found


def seeds_apart(found: BaselineState, statuses: Mapping[str, str | None]) -> Iterator[str]:
    """Lines about seeds whose status in the node (``statuses``) differs from that in the file."""
    for seed_id, status in found.statuses.items():
        here = statuses.get(seed_id)
        if here is None:
            yield f"seed {seed_id} was not imported"
        elif here != status.value and not (status is SeedStatus.OPEN and here == SeedStatus.EXPIRED.value):
            yield f"seed {seed_id} is {status.value} in the file, but {here} here"
