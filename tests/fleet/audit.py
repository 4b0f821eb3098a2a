"""The last row: what became of every task that was ever submitted."""

from __future__ import annotations

from typing import Final

from tests.e2e.audit import audit
from tests.fleet.fleet import Fleet
from tests.fleet.report import Finding
from tests.fleet.watch import until

_UNENDED: Final = """
    select id, kind, state from peers.task where state not in ('completed', 'dead') limit 10
"""
_WITHIN: Final = 120.0
_UNEXPECTED: Final = """
    select t.id from peers.task t
    where t.kind <> 'hog'
      and (t.state <> 'completed' or t.attempt <> 1 +
           (select count(*) from peers.failure f where f.task_id = t.id and f.error_type = 'lost'))
"""
_DEAD: Final = "select count(*) from peers.task where state = 'dead' and kind <> 'hog'"


def audit_tasks(fleet: Fleet) -> Finding:
    """Let the last task end, and compare the database with the ledger of the handlers."""
    finding = Finding(
        "audit of all tasks",
        "none lost; no lease with two outcomes; no child early; an attempt more for each loss",
    )
    fleet.submitter.stop()
    try:
        until(lambda: not fleet.rows(_UNENDED), "the end of all tasks", _WITHIN)
    except TimeoutError:
        finding.same("not ended", fleet.rows(_UNENDED), [])
    accepted = fleet.submitter.accepted
    known = {row["id"] for row in fleet.rows("select id from peers.task")}
    finding.note(f"{len(accepted)} tasks accepted")
    finding.same("unknown to the database", len(set(accepted) - known), 0)
    found = audit(fleet.connection, fleet.ledger)
    finding.note(str(found), found.clean)
    finding.same("with other attempts than expected", fleet.rows(_UNEXPECTED), [])
    finding.same("dead, but the hog", fleet.value(_DEAD), 0)
    finding.same("peers.check()", fleet.rows("select * from peers.check()"), [])
    finding.note(f"submissions repeated in the outage: {fleet.submitter.refused}")
    return finding
