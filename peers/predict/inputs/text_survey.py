"""Survey a CSV or JSON file, then write it to Parquet in its final types."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa

from peers.predict.atomic_files import atomic_write
from peers.predict.errors import InputChanged, InputError
from peers.predict.inputs.files import SNAPSHOT, format_of, plain_suffix
from peers.predict.inputs.reading import PROBLEM
from peers.predict.inputs.references import reference
from peers.predict.inputs.text_csv import CsvFile
from peers.predict.inputs.text_draft import PROBLEM_FIELD, Draft, has_draft
from peers.predict.inputs.text_json import JsonFile
from peers.predict.inputs.text_options import TextOptions
from peers.predict.inputs.text_stream import TextStream, open_text
from peers.predict.inputs.text_window import Window
from peers.predict.spec import InputRef

_RANDOM_BYTES: Final = 8


class _TextFile(Protocol):
    """A CSV or a JSON file, with its own class of blocks."""

    def blocks(self, window: Window) -> Iterator[Any]: ...
    def learn(self, block: Any) -> pa.Table | None: ...
    def schema(self) -> pa.Schema: ...
    def notes(self) -> dict[str, str]: ...
    def is_as_drafted(self) -> bool: ...
    def convert(self, block: Any, schema: pa.Schema) -> tuple[pa.Table, dict[int, str]]: ...


class TextSurvey:
    """The file at `path`; its rows are stored under `scratch` until `close`.

    The types of its columns are known only at its end. The survey writes the rows in the types of
    the first rows. If these are right in the end, the file need not be read again.
    """

    def __init__(
        self,
        path: Path,
        id_column: str | None,
        scratch: Path,
        options: TextOptions | None = None,
        carry: Sequence[str] = (),
    ) -> None:
        self._path = path
        self._options = options or TextOptions()
        self._draft = scratch / f"text-{secrets.token_hex(_RANDOM_BYTES)}.parquet"
        self._is_new = not scratch.exists()
        self.rows = 0
        try:
            with self._opened() as stream:
                window = Window(stream)
                self._file = self._start(window, id_column, carry)
                with Draft(self._draft) as draft:
                    for block in self._file.blocks(window):
                        draft.write(self._file.learn(block), block.bad)
                        self.rows += block.rows
                    if not self.rows:
                        raise InputError(
                            f"the input {path} has no rows", "There is nothing to predict."
                        )
                    self.digest = self._options.mixed_into(stream.digest())
                    draft.finish(self.digest)
                self._before = stream.stat
                self._require_same(path.stat())
            self._has_draft = draft.is_whole and self._file.is_as_drafted()
            self.schema: pa.Schema = self._file.schema()
            self.notes: dict[str, str] = self._file.notes()
        except BaseException:
            self.close()
            raise

    def with_types(self, schema: pa.Schema, folder: Path) -> InputRef:
        """Write a snapshot of the file to `folder`, with these columns in these types."""
        target = folder / SNAPSHOT
        schema = schema.append(PROBLEM_FIELD)
        if not has_draft(target, schema, self.rows, self.digest):
            with atomic_write(target) as temporary:
                if self._has_draft and self._is_as_drafted(schema):
                    self._draft.replace(temporary)
                    self._has_draft = False
                else:
                    self._convert(schema, temporary)
        return reference(self.digest, schema, target, self.rows)

    def close(self) -> None:
        """Remove the scratch file."""
        self._draft.unlink(missing_ok=True)
        if self._is_new:
            with suppress(OSError):  # not empty: a run has begun
                self._draft.parent.rmdir()

    @contextmanager
    def _opened(self) -> Iterator[TextStream]:
        with open_text(self._path, self._options.encoding) as stream:
            yield stream

    def _start(self, window: Window, id_column: str | None, carry: Sequence[str]) -> _TextFile:
        if format_of(self._path) != "csv":
            return JsonFile(self._path, window, id_column)
        separator = self._options.separator
        if separator is None:
            separator = "\t" if plain_suffix(self._path) == ".tsv" else ","
        return CsvFile(self._path, window, separator, self._options, id_column, carry)

    def _is_as_drafted(self, schema: pa.Schema) -> bool:
        return all(
            field.name == PROBLEM or field.type == self.schema.field(field.name).type
            for field in schema
        )

    def _convert(self, schema: pa.Schema, target: Path) -> None:
        fields = pa.schema([field for field in schema if field.name != PROBLEM])
        with self._opened() as stream, Draft(target) as draft:
            self._require_same(stream.stat)
            window = Window(stream)
            for block in self._file.blocks(window):
                draft.write(*self._file.convert(block, fields))
            draft.finish(self.digest)

    def _require_same(self, now: os.stat_result) -> None:
        if (now.st_size, now.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns):
            raise InputChanged(f"the input {self._path} changed while it was read")
