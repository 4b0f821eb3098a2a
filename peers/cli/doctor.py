"""`peers doctor`: what is wrong with the database, the way to it, and the peers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.cli import output
from peers.cli.argument_types import duration
from peers.cli.database import connection_to
from peers.cli.parser import add_command, version
from peers.cli.place import located
from peers.database import schema
from peers.doctor.connecting import BAD_CONFIGURATION, EMBEDDED
from peers.doctor.examination import Report, examine
from peers.doctor.findings import ERROR, LEVELS, NOT_MADE, Finding
from peers.errors import ConfigError, DatabaseUnreachable

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands

_FOUND: Final = 1
_UNREACHABLE: Final = 3


def register(commands: Commands) -> None:
    """Declare `doctor`."""
    parser = add_command(
        commands,
        "doctor",
        _doctor,
        "find what is wrong with the database, the way to it, and the peers (exit code 1 if "
        "anything needs attention, 3 if the database cannot be reached)",
        reads=True,
        example=("peers doctor", "peers doctor old_snapshot lock_wait --older-than 30s"),
    )
    parser.add_argument(
        "checks", nargs="*", metavar="CHECK", help="make these checks only (default: all)"
    )
    parser.add_argument(
        "--older-than",
        type=duration,
        metavar="DURATION",
        help="how long something may last before it is a finding (default: 5m)",
    )
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="also compare the tables that must agree, like `peers check`; this reads every task",
    )


def _doctor(args: argparse.Namespace) -> int:
    report = Report()
    try:
        with located(args) as settings:
            if settings.embedded:
                with connection_to(settings, args) as connection:
                    if schema.installed_version(connection) is None:
                        schema.migrate(connection)
            report = examine(
                settings, only=args.checks, older_than=args.older_than, thorough=args.thorough
            )
    except (ConfigError, DatabaseUnreachable) as error:
        name = BAD_CONFIGURATION if isinstance(error, ConfigError) else EMBEDDED
        report.findings = [
            Finding(ERROR, name, "the settings", error.message, error.hint or "see `peers config`")
        ]
        _print(args, report)
        return error.exit_code
    if report.unknown:
        args.parser.error(
            f"no check is called {', '.join(report.unknown)}; `TABLE peers.doctor_check` and "
            "docs/doctor.md list them"
        )
    _print(args, report)
    if any(found.finding == BAD_CONFIGURATION for found in report.findings):
        return ConfigError.exit_code
    if not report.reached:
        return _UNREACHABLE
    return _FOUND if report.has_problem else 0


def _print(args: argparse.Namespace, report: Report) -> None:
    if args.json:
        output.document(
            {
                "peers": version(),
                "database": report.database,
                "server_version": report.server_version,
                "role": report.role,
                "role_may": report.duties,
                "reached": report.reached,
                "checks": report.checks,
                "milliseconds": report.milliseconds,
                "findings": [found._asdict() for found in report.findings],
            }
        )
        return
    if report.database is not None:
        output.say(
            f"{version()}; database {report.database} (PostgreSQL {report.server_version}); "
            f"role {report.role} may: {report.duties}"
        )
    made = [found for found in report.findings if found.finding != NOT_MADE]
    for found in made + report.not_made:
        _print_finding(found)
    print(_summary(report))


def _print_finding(found: Finding) -> None:
    output.paragraph(f"{found.level.upper()} {found.finding}: {output.one_line(found.subject)}")
    output.paragraph(f"  {output.one_line(found.sentence)}")
    if found.remedy:
        output.paragraph(f"  remedy: {output.one_line(found.remedy)}")
    print()


def _summary(report: Report) -> str:
    """Return the last line: how many findings, checks, and checks that were not made."""
    counts = dict.fromkeys(LEVELS, 0)
    for found in report.findings:
        counts[found.level] += found.finding != NOT_MADE
    what = ", ".join(output.count(number, level) for level, number in counts.items() if number)
    missing = len(report.not_made)
    head = what or ("all is well" if not missing else "nothing found")
    checks = f"{output.count(len(report.checks), 'check')} in {report.milliseconds} ms"
    tail = f"; {output.count(missing, 'check was', 'checks were')} not made" if missing else ""
    return f"{head}: {checks}{tail}"
