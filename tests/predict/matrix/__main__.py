"""Print the matrix: `python -m tests.predict.matrix [-v]`."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd

from tests.predict.matrix.cells import cells_of
from tests.predict.matrix.formats import FORMATS, query_format
from tests.predict.matrix.learners import LEARNERS
from tests.predict.matrix.oddities import ODDITIES
from tests.support.server import Databases, any_server, as_url


def main() -> int:
    """Run every cell. The exit code is 1 if one differs."""
    counts: Counter[str] = Counter()
    with any_server() as (url, _), tempfile.TemporaryDirectory() as folder:
        databases = Databases(url)
        with databases.empty() as database:
            for format_ in (*FORMATS, query_format(as_url(database))):
                for oddity in ODDITIES:
                    source = format_.write(oddity, Path(folder))
                    for cell in cells_of(source, format_, oddity, LEARNERS, Path(folder)):
                        counts[cell.result] += 1
                        if cell.result == "different" or (
                            cell.result == "refused" and "-v" in sys.argv
                        ):
                            print(f"{cell.result}: {cell.name}: {cell.why}")
        databases.close()
    print(
        f"pandas {pd.__version__}: {counts.total():,} cells, {counts['same']:,} the same, "
        f"{counts['refused']:,} refused, {counts['different']:,} different"
    )
    return 1 if counts["different"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
