"""What is told at the end: the report, the dead letters, the figures, and where to look further."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

    from peers.demo.database import Database
    from peers.demo.figures import Figures
    from peers.demo.handlers import Counts, Report
    from peers.demo.kill import Killed
    from peers.demo.submit import Submitted

_TOP_PACKAGES = 8
_WIDEST_MESSAGE = 90
_SHOWN_RECLAIMED = 5
_DEAD_LETTERS = """
select task_id, kind, args ->> 'path', attempts, error_type, error_message
from peers.dead_letter
where queue = %s
order by task_id
"""
_RECLAIMED = """
select coalesce(t.args ->> 'path', t.args ->> 'package', t.kind)
from peers.failure f join peers.task t on t.id = f.task_id
where f.peer_id = %s and f.error_type = 'lost'
order by t.id
"""


class Summary:
    """Writes it to `out`, part by part."""

    def __init__(self, out: TextIO, database: Database, submitted: Submitted, root: Path) -> None:
        self._out = out
        self._database = database
        self._submitted = submitted
        self._root = root

    def report(self) -> None:
        """The result of the last task: the library, and its largest packages."""
        found = self._report()
        if found is None:
            self._say("\nThere is no report: its task did not complete.")
            return
        self._say(f"\n{'package':<32}{'files':>7}{'lines':>10}{'classes':>9}{'functions':>11}")
        by_lines = sorted(found["packages"], key=lambda package: package["lines"], reverse=True)
        for package in by_lines[:_TOP_PACKAGES]:
            self._row(package["package"], package)
        rest = len(by_lines) - _TOP_PACKAGES
        self._row(f"all {len(by_lines)} packages" if rest > 0 else "all", found)

    def dead_letters(self) -> None:
        """Which files did not parse, and why."""
        letters = self._connection.execute(_DEAD_LETTERS, [self._submitted.queue]).fetchall()
        if not letters:
            self._say(f"\nNo dead letters: every file below {self._root} parses.")
            return
        self._say(f"\n{len(letters)} dead letters; what depends on them ran all the same:")
        for task_id, kind, path, attempts, error_type, message in letters:
            what = f"{kind} {self._short(path or '')}".rstrip()
            self._say(f"  {task_id}  {what}, {attempts} attempts")
            self._say(f"      {error_type}: {_shortened(message)}")

    def figures(self, figures: Figures, killed: Killed | None) -> None:
        """What ran, how fast, and what the accident did."""
        rate = figures.tasks / figures.seconds if figures.seconds else 0.0
        self._say(
            f"\n{figures.tasks} tasks: {figures.completed} completed, {figures.dead} dead; "
            f"{figures.seconds:.1f} s on {figures.peers} peers, {rate:.0f} tasks/s"
        )
        if killed is not None:
            self._say(
                f"peer {killed.member.number} was killed holding {killed.leases} leases; "
                f"the others reclaimed them and ran them again: {self._reclaimed(killed)}"
            )
        self._say(
            f"by the database and by the handlers' ledger: {figures.lost} lost, "
            f"{figures.duplicates} duplicates, {figures.early} children early, "
            f"{figures.repeated} repeated after their outcome was lost"
        )

    def where_to_look(self, kept: bool) -> None:
        """The commands with which to look around."""
        embedded = self._database.embedded
        queue, report = self._submitted.queue, self._submitted.report_id
        self._say(f"\nThis run's tasks have the queue '{queue}'. Look around:")
        if embedded is None or kept:
            self._say(f"  {self._database.psql()}")
        else:
            self._say(f"  {self._database.peers('db psql')}")
        self._say(r"      \x on")
        self._say(
            "      table peers.queue_status; table peers.dead_letter; table peers.peer_status;"
        )
        self._say(f"      select peers.explain({report});")
        self._say(f"  {self._database.peers('status')}")
        self._say(f"  {self._database.peers(f'dead list --queue {queue}')}")
        if embedded is not None:
            self._say(
                f"The embedded database runs while somebody uses it, and its data stays in "
                f"{embedded.data}: these commands start it again."
            )

    @property
    def _connection(self) -> psycopg.Connection[Any]:
        return self._database.connection

    def _reclaimed(self, killed: Killed) -> str:
        rows = self._connection.execute(_RECLAIMED, [killed.peer_id]).fetchall()
        names = [self._short(name) for (name,) in rows]
        more = len(names) - _SHOWN_RECLAIMED
        return ", ".join(names[:_SHOWN_RECLAIMED]) + (f" and {more} more" if more > 0 else "")

    def _short(self, path: str) -> str:
        return path.removeprefix(f"{self._root}/")

    def _report(self) -> Report | None:
        query = "select result from peers.task where id = %s"
        row = self._connection.execute(query, [self._submitted.report_id]).fetchone()
        found: Report | None = row[0] if row else None
        return found

    def _row(self, name: str, counts: Counts) -> None:
        self._say(
            f"{name:<32}{counts['files']:>7,}{counts['lines']:>10,}"
            f"{counts['classes']:>9,}{counts['functions']:>11,}"
        )

    def _say(self, line: str) -> None:
        print(line, file=self._out, flush=True)


def _shortened(message: str) -> str:
    first = message.splitlines()[0] if message else ""
    return first if len(first) <= _WIDEST_MESSAGE else first[: _WIDEST_MESSAGE - 1] + "…"
