"""The exit code of an error tells a wrong value from a failure."""

from __future__ import annotations

import pytest

from peers import errors

REFUSED = {"BadArgument", "BadGraph", "BadLimit", "BadSchedule", "BadTask"}


@pytest.mark.parametrize(
    "kind",
    [each for each in vars(errors).values() if isinstance(each, type)
     and issubclass(each, errors.PeersError)],
)  # fmt: skip
def test_a_refused_value_is_wrong_usage(kind: type[errors.PeersError]) -> None:
    """As a word that argparse refuses: exit code 2, and no other error has it."""
    assert (kind.exit_code == 2) == (kind.__name__ in REFUSED)
