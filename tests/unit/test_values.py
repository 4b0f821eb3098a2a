"""Args and results of every type that people write: through JSON and back, and refused by field."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, Optional, TypedDict
from uuid import UUID

import annotated_types
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.values import ConversionError, codec_of
from peers.values.codec import same


class Color(enum.Enum):
    """Whose values are text."""

    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    """Whose values are numbers."""

    LOW = 1
    HIGH = 2


class Corner(enum.Enum):
    """Whose values JSON does not have."""

    LEFT = (0, 1)
    RIGHT = (1, 0)


class Mode(enum.Flag):
    """Whose members can be combined."""

    READ = enum.auto()
    WRITE = enum.auto()


class Point(NamedTuple):
    """With a default."""

    x: int
    day: dt.date = dt.date(2026, 1, 1)


class Line(TypedDict):
    """With a key that may be missing."""

    amount: Decimal
    note: NotRequired[str]


@dataclasses.dataclass
class Customer:
    """One with a birthday."""

    name: str
    birthday: dt.date
    score: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """One that nests everything."""

    id: UUID
    customer: Customer
    lines: list[Line] = dataclasses.field(default_factory=list)
    colors: frozenset[Color] = frozenset()
    at: Optional[dt.datetime] = None  # noqa: UP045 - as people write it


@dataclasses.dataclass
class Tree:
    """One that contains itself."""

    day: dt.date
    children: list[Tree] = dataclasses.field(default_factory=list)


class Cat(pydantic.BaseModel):
    """A model with a tag."""

    kind: Literal["cat"] = "cat"
    born: dt.date


class Dog(pydantic.BaseModel):
    """Another one."""

    kind: Literal["dog"] = "dog"
    weight: Decimal = pydantic.Field(gt=0, alias="theWeight")


UserId = NewType("UserId", int)
Short = Annotated[str, annotated_types.Len(1, 5)]

DATES = st.dates()
OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda m: dt.timezone(dt.timedelta(minutes=m)))
DATETIMES = st.datetimes() | st.datetimes(timezones=OFFSETS)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10
)  # jsonb holds no others
INTS = st.integers() | st.integers(10**30, 10**40)
POINTS = st.builds(Point, INTS, DATES)
LINES = st.fixed_dictionaries({"amount": DECIMALS}, optional={"note": TEXTS})
CUSTOMERS = st.builds(Customer, TEXTS, DATES, FLOATS)
ORDERS = st.builds(
    Order, id=st.uuids(), customer=CUSTOMERS, lines=st.lists(LINES, max_size=2),
    colors=st.frozensets(st.sampled_from(Color)), at=st.none() | DATETIMES,
)  # fmt: skip
TREES = st.recursive(
    st.builds(Tree, DATES), lambda inner: st.builds(Tree, DATES, st.lists(inner, max_size=2)),
    max_leaves=5,
)  # fmt: skip
CATS = st.builds(Cat, born=DATES)
DOGS = st.builds(lambda weight: Dog(theWeight=weight), st.decimals(1, 1000, places=3))
JSON = st.recursive(
    st.none() | st.booleans() | INTS | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=5,
)
PATHS = st.lists(st.text("abc", min_size=1), max_size=3)

EXACT: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "None": (None, st.none()),
    "bool": (bool, st.booleans()),
    "int": (int, INTS),
    "float": (float, FLOATS),
    "str": (str, TEXTS),
    "bytes": (bytes, st.binary()),
    "date": (dt.date, DATES),
    "datetime": (dt.datetime, DATETIMES),
    "time": (dt.time, st.times() | st.times(timezones=OFFSETS)),
    "timedelta": (dt.timedelta, st.timedeltas()),
    "UUID": (UUID, st.uuids()),
    "Decimal": (Decimal, DECIMALS),
    "Path": (Path, PATHS.map(lambda parts: Path(*parts))),
    "PurePosixPath": (PurePosixPath, PATHS.map(lambda parts: PurePosixPath(*parts))),
    "Enum": (Color, st.sampled_from(Color)),
    "IntEnum": (Level, st.sampled_from(Level)),
    "an Enum of tuples": (Corner, st.sampled_from(Corner)),
    "Flag": (Mode, st.sampled_from([Mode.READ, Mode.READ | Mode.WRITE])),
    "Literal": (Literal["a", 1, True, None], st.sampled_from(["a", 1, True, None])),
    "Literal of an Enum": (Literal[Color.RED], st.just(Color.RED)),
    "NewType": (UserId, INTS),
    "Annotated for others": (Annotated[dt.date, "a note"], DATES),
    "Annotated for pydantic": (Short, st.text("abc", min_size=1, max_size=5)),
    "complex": (complex, st.complex_numbers(allow_nan=False, allow_infinity=False)),
    "IPv4Address": (IPv4Address, st.ip_addresses(v=4)),
    "Any": (Any, JSON),
    "list": (list, st.lists(JSON, max_size=3)),
    "list[int]": (list[int], st.lists(INTS)),
    "list[date]": (list[dt.date], st.lists(DATES)),
    "Sequence[UUID]": (Sequence[UUID], st.lists(st.uuids())),
    "set[UUID]": (set[UUID], st.sets(st.uuids())),
    "frozenset[date]": (frozenset[dt.date], st.frozensets(DATES)),
    "tuple": (tuple, st.lists(JSON, max_size=3).map(tuple)),
    "tuple[int, ...]": (tuple[int, ...], st.lists(INTS).map(tuple)),
    "tuple[int, date]": (tuple[int, dt.date], st.tuples(INTS, DATES)),
    "tuple[()]": (tuple[()], st.just(())),
    "dict[str, float]": (dict[str, float], st.dictionaries(TEXTS, FLOATS)),
    "dict[int, date]": (dict[int, dt.date], st.dictionaries(INTS, DATES)),
    "dict[date, bytes]": (dict[dt.date, bytes], st.dictionaries(DATES, st.binary(max_size=9))),
    "dict[Color, int]": (dict[Color, int], st.dictionaries(st.sampled_from(Color), INTS)),
    "dict[tuple[int, date], int]": (
        dict[tuple[int, dt.date], int],
        st.dictionaries(st.tuples(INTS, DATES), INTS),
    ),
    "dict[frozenset[int], int]": (
        dict[frozenset[int], int],
        st.dictionaries(st.frozensets(INTS), INTS),
    ),
    "dict[Level, int]": (dict[Level, int], st.dictionaries(st.sampled_from(Level), INTS)),
    "Mapping[UUID, Any]": (Mapping[UUID, Any], st.dictionaries(st.uuids(), JSON, max_size=3)),
    "NamedTuple": (Point, POINTS),
    "TypedDict": (Line, LINES),
    "dataclass": (Customer, CUSTOMERS),
    "nested dataclass": (Order, ORDERS),
    "recursive dataclass": (Tree, TREES),
    "model": (Cat, CATS),
    "model with an alias": (Dog, DOGS),
    "list of models": (list[Dog], st.lists(DOGS, max_size=3)),
    "dict of sets": (dict[str, set[dt.date]], st.dictionaries(TEXTS, st.sets(DATES), max_size=3)),
    "Optional[Customer]": (
        Optional[Customer],  # noqa: UP045
        st.none() | CUSTOMERS,
    ),
    "int | float | str": (int | float | str, INTS | FLOATS | TEXTS),
    "float | int": (float | int, FLOATS | INTS),
    "bool | int": (bool | int, st.booleans() | INTS),
    "datetime | date": (dt.datetime | dt.date, DATETIMES | DATES),
    "date | int | None": (dt.date | int | None, DATES | INTS | st.none()),
    "Decimal | int": (Decimal | int, DECIMALS | INTS),
    "UUID | date": (UUID | dt.date, st.uuids() | DATES),
    "list[float] | list[int]": (list[float] | list[int], st.lists(FLOATS) | st.lists(INTS)),
    "tagged models": (Cat | Dog, CATS | DOGS),
    "bytes | None": (bytes | None, st.binary() | st.none()),
    "bytes | int": (bytes | int, st.binary() | INTS),
    "Customer | date": (Customer | dt.date, CUSTOMERS | DATES),
    "Customer | Tree": (Customer | Tree, CUSTOMERS | TREES),
}


@pytest.mark.parametrize("what", EXACT)
@settings(database=None, max_examples=40, deadline=None)
@given(data=st.data())
def test_a_value_comes_back_from_json_as_it_was(what: str, data: st.DataObject) -> None:
    """Equal and of the same types all the way down, by both decoders that the worker has."""
    annotation, values = EXACT[what]
    codec = codec_of(annotation)
    value = data.draw(values)
    text = json.dumps(codec.dump(value), allow_nan=False)
    for loaded in (codec.load(json.loads(text)), codec.load(msgspec.json.decode(text))):
        assert same(loaded, value), (value, text, loaded)
    assert codec.load(codec.dump(codec.load(json.loads(text)))) == value


def test_datetimes_keep_their_offset_and_naive_ones_stay_naive() -> None:
    """Equality alone would not show it."""
    zone = dt.timezone(dt.timedelta(hours=5, minutes=45))
    codec = codec_of(dt.datetime)
    for at in (dt.datetime(2026, 1, 2, 3, 4, 5, 6, zone), dt.datetime(2026, 1, 2)):  # noqa: DTZ001
        assert codec.load(codec.dump(at)).utcoffset() == at.utcoffset()


class Socket:
    """A class that JSON cannot hold."""


class BigCustomer(Customer):
    """A subclass, which would come back as its base."""


@dataclasses.dataclass
class Strict:
    """A dataclass that checks itself."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError("n must not be negative")


