"""What a run is: plain values that fit into JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

ModelKind: TypeAlias = Literal["onnx", "sklearn", "callable", "http"]
InputFormat: TypeAlias = Literal["parquet", "csv", "jsonl"]

DEFAULT_BATCH_SIZE: Final = 256
DEFAULT_MAX_ATTEMPTS: Final = 3
MOST_BATCHES: Final = 64
"""In a chunk."""
_MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which model: its place, what it was when the run was planned, and what to call on it.

    `ref` is an absolute path, `module:callable` or a URL; `digest` is of its contents.
    """

    kind: ModelKind
    ref: str
    digest: str
    method: str | None = None


@dataclass(frozen=True, slots=True)
class InputRef:
    """Which input, as it was when the run was planned; `columns` are (name, Arrow type)."""

    path: str
    format: InputFormat
    size: int
    mtime_ns: int
    digest: str
    rows: int
    columns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of rows, `first` counted from 0, and `where` it lies: offset and bytes of a text."""

    number: int
    first: int
    rows: int
    where: dict[str, int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that the tasks of a run have in common."""

    run: str
    name: str | None
    model: ModelRef
    input: InputRef
    source: str
    """What the user named as the input, passwords hidden."""
    id_column: str | None
    features: tuple[str, ...]
    output: str
    batch_size: int
    max_attempts: int
    timeout: float | None
    """Seconds that a call of the model may take."""
    asynchronous: bool
    """Whether the model is waited for."""
    allow_nan: bool
    chunks: int
    concurrency: int | None

    @property
    def folder(self) -> Path:
        """Where the run keeps its parts: beside its output."""
        return parts_folder(Path(self.output)) / self.run

    @property
    def path(self) -> Path:
        """The file that holds this manifest."""
        return self.folder / _MANIFEST

    def to_json(self) -> str:
        """The manifest as JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The manifest that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        model = ModelRef(**fields.pop("model"))
        source = fields.pop("input")
        source["columns"] = tuple((name, type_) for name, type_ in source["columns"])
        fields["features"] = tuple(fields["features"])
        return cls(model=model, input=InputRef(**source), **fields)


def parts_folder(output: Path) -> Path:
    """Where the runs that write `output` keep their parts, one folder each."""
    return output.with_name(f"{output.name}.parts")


def load_manifest(path: str) -> Manifest:
    """The manifest in this file; the last few stay in memory for as long as the file is the same.

    Raises OSError.
    """
    return _load(path, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _load(path: str, _mtime_ns: int) -> Manifest:
    return Manifest.from_json(Path(path).read_text(encoding="utf-8"))
