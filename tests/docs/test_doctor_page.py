"""docs/doctor.md explains each finding, and no other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from peers.doctor import connecting, in_database
from peers.doctor.examination import CLIENT_CHECKS, CONNECTION_LOST
from peers.doctor.findings import NOT_MADE
from tests.support.cli import PROJECT
from tests.support.world import column

if TYPE_CHECKING:
    from tests.support.server import Connection


def test_the_page_explains_every_finding(db: Connection) -> None:
    """Those of peers.doctor, of the command, and of a connection that fails."""
    page = (PROJECT / "docs" / "doctor.md").read_text()
    explained = re.findall(r"^\| `(\w+)` \| .{20,} \| .{4,} \|$", page, re.MULTILINE)
    found = {NOT_MADE, CONNECTION_LOST}
    found |= {connecting.BAD_CONFIGURATION, connecting.UNREACHABLE, connecting.EMBEDDED}
    found |= {cause.name for cause in connecting.CAUSES}
    for check in (*CLIENT_CHECKS, in_database.THOROUGH):
        found |= set(check.finds)
    found |= set(column(db, "select name from peers.doctor_check"))
    assert sorted(explained) == sorted(found)
