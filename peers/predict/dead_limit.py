"""Limits for dead rows: a number of rows or a share of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

_NUMBER: Final = re.compile(r"\d+")
_SHARE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_ALL: Final = 100


@dataclass(frozen=True, slots=True)
class DeadLimit:
    """The most rows that may be dead: a number such as "5", or a share such as "0.1%"."""

    text: str

    def __post_init__(self) -> None:
        share = _SHARE.fullmatch(self.text)
        if not _NUMBER.fullmatch(self.text) and (share is None or Fraction(share[1]) > _ALL):
            raise ValueError(
                f'must be a number of rows such as 5, or a share such as 0.1%, not "{self.text}"'
            )

    @property
    def is_share(self) -> bool:
        """Whether the limit is a share of the rows."""
        return self.text.endswith("%")

    def rows(self, of: int) -> int:
        """Return how many of these rows may be dead."""
        if not self.is_share:
            return int(self.text)
        return int(Fraction(self.text.removesuffix("%").strip()) * of / _ALL)

    def __str__(self) -> str:
        return self.text


DEFAULT_STOP_AFTER_DEAD: Final = DeadLimit("50%")
