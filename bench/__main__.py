"""``python -m bench``: measures and prints a table. The exit code is 0 unless a measurement fails."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench import (
    amplification,
    catchup,
    commits,
    dht,
    dht_load,
    events,
    ingest,
    market,
    observing,
    pauses,
    recovery,
    sandbox,
    start,
    web,
)
from bench.report import Measure, Report, render, save

PARTS: Final[dict[str, Callable[..., list[Measure]]]] = {
    "ingest": ingest.measure,
    "observing": observing.measure,
    "start": start.measure,
    "commits": commits.measure,
    "recovery": recovery.measure,
    "pauses": pauses.measure,
    "catchup": catchup.measure,
    "dht": dht.measure,
    "dht-traffic": dht_load.measure_traffic,
    "dht-soak": dht_load.measure_soak,
    "sandbox": sandbox.measure,
    "market": market.measure,
    "events": events.measure,
    "web": web.measure,
    "amplification": amplification.measure,
}


def main() -> int:
    """Run the chosen parts. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; without any, all parts run"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds and smaller checkpoints; takes about a minute"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the measures to FILE as JSON")
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - PARTS.keys())
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}")
    measures: list[Measure] = []
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-state-") as state:
        os.environ["XDG_STATE_HOME"] = state  # nodes note the heads of their feeds there
        for name in options.parts or PARTS:
            print(f"measuring {name} …", file=sys.stderr, flush=True)
            measures += PARTS[name](quick=options.quick)
    print(render(measures))
    missed = [measure.name for measure in measures if measure.verdict == "MISSED"]
    print(f"\n{len(missed)} targets missed{': ' if missed else ''}{'; '.join(missed)}")
    if options.json is not None:
        mode = "quick" if options.quick else "full"
        report = Report(mode, platform.python_version(), os.cpu_count() or 1, measures)
        save(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
