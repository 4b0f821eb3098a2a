"""Run the cells and print a table: `make bench-long-horizon`.

    python -m benchmarks.long_horizon [--cells NAME,…] [--full] [--harness SOURCE] [--page FILE]

All cells take about 19 minutes, or about 80 with --full. The exit code
is 1 if a cell has failed. Logs and the harness's raw figures are in build/long_horizon/logs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.long_horizon import harness, page, run
from benchmarks.long_horizon.cells import CELLS, HARNESS


def main() -> int:
    """Run the chosen cells, one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", help="names, separated by commas (default: all)")
    parser.add_argument("--full", action="store_true", help="phases as long as the published ones")
    parser.add_argument(
        "--harness", default=HARNESS, help="URL or folder to clone the harness from"
    )
    parser.add_argument("--page", type=Path, help="file to write the page to")
    options = parser.parse_args()
    names = options.cells.split(",") if options.cells else [cell.name for cell in CELLS]
    if unknown := set(names) - {cell.name for cell in CELLS}:
        parser.error(f"unknown cells: {', '.join(sorted(unknown))}")
    prepared = harness.prepare(options.harness)
    logs = harness.FOLDER / "logs"
    logs.mkdir(exist_ok=True)
    results = {}
    for cell in CELLS:
        if cell.name in names:
            result = run.run_cell(cell, prepared, logs, full=options.full)
            results[cell.name] = result
            print(page.line(cell, result), flush=True)
    print("\n" + page.tables(results))
    if options.page:
        options.page.write_text(page.page(results, full=options.full))
    return 0 if all(result.passed for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
