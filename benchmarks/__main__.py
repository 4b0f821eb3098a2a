"""Measure Peers beside other task queues, and write docs/performance.md.

    python -m benchmarks [--quick | --long] [--only drain,submit] [--systems Peers,graphile-worker]
    python -m benchmarks --report build/benchmarks/results.json [--pages docs]

All figures go to build/benchmarks/results.json, and those of the published page to
docs/performance/results.json beside its plots. The server, the other systems and everything else
that a run needs is made by it, in build/ and in a temporary folder.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import machine, server, sizes
from benchmarks.bench import Bench
from benchmarks.figures import Figures
from benchmarks.report import page, tables
from benchmarks.systems import registry
from benchmarks.systems.peers import NAME
from benchmarks.systems.python_systems import PROCRASTINATE
from benchmarks.systems.system import PROJECT

WORKLOADS: Final = (
    "drain", "submit", "pickup", "graphs", "snapshot", "long_life", "backlog", "many_peers",
    "idle", "overhead", "takeover",
)  # fmt: skip
_BUILD: Final = PROJECT / "build" / "benchmarks"


def main() -> None:
    """Measure and report, or report again what was measured."""
    # so that every process that a run has started ends with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    options = _parser().parse_args()
    earlier = options.report or options.merge
    result: dict[str, Any] = json.loads(earlier.read_text()) if earlier else {}
    if not options.report:
        slow = (PROCRASTINATE,) if options.mode == "quick" else ()
        systems = options.systems or [name for name in registry.SYSTEMS if name not in slow]
        measured = measure(_sizes(options), options.only, systems)
        result = merged(result, measured) if options.merge else measured
    whole = earlier or (options.mode not in _DRAFTS and options.only == list(WORKLOADS))
    _publish(result, options.pages or (PROJECT / "docs" if whole else _BUILD))


def measure(chosen: sizes.Sizes, workloads: list[str], systems: list[str]) -> dict[str, Any]:
    """Run the workloads and return everything that was measured."""
    found = registry.available([NAME, *(name for name in systems if name != NAME)])
    with tempfile.TemporaryDirectory() as folder, server.running() as postgres:
        result: dict[str, Any] = {
            "mode": chosen.mode,
            "began": _now(postgres),
            "machine": machine.describe(postgres),
            "sizes": asdict(chosen),
            "systems": [
                {"name": system.name, "version": system.version, "settings": system.settings}
                for system in found.systems
            ],
            "missing": found.missing,
        }
        print(json.dumps(result, indent=2, ensure_ascii=False), file=sys.stderr)
        bench = Bench(postgres, found.systems, chosen, Path(folder))
        for name in workloads:
            bench.timed(name, importlib.import_module(f"benchmarks.workloads.{name}").measure)
        return {**result, "ended": _now(postgres), "seconds": bench.seconds, "rows": bench.rows}


def merged(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Replace the rows of the workloads that were measured again."""
    again = {row["workload"] for row in later["rows"]}
    kept = [row for row in earlier["rows"] if row["workload"] not in again]
    return {
        **earlier,
        "rows": kept + later["rows"],
        "seconds": {**earlier["seconds"], **later["seconds"]},
        "again": {**earlier.get("again", {}), **dict.fromkeys(sorted(again), later["began"])},
    }


def _publish(result: dict[str, Any], pages: Path) -> None:
    """Write the figures and the page, and print the goals."""
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    for folder in (_BUILD, pages / "performance"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(text)
    written = page.write(result, pages)
    print(tables.goals(Figures(result["rows"]), {}))
    print(f"\nthe whole report: {written}")


def _now(postgres: server.Server) -> str:
    with server.connect(postgres.url("postgres")) as connection:
        [(now,)] = connection.execute(
            "select to_char(now() at time zone 'UTC', 'YYYY-MM-DD HH24:MI')"
        ).fetchall()
    return f"{now} UTC"


def _sizes(options: argparse.Namespace) -> sizes.Sizes:
    chosen: sizes.Sizes = _MODES[options.mode]
    changes: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("rounds", "life_tasks", "life_retention", "large_graph_tasks")
        if getattr(options, name) is not None
    }
    return replace(chosen, **changes)


_MODES: Final = {
    "quick": sizes.QUICK, "default": sizes.DEFAULT, "long": sizes.LONG, "smoke": sizes.SMOKE,
}  # fmt: skip
_DRAFTS: Final = ("quick", "smoke")
"""Modes whose page is not for docs/."""


def _names(known: tuple[str, ...]) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return names

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=_SUMMARY)
    mode = parser.add_mutually_exclusive_group()
    for name, words in (("quick", "4 minutes"), ("long", "an hour"), ("smoke", "a minute, tiny")):
        mode.add_argument(f"--{name}", dest="mode", action="store_const", const=name, help=words)
    parser.set_defaults(mode="default")
    systems = tuple(registry.SYSTEMS)
    parser.add_argument(
        "--only",
        type=_names(WORKLOADS),
        default=list(WORKLOADS),
        help=f"workloads, with commas (default: {','.join(WORKLOADS)})",
    )
    parser.add_argument(
        "--systems",
        type=_names(systems),
        help=f"systems, with commas (default: {','.join(systems)})",
    )
    parser.add_argument("--rounds", type=int, help="rounds of drain and submit")
    parser.add_argument("--life-tasks", type=int, help="tasks of the long life")
    parser.add_argument("--life-retention", help="run it again, and keep finished tasks this long")
    parser.add_argument("--large-graph-tasks", type=int, help="add a random graph of this size")
    parser.add_argument(
        "--merge", type=Path, help="put the figures into these results, in place of older ones"
    )
    parser.add_argument("--report", type=Path, help="do not measure: report these results again")
    parser.add_argument(
        "--pages",
        type=Path,
        help="folder of the page (default: docs; build/benchmarks for --quick and for a part)",
    )
    return parser  # fmt: skip


_SUMMARY: Final = "Measure Peers beside other task queues, and write docs/performance.md."

if __name__ == "__main__":
    main()
