"""Watches a task until it is over, for ``seed show --follow`` and for the progress that ``seed run`` prints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Final

from crabnet.cli.context import State
from crabnet.cli.output import as_list, as_object, as_text, note, pause
from crabnet.control.client import JsonValue, NodeNotRunningError, stream
from crabnet.errors import CrabnetError, NodeTimeoutError, Reason
from crabnet.plain import plain

FINAL: Final = frozenset({"Expired", "Accepted", "Rejected", "Disputed"})
_AWAY_S: Final = 0.2
_IDLE_MS: Final = 100
_PROGRESS_IDLE_MS: Final = 500
_PROGRESS_EVERY_S: Final = 10


def follow(state: State, seed_id: str, deadline: float | None = None) -> Iterator[dict[str, JsonValue]]:
    """Yields the task now and after each change until it is over. Needs a running node unless the task is over.

    Continues if the node is restarted within ``lock_wait_ms``. Raises NodeNotRunningError, and the errors that the
    node answers. ``deadline`` is a time of ``time.monotonic``; after it, NodeTimeoutError (TIMEOUT) is raised.
    """
    idle_ms = None if deadline is None else _IDLE_MS
    seen = ""
    away_since: float | None = None
    while True:
        try:
            for item in stream(state.settings.data_dir, "seed.watch", {"seed_id": seed_id, "seen": seen}, idle_ms):
                if item is None:
                    _demand_time(deadline)
                    continue
                away_since = None
                shown = as_object(item)
                seen = as_text(shown, "mark")
                del shown["mark"]
                yield shown
            return
        except (NodeNotRunningError, NodeTimeoutError) as error:
            _demand_time(deadline)
            if seen and (away_since is None or time.monotonic() - away_since < state.settings.lock_wait_ms / 1000):
                if away_since is None:
                    away_since = time.monotonic()
                    note("the node does not answer; waiting until it runs again")
                pause(_AWAY_S)
                continue
            if not isinstance(error, NodeNotRunningError):
                raise
            shown = as_object(state.perform("seed.show", {"seed_id": seed_id}))
            if as_text(as_object(shown, "seed"), "status") not in FINAL:
                raise
            yield shown
            return


def _demand_time(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise NodeTimeoutError("the wait is over", Reason.TIMEOUT)


def progress_line(shown: dict[str, JsonValue]) -> str:
    """The state of a task in one line."""
    seed = as_object(shown, "seed")
    status = as_text(seed, "status")
    parts = [f"{as_text(seed, 'id')} [{status.upper()}]", f"attempt={as_text(seed, 'attempt')}"]
    if status == "Open":
        parts.append(f"bids={as_text(seed, 'bid_count')}")
    if seed.get("claimed_by"):
        parts.append(f"worker={as_text(seed, 'claimed_by')}")
    for name in ("started_at", "heard_at", "lease_until"):
        moment = seed.get(name)
        if status == "Running" and isinstance(moment, int):
            parts.append(f"{name.removesuffix('_at')}={_clock_time(moment)}")
    result = next(
        (item for item in as_list(shown, "results") if as_object(item).get("id") == seed.get("result_id")), None
    )
    if result is not None and seed.get("result_id"):
        parts.append(f"exit={as_text(result, 'exit_code')} took={as_text(result, 'duration_ms')}ms")
    here = shown.get("local_run")
    if isinstance(here, dict):
        position = here.get("position")
        parts.append(f"here={as_text(here, 'stage')}" + (f" position={position}" if position else ""))
    if seed.get("note"):
        parts.append(f"note={as_text(seed, 'note')}")
    return " ".join(parts)


def _clock_time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(seconds)


@contextmanager
def progress(state: State, seed_id: str) -> Iterator[None]:
    """While the block lasts, print the progress of a run on stderr: each change, and a line every ten seconds."""
    over = Event()
    teller = Thread(target=_tell, args=(state, seed_id, over), daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join(1)


def _tell(state: State, seed_id: str, over: Event) -> None:
    began = told = time.monotonic()
    line = f"{plain(seed_id)} runs in this process"

    def tell() -> None:
        nonlocal told
        if not over.is_set():
            told = time.monotonic()
            note(f"{line} after={round(told - began)}s")

    try:
        for item in stream(state.settings.data_dir, "seed.watch", {"seed_id": seed_id}, _PROGRESS_IDLE_MS):
            if over.is_set():
                return
            if item is not None:
                line = progress_line(as_object(item))
                tell()
            elif time.monotonic() - told >= _PROGRESS_EVERY_S:
                tell()
    except NodeNotRunningError:
        tell()
        while not over.wait(_PROGRESS_EVERY_S):
            tell()
    except CrabnetError:
        return  # The command itself reports the error.
