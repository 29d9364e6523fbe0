"""Measures how much strangers can make a node write, keep in memory and compute, relative to what they send.

``python -m bench.amplification`` prints the table for docs/SECURITY.md. ``python -m bench amplification`` prints the
factors with their bound.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Final, NamedTuple

import trio

from bench.report import Measure, at_most
from tests.support import strangers
from tests.support.strangers import Attack
from tests.support.victim import Victim, Written, victim_in

GROUP: Final = "Bytes written for each that a stranger sends"
FACTOR_MAX: Final = 8
ATTACKS: Final[dict[str, Attack]] = {
    "honest seeds": strangers.honest_seeds,
    "bids below the least price": strangers.void_bids,
    "bids on an archived seed": strangers.late_bids,
    "steps of a job without the right to them": strangers.steps_without_right,
    "600 results of one that did not win": strangers.results_of_a_non_winner,
    "two results each of 300 that did not win": strangers.results_of_non_winners,
    "199 descending forks of a seed's creator": strangers.descending_forks,
    "320 descending forks of bidders on a fat seed": strangers.descending_forks_of_bidders,
    "a fat definition that comes and goes": strangers.a_definition_that_comes_and_goes,
    "disputes of an archived seed": strangers.disputes_of_an_archived_seed,
    "a dispute about fat results": strangers.a_dispute_about_results,
    "a dispute about eight attempts": strangers.a_dispute_about_forfeited_attempts,
    "claims of a later attempt that come and go": strangers.a_claim_of_a_later_attempt,
    "10,200 void facts about one seed": strangers.void_facts,
    "forks of new authors": strangers.forks,
    "fork proofs that were announced": strangers.announced_proofs,
    "fork proofs that nobody asked for": strangers.proofs_that_nobody_asked_for,
    "envelopes ahead of their feeds": strangers.gaps,
    "envelopes that rest on nothing held": strangers.missing_parents,
    "`FeedHeads` of 6,400 made-up authors": strangers.made_up_heads,
    "malformed datagrams": strangers.malformed,
    "datagrams of two bytes": strangers.tiny,
    "wrong signatures": strangers.bad_signatures,
    "replays": strangers.replays,
}
_WARM: Final = "honest seeds"


class Row(NamedTuple):
    """The measurements of one kind of attack."""

    name: str
    messages: int
    heard: int
    written: Written
    kept: int
    """Bytes of Python objects that remain afterwards; 0 if that was not measured."""
    cpu_s: float

    @property
    def factor(self) -> float:
        """Bytes written for each byte received."""
        return self.written.total / self.heard

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of processor time per message."""
        return 1_000 * self.cpu_s / self.messages


async def _warmed(victim: Victim) -> None:
    """Warm up, so that objects that are made only once exist."""
    await strangers.honest_seeds(victim)
    victim.heard, victim.messages, victim.cpu_s = 0, 0, 0.0


async def _cost(attack: Attack, data_dir: Path) -> tuple[Victim, Written]:
    async with victim_in(data_dir) as victim:
        before = await victim.written()
        await attack(victim)
        return victim, (await victim.written()).since(before)


async def _kept(attack: Attack, data_dir: Path) -> int:
    async with victim_in(data_dir) as victim:
        gc.collect()
        tracemalloc.start()
        await attack(victim)
        await victim.flush()
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return kept


def rows(*, memory: bool = True) -> list[Row]:
    """Run each attack on a new node for bytes and processor time, and with ``memory`` on another one for memory."""
    found = []
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-") as directory:
        trio.run(_cost, _warmed, Path(directory) / "warm")
        for number, (name, attack) in enumerate(ATTACKS.items()):
            victim, written = trio.run(_cost, attack, Path(directory) / f"{number}")
            kept = trio.run(_kept, attack, Path(directory) / f"{number}-memory") if memory else 0
            print(f"  {name}", file=sys.stderr, flush=True)
            found.append(Row(name, victim.messages, victim.heard, written, kept, victim.cpu_s))
    return found


def table(found: list[Row]) -> str:
    """The table as Markdown."""
    honest = next(row for row in found if row.name == _WARM)
    lines = [
        "| what strangers send | messages | received | journal | other | events | factor | memory | time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        written = row.written
        sizes = (row.heard, written.journal, written.indexes + written.rest, written.events)
        cells = f"{row.factor:.1f} | {_kb(row.kept)} | {row.cpu_ms / honest.cpu_ms:.2f}"
        lines.append(f"| {row.name} | {row.messages:,} | {' | '.join(map(_kb, sizes))} | {cells} |")
    return "\n".join(lines)


def _kb(size: int) -> str:
    return f"{size / 1_000:,.0f} kB"


def measure(*, quick: bool) -> list[Measure]:  # noqa: ARG001 - factors do not depend on how often they are measured
    """Measure the factor of each attack."""
    bound = at_most(FACTOR_MAX)
    found = rows(memory=False)
    return [Measure(GROUP, row.name, row.factor, "", bound, f"{_kb(row.heard)} received") for row in found]


def main() -> int:
    """Print the table. Returns the exit code: 1 if a factor exceeds its bound."""
    found = rows()
    print(table(found))
    return int(any(row.factor > FACTOR_MAX for row in found))


if __name__ == "__main__":
    sys.exit(main())
