"""Cron expressions for property tests: right ones, nearly right ones, and any text at all."""

from __future__ import annotations

from hypothesis import strategies as st

_MONTHS = ["JAN", "feb", "Mar", "APR", "may", "JUN", "JUL", "aug", "SEP", "OCT", "NOV", "DEC"]
_WEEKDAYS = ["SUN", "mon", "Tue", "WED", "thu", "FRI", "SAT"]
_SPACES = st.sampled_from([" ", "  ", "\t", " \t "])


def _items(first: int, last: int, names: list[str]) -> st.SearchStrategy[str]:
    value = st.integers(first, last).map(str) | st.integers(first, last).map("{:02}".format)
    if names:
        value |= st.sampled_from(names)
    step = st.integers(1, last).map(str)
    spans = st.builds("{}-{}".format, value, value)
    return (
        value | spans | st.builds("{}/{}".format, value | spans | st.just("*"), step) | st.just("*")
    )


def _lists(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.just("*") | items | st.lists(items, min_size=1, max_size=4).map(",".join)


_LIMITED = st.builds(
    "{}{}".format,
    st.integers(0, 7).map(str) | st.sampled_from(_WEEKDAYS),
    st.sampled_from(["L", "#1", "#2", "#3", "#4", "#5"]),
)
_FIELDS = (
    _lists(_items(0, 59, [])),
    _lists(_items(0, 23, [])),
    _lists(_items(1, 31, []) | st.just("L")),
    _lists(_items(1, 12, _MONTHS)),
    _lists(_items(0, 7, _WEEKDAYS) | _LIMITED),
)
_NICKNAMES = st.sampled_from(
    ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly", "@DAILY"]
)


@st.composite
def expressions(draw: st.DrawFn) -> str:
    """Five fields of the right shape. A few of them match no date."""
    fields = [draw(field) for field in _FIELDS]
    return draw(_SPACES).join(fields)


@st.composite
def _nearly_right(draw: st.DrawFn) -> str:
    text = draw(expressions())
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 2))
        put = draw(st.text("0123456789*/-,#LW?@ \t\n.+ADEFMNORSTUadefmnorstu\u017fé", max_size=3))
        text = text[:place] + put + text[place + cut :]
    return text


def texts() -> st.SearchStrategy[str]:
    """Whatever may be written in the column cron."""
    anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    return expressions() | _nearly_right() | _NICKNAMES | anything
