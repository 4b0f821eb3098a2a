"""Boot three machines, run Peers on them as an operator would, and disturb them.

    python -m tests.fleet [--only NAME …] [--unit LINE …] [--markdown FILE]

One machine has Postgres, two have two peers each, installed from the wheel and run by the units of
deploy/systemd. Tasks are submitted throughout. The last lines are a table of what each scenario
expected and what was measured. The exit code is 0 only if every row met its expectation.

It needs root, systemd-container and debootstrap. The first run makes the machines' file system,
which takes minutes, and keeps it in build/fleet, or in the folder that PEERS_TEST_FLEET_CACHE
names. PEERS_TEST_FLEET_MIRROR names another Debian mirror.

To see that a scenario notices a fault, put one into the unit:

    python -m tests.fleet --only stop_and_start --unit KillMode=control-group
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Final

from tests.fleet import image
from tests.fleet.fleet import Fleet
from tests.fleet.isolation import INSIDE, obstacles, remove_leftovers, run_inside
from tests.fleet.report import Finding, markdown, table
from tests.fleet.scenarios import NAMES, Scenario, chosen

_LONGEST_PAUSE: Final = """
    select coalesce(extract(epoch from max(at - before)), 0)::float8 as pause from (
        select at, lag(at) over (order by at) as before
        from journal.entry where state = 'completed' and at > to_timestamp(%s)
    ) completions
"""


def main() -> int:
    """Prepare, then run the scenarios in namespaces of their own."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m tests.fleet", description=__doc__, formatter_class=form
    )
    parser.add_argument("--only", nargs="+", choices=sorted(NAMES), default=[], metavar="NAME",
                        help=f"run only these scenarios: {', '.join(sorted(NAMES))}")  # fmt: skip
    parser.add_argument("--unit", action="append", default=[], metavar="LINE",
                        help="a line for the [Service] section of peers@.service")  # fmt: skip
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    return _run(args) if INSIDE in os.environ else _prepare(sys.argv[1:])


def _prepare(arguments: list[str]) -> int:
    found = obstacles()
    if found:
        print("fleet: no machine can be booted here:", *found, sep="\n  ", file=sys.stderr)
        return 1
    image.cache().mkdir(parents=True, exist_ok=True)
    remove_leftovers(image.cache())
    folder = image.cache() / f"run-{os.getpid()}"
    try:
        (folder / "wheels").mkdir(parents=True)
        root = image.root(image.wheels(folder / "wheels"))
        return run_inside([*arguments, f"--folder={folder}", f"--image={root}"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(args: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()
    wheels = image.found_wheels(args.folder / "wheels")
    fleet = Fleet(os.environ[INSIDE], args.folder, args.image, wheels, args.unit)
    findings: list[Finding] = []
    try:
        fleet.boot()
        boots = ", ".join(f"{machine.boots[0]:.1f} s" for machine in fleet.machines)
        _say(began, f"three machines have booted ({boots})")
        for scenario in chosen(args.only):
            findings.append(_carry_out(scenario, fleet))
            _show(began, findings[-1])
    except KeyboardInterrupt:
        findings.append(Finding("the rest", "is run", ["interrupted"], met=False))
    except Exception as error:  # noqa: BLE001  # shown with what was found so far
        traceback.print_exc()
        findings.append(Finding("the rest", "is run", [f"ended early: {error}"], met=False))
    finally:
        failed = not findings or not all(finding.met for finding in findings)
        if failed:
            _keep_journals(fleet)
        fleet.end()
    print(f"\n{table(findings)}\n")
    if args.markdown is not None:
        args.markdown.write_text(markdown(findings) + "\n")
    _say(began, "FAILED" if failed else "every row met its expectation")
    return 1 if failed else 0


def _show(began: float, finding: Finding) -> None:
    _say(began, f"{finding.scenario}: {'as expected' if finding.met else 'NOT MET'}")
    if not finding.met:
        print(table([finding]), flush=True)


def _carry_out(scenario: Scenario, fleet: Fleet) -> Finding:
    """Run one scenario, and measure the longest time without a completed task meanwhile."""
    began = time.time()
    finding = scenario.run(fleet)
    if scenario.pause_max is not None:
        finding.pause = float(fleet.value(_LONGEST_PAUSE, began))
        if finding.pause > scenario.pause_max:
            finding.note(
                f"a pause of {finding.pause:.1f} s (at most {scenario.pause_max:g} s)", False
            )
    return finding


def _keep_journals(fleet: Fleet) -> None:
    folder = image.cache() / "journals"
    shutil.rmtree(folder, ignore_errors=True)
    for machine in fleet.machines:
        machine.keep_journal(folder)
    print(f"fleet: the journals of the machines are in {folder}", flush=True)


def _say(began: float, text: str) -> None:
    print(f"fleet: {time.monotonic() - began:5.0f} s  {text}", flush=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
