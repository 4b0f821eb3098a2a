"""Bisecting finds each bad item in few tries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, log2

from hypothesis import given, settings
from hypothesis import strategies as st

from peers.bisect import halves

Halving = Callable[[list[int]], list[list[int]]]


def wrong(halve: Halving, size: int, bad: set[int]) -> str | None:
    """What a search by these halves does wrong; None when it finds the bad items, and only them."""
    waiting, found, tries = [list(range(size))], set[int](), 0
    good: list[int] = []
    while waiting:
        part = waiting.pop()
        tries += 1
        if not bad & set(part):
            good += part
        elif len(part) == 1:
            found.add(part[0])
        else:
            waiting += halve(part)
    if found != bad or sorted(good) != sorted(set(range(size)) - bad):
        return f"found {found} instead of {bad}"
    bound = 1 + 2 * len(bad) * ceil(log2(size)) if size > 1 else 1
    return None if tries <= bound else f"{tries} tries, and {bound} are enough"


@settings(database=None, max_examples=100, deadline=None)
@given(size=st.integers(1, 300), data=st.data())
def test_each_bad_item_is_found_in_few_tries(size: int, data: st.DataObject) -> None:
    """And no item is lost or tried more often than needed."""
    bad = data.draw(st.sets(st.integers(0, size - 1), max_size=5))
    assert wrong(halves, size, bad) is None


def test_halves_that_lose_an_item_are_caught() -> None:
    """A broken variant: the middle item of an odd number is in neither half."""

    def forgetful(items: list[int]) -> list[list[int]]:
        middle = len(items) // 2
        return [items[:middle], items[len(items) - middle :]]

    assert wrong(forgetful, 5, {0}) is not None


def test_the_halves_of_a_range_are_ranges_and_none_is_empty() -> None:
    """A caller of a million rows copies none of them."""
    rows: Sequence[int] = range(5, 10)
    assert halves(rows) == [range(5, 8), range(8, 10)]
    assert halves([1]) == [[1]]
    assert halves([]) == []
