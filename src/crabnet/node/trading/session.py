"""What a worker has done and earned since its node was started."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from crabnet.core.effects import Notice
from crabnet.domain.model import SeedStatus


@dataclass(slots=True)
class Session:
    """The counts of the worker ``node_id`` since ``since_ms``, in milliseconds since the epoch."""

    node_id: str
    since_ms: int
    bids: int = 0
    results: int = 0
    accepted: int = 0
    rejected: int = 0
    forfeited: int = 0
    earned: int = 0

    def note(self, notices: Iterable[Notice]) -> None:
        """Count what has become durable."""
        for notice in notices:
            if notice.kind == "bid_quoted":
                self.bids += 1
            elif notice.kind == "seed_changed" and notice.fields.get("worker") == self.node_id:
                self._changed(notice)

    def _changed(self, notice: Notice) -> None:
        match notice.fields.get("status"):
            case SeedStatus.DONE:
                self.results += 1
            case SeedStatus.ACCEPTED:
                self.accepted += 1
                price = notice.fields.get("price")
                self.earned += price if isinstance(price, int) else 0
            case SeedStatus.REJECTED:
                self.rejected += 1
            case SeedStatus.FORFEITED:
                self.forfeited += 1

    def summary(self, owed: int, owed_results: int) -> str:
        """One line for the operator. ``owed`` is the sum of the prices of ``owed_results`` results."""
        counts = [f"{self.results} {_results(self.results)}", f"{self.accepted} accepted"]
        counts += [f"{self.rejected} rejected"] if self.rejected else []
        counts += [f"{self.forfeited} forfeited"] if self.forfeited else []
        waiting = f"; {owed} owed for {owed_results} {_results(owed_results)} to settle" if owed_results else ""
        return f"this session: {', '.join(counts)}; earned {self.earned}{waiting}"


def _results(count: int) -> str:
    return "result" if count == 1 else "results"
