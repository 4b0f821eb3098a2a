"""The options for reading a text file."""

from __future__ import annotations

import codecs
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Final

from peers.predict.errors import InputError

NA_VALUES: Final = frozenset(
    {
        "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
        "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
    }
)  # fmt: skip
"""The texts that mean a missing value for `pandas.read_csv`."""
_NAMED: Final = {"\\t": "\t", "tab": "\t", "comma": ",", "semicolon": ";", "space": " "}
_HIGHEST_BYTE: Final = 0x7F


@dataclass(frozen=True, slots=True)
class TextOptions:
    r"""The options for a text file, named like those of `pandas.read_csv`.

    `separator` (sep; None: a comma, a tab for .tsv), `quote` (quotechar), `decimal`, `thousands`,
    `encoding` (None: by the byte order mark, or UTF-8), `na_values`: texts that mean a missing
    value, in addition to pandas' own ones unless `default_na` (keep_default_na) is false.
    """

    separator: str | None = None
    quote: str = '"'
    decimal: str = "."
    thousands: str | None = None
    encoding: str | None = None
    na_values: tuple[str, ...] = ()
    default_na: bool = True

    def __post_init__(self) -> None:
        if self.separator is not None:
            named = _NAMED.get(self.separator, self.separator)
            object.__setattr__(self, "separator", named)
        for option, value in self._marks().items():
            if len(value) != 1 or ord(value) > _HIGHEST_BYTE or value in "\r\n\0":
                raise InputError(f"{option} must be one ASCII character, not {value!r}")
        marks = list(self._marks().values())
        if len(set(marks)) < len(marks):
            raise InputError(
                "two of the CSV's separator, quote, decimal and thousands mark are the same",
                "Use a different character for each.",
            )
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError as error:
                raise InputError(
                    f"the encoding {self.encoding!r} is unknown",
                    "Use one of Python's encodings, such as utf-8, latin-1, cp1252 or utf-16.",
                ) from error

    def _marks(self) -> dict[str, str]:
        named = {
            "--csv-separator": self.separator, "--csv-quote": self.quote,
            "--csv-decimal": self.decimal, "--csv-thousands": self.thousands,
        }  # fmt: skip
        return {option: value for option, value in named.items() if value is not None}

    @property
    def gaps(self) -> frozenset[str]:
        """All texts that mean a missing value."""
        return frozenset(self.na_values) | (NA_VALUES if self.default_na else frozenset())

    def mixed_into(self, digest: str) -> str:
        """Return the digest of the file with these options; the file's own for the defaults."""
        if self == TextOptions():
            return digest
        text = digest + json.dumps(asdict(self), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=len(digest) // 2).hexdigest()
