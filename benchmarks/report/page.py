"""Write the measured parts of a page, and leave what people wrote.

A measured part lies between `<!-- measured: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import Figures
from benchmarks.report import plots, tables
from benchmarks.report.markdown import table
from benchmarks.systems.system import PROJECT

NOTES: Final = PROJECT / "benchmarks" / "notes.toml"
TEMPLATE: Final = PROJECT / "docs" / "performance.md"
_PART: Final = re.compile(r"(<!-- measured: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write(result: Mapping[str, Any], folder: Path) -> Path:
    """Write the page and its plots into this folder. The text comes from docs/performance.md."""
    figures = Figures(result["rows"])
    drawn = plots.draw_all(figures, folder / "performance")
    notes: dict[str, str] = tomllib.loads(NOTES.read_text())
    parts = {"run": run(result), "goals": tables.goals(figures, notes)}
    for name, make in tables.TABLES.items():
        plot = name.replace(" ", "-")
        image = f"![{name}](performance/{plot}.svg)\n\n" if plot in drawn else ""
        measured = figures.rows(name)
        parts[name] = image + make(figures) if measured else "This run did not measure it."
    page = folder / "performance.md"
    page.write_text(fill(TEMPLATE.read_text(), parts))
    return page


def fill(text: str, parts: Mapping[str, str]) -> str:
    """Replace the measured parts of a text. Raise an error if one has no place, or no figures."""
    places = [name for _, name, _ in _PART.findall(text)]
    if sorted(places) != sorted(parts):
        raise ValueError(f"the page has the parts {sorted(places)}, the report {sorted(parts)}")
    return _PART.sub(lambda found: f"{found[1]}{parts[found[2]]}\n{found[3]}", text)


def run(result: Mapping[str, Any]) -> str:
    """Say what was measured, where, and how."""
    machine = result["machine"]
    settings = ", ".join(f"{name} = {value}" for name, value in machine["settings"].items())
    facts = [
        f"{machine['processor']}, {machine['cores']} cores that Postgres shares with the clients, "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}, Python {machine['python']}; "
        f"the disk flushes a block in {machine['flush_us']} µs; load before the run: "
        f"{machine['load_before']:.1f}",
        f"PostgreSQL {machine['postgres']}, {settings}, else its defaults",
        f"mode {result['mode']}, {result['began']} to {result['ended']}; "
        "all raw figures are in [results.json](performance/results.json)",
    ]
    if result.get("again"):
        again = ", ".join(f"{name} on {began}" for name, began in result["again"].items())
        facts.append(f"measured again: {again}")
    systems = [
        [system["name"], system["version"], system["settings"]] for system in result["systems"]
    ]
    missing = [[name, NOT_MEASURED, reason] for name, reason in result["missing"].items()]
    listed = "\n".join(f"- {fact}" for fact in facts)
    return f"{listed}\n\n" + table(["system", "version", "settings"], [*systems, *missing])


NOT_MEASURED: Final = "not measured"
