"""docs/metrics.md and the /metrics page describe the same metrics.

That the page and the view have those of the catalog is tested in tests/e2e/test_metrics.py and
tests/sql/test_metrics.py.
"""

from __future__ import annotations

import re

from peers.metrics import catalog
from tests.support.cli import PROJECT

PAGE = (PROJECT / "docs" / "metrics.md").read_text()
_ROW = re.compile(r"^\| `(peers_\w+)` \| (\w+) \|\s*([\w, ]*?)\s*\|", re.MULTILINE)


def test_the_page_names_every_metric() -> None:
    """With its type and its labels, in the order of the catalog; and no other one."""
    found = [
        (name, kind, tuple(filter(None, labels.split(", "))))
        for name, kind, labels in _ROW.findall(PAGE)
    ]
    assert found == [(each.name, each.type, each.labels) for each in catalog.ALL]


def test_every_metric_that_the_page_mentions_exists() -> None:
    """Also in its examples."""
    known = {each.name for each in catalog.ALL}
    suffixes = ("", "_bucket", "_sum", "_count")
    for name in re.findall(r"\bpeers_\w+", PAGE):
        if name != "peers_reader":
            assert name in {known_ + suffix for known_ in known for suffix in suffixes}
