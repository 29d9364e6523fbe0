"""The open purchases of this node: seeds of its own that it goes on with by itself, and on which terms (ADR 44)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from crabnet import limits
from crabnet.core.replica.records import PurchaseRecord
from crabnet.market.policies import Terms


class Purchases:
    """Terms by seed. At most ``PURCHASES_MAX``: ask ``full`` before a new one."""

    def __init__(self) -> None:
        self._terms: dict[str, Terms] = {}

    def __len__(self) -> int:
        return len(self._terms)

    @property
    def full(self) -> bool:
        """True if there is no room for one more."""
        return len(self._terms) >= limits.PURCHASES_MAX

    @property
    def terms(self) -> Mapping[str, Terms]:
        """All terms, oldest purchase first."""
        return self._terms

    def get(self, seed_id: str) -> Terms | None:
        """The terms of a seed; None if it has none."""
        return self._terms.get(seed_id)

    def put(self, record: PurchaseRecord) -> None:
        """Add or replace the terms of a seed, or end its purchase."""
        if record.terms is None:
            self._terms.pop(record.seed_id, None)
        else:
            self._terms[record.seed_id] = record.terms

    def entries(self) -> Iterator[PurchaseRecord]:
        """All purchases, for the checkpoint."""
        for seed_id, terms in self._terms.items():
            yield PurchaseRecord(seed_id, terms)
