"""`python -m benchmarks`: measures the pipeline and other tools, and prints one table of goals and results."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks import backfill, dashboards, lakes, publishing, syncs, webhooks
from benchmarks.measuring import Measurement, Options, Row
from benchmarks.peers import peers

MEASUREMENTS: Mapping[str, Measurement] = {
    "charges": backfill.charges,
    "all": backfill.all_types,
    "memory": backfill.memory,
    "crowded": backfill.crowded,
    "slower": backfill.slower,
    "idle": syncs.idle,
    "changes": syncs.changes,
    "publishing": publishing.publishing,
    "dashboards": dashboards.questions,
    "lake": lakes.lake,
    "peers": peers,
    "webhooks": webhooks.webhooks,
}
_ON_REQUEST = {"webhooks"}  # takes half an hour, with Dagster running
_MARKS = {True: "✓", False: "✗", None: ""}
_HEADER = ("measurement", "goal", "measured", "", "load")


def main() -> int:
    """Run the requested measurements and print the table. A measurement that fails is a row of its own, and makes the
    exit status 1; a goal that is missed does not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(MEASUREMENTS)}")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="about 4 minutes: everything smaller")
    size.add_argument(
        "--smoke",
        action="store_true",
        help="about 4 minutes: every measurement, webhooks too, so small that the figures only show that it works",
    )
    parser.add_argument("--rows", type=int, default=10_000_000, help="charges in the large table (default: 10 million)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--folder", type=Path, help="folder for temporary files")
    arguments = parser.parse_args()
    usual = [name for name in MEASUREMENTS if arguments.smoke or name not in _ON_REQUEST]
    names = arguments.only.split(",") if arguments.only else usual
    if unknown := set(names) - MEASUREMENTS.keys():
        parser.error(f"unknown measurements: {', '.join(sorted(unknown))}")
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="benchmarks-") as folder:
        share = 500 if arguments.smoke else 20 if arguments.quick else 1
        options = Options(Path(folder), quick=arguments.quick, smoke=arguments.smoke, rows=arguments.rows // share)
        for name in names:
            began = time.monotonic()
            try:
                measured = list(MEASUREMENTS[name](options))
            except Exception as error:
                measured = [Row.failure(name, f"{type(error).__name__}: {error}")]
            rows += measured
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            for row in measured:
                print("  " + " | ".join(_cells(row)), file=sys.stderr, flush=True)
    print(_markdown(rows) if arguments.markdown else _plain(rows))
    return int(any(row.failed for row in rows))


def _cells(row: Row) -> tuple[str, ...]:
    return (row.title, row.goal, row.measured, _MARKS[row.met], f"{row.load:.1f}")


def _plain(rows: Iterable[Row]) -> str:
    table = [_HEADER, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _markdown(rows: Iterable[Row]) -> str:
    lines = [_HEADER, ("---",) * len(_HEADER), *map(_cells, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
