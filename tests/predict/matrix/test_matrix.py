"""The matrix of models, formats and oddities: no cell differs from the model's own word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.predict.matrix.cells import cells_of
from tests.predict.matrix.formats import FORMATS, Format, query_format
from tests.predict.matrix.learners import LEARNERS
from tests.predict.matrix.oddities import ODDITIES, Oddity
from tests.support.server import as_url

_SHARE = 4
"""One in so many models is tried here with each input: all are by `make predict-matrix`."""


def _differing(format_: Format, oddity: Oddity, folder: Path) -> list[str]:
    source = format_.write(oddity, folder)
    first = (ODDITIES.index(oddity) + len(format_.name)) % _SHARE
    cells = cells_of(source, format_, oddity, LEARNERS[first::_SHARE], folder)
    return [f"{cell.name}: {cell.why}" for cell in cells if cell.result == "different"]


@pytest.mark.parametrize("oddity", ODDITIES, ids=lambda one: one.name)
@pytest.mark.parametrize("format_", FORMATS, ids=lambda one: one.name)
def test_a_model_gets_what_pandas_reads(format_: Format, oddity: Oddity, tmp_path: Path) -> None:
    """Bit for bit, whatever the model; or the cell is refused in words."""
    assert _differing(format_, oddity, tmp_path) == []


def test_a_model_gets_what_pandas_reads_by_a_query(database_url: str, tmp_path: Path) -> None:
    """Whatever is odd."""
    found = [
        line
        for oddity in ODDITIES
        for line in _differing(query_format(as_url(database_url)), oddity, tmp_path)
    ]
    assert found == []
