"""What the naive rules come to: where seeds and feeds stand."""

from __future__ import annotations

from typing import NamedTuple


class Caps(NamedTuple):
    """How much one author may state."""

    open_seeds: int = 65_536
    bids_per_seed: int = 32
    steps_per_seed: int = 256
    starts_per_step: int = 64
    results_per_step: int = 2


class NaiveSeed(NamedTuple):
    """Where a seed stands. Of a disputed one only that is told."""

    status: str = "Open"
    attempt: int = 1
    claim_id: str | None = None
    claimed_by: str | None = None
    run_id: str | None = None
    result_id: str | None = None
    settled_at: int | None = None
    renewals: int = 0
    counted: frozenset[str] = frozenset()
    """Envelope ids of the steps, the work and the claimed bids that count."""
    seed: str = ""
    """Envelope id of the definition."""


DISPUTED = NaiveSeed(status="Disputed")


class NaiveState(NamedTuple):
    """``heads``: author -> (seq, id, ended). An author is absent while its front is empty, unless its feed ends there.

    ``ended`` is told when the front reaches the end, not while something before the end is missing.
    """

    heads: dict[str, tuple[int, str, bool]]
    seeds: dict[str, NaiveSeed]
