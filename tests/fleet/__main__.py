"""Boot three machines, run Peers on them as an operator would, and disturb them.

    python -m tests.fleet [--keep] [--markdown FILE]

One machine has Postgres, two have two peers each, installed from the wheel and run by the units of
deploy/systemd. Tasks are submitted throughout. The last lines are a table of what each scenario
expected and what was measured. The exit code is 0 only if every row met its expectation.

It needs root, systemd-container and debootstrap. The first run makes the machines' file system,
which takes minutes, and keeps it in build/fleet, or in the folder that PEERS_TEST_FLEET_CACHE
names. PEERS_TEST_FLEET_MIRROR names another Debian mirror.
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
from tests.fleet.scenarios import SCENARIOS, Scenario

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
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if INSIDE in os.environ:
        return _run(args.folder, args.image, args.markdown)
    return _prepare(sys.argv[1:])


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


def _run(folder: Path, root: Path, output: Path | None) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()
    fleet = Fleet(os.environ[INSIDE], folder, root, image.found_wheels(folder / "wheels"))
    findings: list[Finding] = []
    try:
        fleet.boot()
        _say(began, f"three machines booted in {max(m.boots[0] for m in fleet.machines):.1f} s")
        for scenario in SCENARIOS:
            findings.append(_carry_out(scenario, fleet))
            _say(
                began,
                f"{findings[-1].scenario}: {'as expected' if findings[-1].met else 'NOT MET'}",
            )
            if not findings[-1].met:
                print(table(findings[-1:]), flush=True)
    except Exception:  # noqa: BLE001  # shown with what was found so far
        traceback.print_exc()
        findings.append(Finding("the rest", "runs", ["ended early"], met=False))
    except KeyboardInterrupt:
        findings.append(Finding("the rest", "runs", ["interrupted"], met=False))
    finally:
        failed = not findings or not all(finding.met for finding in findings)
        if failed:
            _keep_journals(fleet)
        fleet.shut_down()
    print()
    print(table(findings))
    if output is not None:
        output.write_text(markdown(findings) + "\n")
    _say(began, "every row met its expectation" if not failed else "FAILED")
    return 1 if failed else 0


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
