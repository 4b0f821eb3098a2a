"""All runs that the database knows, the newest first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from peers.predict import kinds
from peers.predict.errors import StorageFailed
from peers.predict.run.record import fetch
from peers.predict.run.summary import summarize
from peers.predict.spec import Manifest, load_manifest, output_of

if TYPE_CHECKING:
    from peers.predict.run.record import Connection

# A run has an assembling task for each turn and stage; it started with the first of them.
_RUNS: Final = """
    with assembling as (
        select t.id, t.metadata ->> 'run' as run, t.metadata ->> 'name' as name,
               t.args ->> 'manifest' as manifest, t.state::text, t.result, t.created_at,
               t.finished_at
        from peers.task t where t.kind = %(kind)s
    ), runs as (
        select distinct on (run) run, name, manifest, state, result,
               min(created_at) over (partition by run) as started_at, finished_at
        from assembling order by run, id desc
    )
    select *, peers.now() - started_at as age, peers.now() - finished_at as ended_ago,
           count(*) over () as total
    from runs order by started_at desc, run limit %(limit)s
"""


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run in a line. Without its manifest, what it has not written yet is unknown: None."""

    name: str | None
    run: str
    state: str
    rows: int | None
    predicted: int | None
    dead: int | None
    started_at: datetime
    age: timedelta
    ended_ago: timedelta | None
    output: str
    manifest: str

    def as_json(self) -> dict[str, Any]:
        """Return the values for programs."""
        left_out = {"age", "ended_ago", "manifest"}
        return {key: value for key, value in asdict(self).items() if key not in left_out}


def list_runs(connection: Connection, limit: int | None) -> tuple[int, list[ListedRun]]:
    """Return how many runs there are, and the newest ones."""
    found = fetch(connection, _RUNS, kind=kinds.ASSEMBLE, limit=limit)
    return (found[0]["total"] if found else 0), [_listed(connection, row) for row in found]


def trusted_manifest(path: str, run: str) -> Manifest | None:
    """Return the manifest if it is that of this run, in the run's own folder; None if not.

    Whoever may submit tasks can write any path into one.
    """
    try:
        manifest = load_manifest(path)
    except StorageFailed:
        return None
    return manifest if manifest.run == run and manifest.path == Path(path) else None


def _listed(connection: Connection, row: dict[str, Any]) -> ListedRun:
    manifest = trusted_manifest(row["manifest"], row["run"])
    summary = None if manifest is None else summarize(connection, manifest)
    written = row["result"] if row["result"] and "output" in row["result"] else {}
    known = written if summary is None else summary.as_json()
    state = ("done" if written else row["state"]) if summary is None else summary.state
    return ListedRun(
        name=row["name"], run=row["run"], state=state, rows=known.get("rows"),
        predicted=known.get("predicted"), dead=known.get("dead"), started_at=row["started_at"],
        age=row["age"], ended_ago=row["ended_ago"], output=output_of(row["manifest"]),
        manifest=row["manifest"],
    )  # fmt: skip
