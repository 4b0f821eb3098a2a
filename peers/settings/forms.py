"""Describe the form and the bounds of a setting's value, beside its type in `Settings`.

`peers.settings.reference()`, `peers run --help` and the documentation read these descriptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic_core import core_schema

from peers.settings.values import show
from peers.spans import age_of, timedelta_of

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a value, for people. Validators check it.

    `default` describes a default that is computed, or what no value means.
    """

    placeholder: str
    bounds: str = ""
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A duration from `low` to `high`, parsed and checked."""

    low: timedelta
    high: timedelta
    default: str | None = None

    @property
    def placeholder(self) -> str:
        """Return the word for such a value in help texts."""
        return "DURATION"

    @property
    def bounds(self) -> str:
        """Return the bounds as text."""
        return f"{show(self.low)} to {show(self.high)}"

    def __get_pydantic_core_schema__(
        self, _source: Any, _handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._parse)

    def _read(self, value: object) -> timedelta:
        return timedelta_of(value)

    def _parse(self, value: object) -> timedelta:
        parsed = self._read(value)
        if not self.low <= parsed <= self.high:
            raise ValueError(f"must be {self.bounds}")
        return parsed


class Age(Span):
    """A duration with a unit, after which something is deleted (see `age_of`)."""

    def _read(self, value: object) -> timedelta:
        return age_of(value)
