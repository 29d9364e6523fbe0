"""``python -m bench``: measure, print a table, and end with 0 unless something could not be measured."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench import amplification, catchup, commits, ingest, pauses, recovery, sandbox, start
from bench.report import Measure, Report, render, save

PARTS: Final[dict[str, Callable[..., list[Measure]]]] = {
    "ingest": ingest.measure,
    "start": start.measure,
    "commits": commits.measure,
    "recovery": recovery.measure,
    "pauses": pauses.measure,
    "catchup": catchup.measure,
    "sandbox": sandbox.measure,
    "amplification": amplification.measure,
}


def main() -> int:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; without, all of them")
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer rounds, smaller checkpoints")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measures as JSON, too")
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - PARTS.keys())
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}")
    measures: list[Measure] = []
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-state-") as state:
        os.environ["XDG_STATE_HOME"] = state  # where nodes note how far their feeds went
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