class Count(pydantic.BaseModel):
    """A model with a number."""

    n: int


class Open(pydantic.BaseModel):
    """A model that takes more fields than it names."""

    model_config = pydantic.ConfigDict(extra="allow")


class Ambiguous(pydantic.BaseModel):
    """A model with a field that JSON cannot tell apart."""

    when: str | dt.date


DAY = dt.date(2026, 1, 1)
NAN = float("nan")

REFUSED: list[tuple[Any, Any, str]] = [
    (int, "1", r"args: expected int, got str; pass a whole number"),
    (int, True, "args: expected int, got bool"),
    (int, 1.0, "args: expected int, got float"),
    (float, "1.5", "args: expected float, got str"),
    (float, True, "args: expected float, got bool"),
    (float, NAN, "args: JSON has no nan; pass None or a finite number"),
    (list[float], [1.0, float("inf")], r"args\[1\]: JSON has no inf"),
    (Any, {"a": [1, NAN]}, r"args\.a\[1\]: JSON has no nan"),
    (Any, {"a": [object()]}, r"args\.a\[0\]: cannot be written as JSON: .*object"),
    (Any, {"a": b"x"}, r"args\.a: got bytes .* annotate it as bytes"),
    (float, 10**400, "args: .* too large"),
    (bool, 1, "args: expected bool, got int"),
    (str, 1, "args: expected str, got int"),
    (str, DAY, "args: expected str, got date"),
    (str, None, "args: expected str, got None"),
    (dt.date, "yesterday", 'args: expected date, got str of another form.*"2026-11-23"'),
    (dt.date, dt.datetime(2026, 1, 1), "args: expected date, got datetime"),  # noqa: DTZ001
    (dt.datetime, 5, "args: expected datetime, got int.*text such as"),
    (dt.timedelta, "soon", "args: expected timedelta.*PT1H30M"),
    (UUID, "x", "args: expected UUID"),
    (Decimal, Decimal("NaN"), "args: expected a finite Decimal, got NaN"),
    (Decimal, "Infinity", "args: expected a finite Decimal"),
    (bytes, "no base64!", "args: expected bytes, got str of another form.*base64"),
    (Color, "blue", "args: expected Color, got str; pass one of RED, GREEN"),
    (Level, True, "args: expected Level, got bool"),
    (Literal["a", 1], True, r"args: expected Literal\['a', 1\], got bool; pass one of 'a', 1"),
    (list[int], [1, "2"], r"args\[1\]: expected int, got str"),
    (list[int], "12", r"args: expected list\[int\], got str"),
    (list[dt.date], {dt.date(2026, 1, 1)}, r"args: expected list\[date\], got set"),
    (set[int], [[1]], r"args\[0\]: expected int, got list"),
    (tuple[int, str], (1,), r"args: expected tuple\[int, str\], got 1 items"),
    (dict[str, int], {"a": "b"}, r"args\.a: expected int, got str"),
    (dict[int, int], {"x": 1}, r"args\.x: its key: expected int, got str"),
    (dict[dt.date, int], {"x": 1}, r"args\.x: its key: expected date"),
    (dict[int | str, int], {1: 1}, r"args\.1: its key: int cannot be told apart"),
    (Customer, {"name": "x"}, r"args\.birthday: missing; it has no default \(expected date\)"),
    (Customer, {"name": 1, "birthday": 2}, r"args\.name: .*args\.birthday: expected date, got int"),
    (Customer, {"name": "x", "birthday": "2026-01-01", "z": 1}, r"args\.z: unknown; the names are"),
    (Customer, BigCustomer("x", DAY), "args: .*BigCustomer.* read back as Customer"),
    (Customer, 5, "args: expected Customer, got int"),
    (Customer, Customer("Ada", 5),  # type: ignore[arg-type]
     r"args\.birthday: expected date, got int"),
    (Strict, {"n": -1}, "args: Strict refused its fields: .*not be negative"),
    (list[Tree], [Tree(DAY, [Tree(5)])], r"args\[0\]\.children\[0\]\.day: expected"),  # type: ignore[arg-type]
    (Line, {"amount": "x"}, r"args\.amount: expected Decimal"),
    (Line, {"amount": 1, "note": 2}, r"args\.note: expected str, got int"),
    (Point, (1, 2, 3), "args: expected Point of 2 items, got 3"),
    (Point, ("1",), r"args\.x: expected int, got str"),
    (Cat, {"born": 5}, r"args\.born: .*date.*, got int"),
    (Cat, {"born": "2026-01-01", "kind": "dog"}, r"args\.kind: .*cat"),
    (Dog, {"theWeight": "x"}, r"args\.theWeight: "),
    (Dog, Dog.model_construct(weight=-1), r"args\.(theWeight|weight): "),
    (Count, {"n": "1"}, r"args\.n: .*integer, got str"),
    (list[Count], [{"n": True}], r"args\[0\]\.n: .*integer, got bool"),
    (Ambiguous, Ambiguous(when=dt.date(2026, 1, 1)), r"args\.when: date would be read back"),
    (Open, Open.model_validate({"when": DAY}), r"args\.when: date would be read back"),
    (str | dt.date, DAY, "args: date cannot be told apart .*annotate one type"),
    (set[int] | list[int], {1}, "args: set cannot be told apart"),
    (Color | str, Color.RED, "args: Color cannot be told apart"),
    (Customer | None, {"name": "x"}, r"args\.birthday: missing"),
    (dt.date | int, "x", r"args: expected (int \| date|date \| int), got str"),
    (Short, "too long a text", "args: .*at most 5"),
    (Socket, 1, "args: expected Socket, got int; Socket has no JSON form"),
    (Socket | None, Socket(), "args: .*Socket has no JSON form"),
    (list[Socket], [Socket()], r"args\[0\]: .*no JSON form"),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value", "message"), REFUSED)
def test_what_does_not_fit_is_refused_by_its_field(
    annotation: Any, value: Any, message: str
) -> None:
    """With the type that was expected, the one that came, and mostly the remedy."""
    with pytest.raises(ConversionError) as caught:
        codec_of(annotation).dump(value)
    described = caught.value.describe("args")
    assert re.search(f"^{message}", described, re.DOTALL), described


ACCEPTED: list[tuple[Any, Any, Any]] = [
    (float, 1, 1.0),
    (dt.date, "2026-11-23", dt.date(2026, 11, 23)),
    (dt.datetime, "2026-11-23T10:00:00Z", dt.datetime(2026, 11, 23, 10, tzinfo=dt.UTC)),
    (dt.timedelta, 90, dt.timedelta(seconds=90)),
    (Decimal, 5, Decimal(5)),
    (Decimal, 0.1, Decimal("0.1")),
    (set[int], [1, 1], {1}),
    (tuple[int, str], [1, "a"], (1, "a")),
    (Point, {"x": 1}, Point(1)),
    (Point, [1], Point(1)),
    (Customer, {"name": "x", "birthday": "2026-11-23"}, Customer("x", dt.date(2026, 11, 23))),
    (Dog, {"weight": 5}, Dog(theWeight=Decimal(5))),
    (Dog, {"theWeight": "5"}, Dog(theWeight=Decimal(5))),
    (dt.date | dt.datetime, "2026-11-23", dt.date(2026, 11, 23)),
]


@pytest.mark.parametrize(("annotation", "data", "value"), ACCEPTED)
def test_what_sql_inserts_is_the_same_value(annotation: Any, data: Any, value: Any) -> None:
    """JSON as people write it by hand; it may be submitted from Python too."""
    codec = codec_of(annotation)
    assert same(codec.load(data), value)
    assert same(codec.load(codec.dump(data)), value)


def test_an_error_deep_within_does_not_take_exponential_time() -> None:
    """Each level converts its fields once, also when one of them is wrong."""
    tree: Any = Tree("x")  # type: ignore[arg-type]
    for _ in range(40):
        tree = Tree(dt.date(2026, 1, 1), [tree])
    with pytest.raises(ConversionError, match="expected date"):
        codec_of(Tree).dump(tree)
