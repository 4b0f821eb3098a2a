"""What a run is: plain values that fit into JSON."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import pyarrow as pa

from peers.predict.errors import StorageFailed

ModelKind: TypeAlias = Literal["onnx", "sklearn", "callable", "http"]
EndpointProtocol: TypeAlias = Literal["v1", "mlflow", "v2", "openai"]

DEFAULT_MAX_ATTEMPTS: Final = 3
MANIFEST_NAME: Final = "manifest.json"
PARTS_SUFFIX: Final = ".parts"


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret lies; the secret itself is in no manifest, row, log or command line."""

    lies_in: Literal["file", "environment", "credential"]
    place: str
    holds: Literal["token", "headers"]

    @property
    def called(self) -> str:
        """What people call it."""
        return f"{_LIES_IN[self.lies_in]} {self.place}"


_LIES_IN: Final = {
    "file": "file", "environment": "environment variable", "credential": "credential of systemd",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Access:
    """What an endpoint is told with each request: headers (name, value), and secrets."""

    headers: tuple[tuple[str, str], ...] = ()
    secrets: tuple[Secret, ...] = ()


NO_ACCESS: Final = Access()


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which model: its place, what it was when the run was planned, and what to call on it.

    `ref` is an absolute path, `module:callable` or a URL; `digest` is of its contents. `protocol`
    and `access` are an endpoint's.
    """

    kind: ModelKind
    ref: str
    digest: str
    method: str | None = None
    protocol: EndpointProtocol | None = None
    access: Access = NO_ACCESS


Partition: TypeAlias = "tuple[tuple[str, str | int | None], ...]"
"""Columns whose one value for a whole file its folders' names say: (("year", 2024), …)."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A Parquet file as it was when the run was planned."""

    path: str
    size: int
    mtime_ns: int
    rows: int
    partition: Partition = ()

    def __post_init__(self) -> None:
        """JSON gives lists, and a file must have a hash."""
        object.__setattr__(self, "partition", tuple(map(tuple, self.partition)))


@dataclass(frozen=True, slots=True)
class InputRef:
    """The rows of an input: Parquet files, in order, and the columns as the run reads them.

    The files are the user's own, or a snapshot of a text file or a query in the run's folder.
    `digest`: of what the user named. `arrow_schema`: base64 of a serialized Arrow schema.
    `categories`: the file that has those of dictionary columns, if there are any.
    """

    digest: str
    rows: int
    files: tuple[DataFile, ...]
    arrow_schema: str
    categories: str | None = None

    @property
    def schema(self) -> pa.Schema:
        """Names, types and metadata of all columns."""
        return _schema(self.arrow_schema)


def schema_text(schema: pa.Schema) -> str:
    """Return the schema as InputRef holds it."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


@lru_cache(maxsize=16)
def _schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


@lru_cache(maxsize=16)
def _features_schema(text: str, names: tuple[str, ...]) -> pa.Schema:
    whole = _schema(text)
    return pa.schema([whole.field(name) for name in names], metadata=whole.metadata)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of rows; `first` counts from 0."""

    number: int
    first: int
    rows: int


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
    """The most rows in a call of the model; how many there are is decided by time."""
    chunk_rows: int
    rows_per_second: float | None
    """Of one worker, as measured before the run; None: nothing was measured."""
    call_seconds: float | None
    """How long a call of the model should take, by the same measurement."""
    max_attempts: int
    timeout: float | None
    """Seconds that a call of the model may take."""
    asynchronous: bool
    """Whether the model is waited for."""
    required: tuple[str, ...]
    """Features that must have a value in each row: the model does not take gaps in them."""
    chunks: int
    concurrency: int | None
    columns: tuple[str, ...] = ()
    """Of the model's columns, those that the output has; none: all."""
    carry: tuple[str, ...] = ()
    """Columns of the input that the output has unchanged."""
    max_dead: str = "0"
    """How many rows may be dead for exit code 0: see DeadLimit."""
    stop_after_dead: str | None = None
    """More dead rows than this stop the run; None: the default."""

    @property
    def folder(self) -> Path:
        """Where the run keeps its parts: beside its output."""
        return parts_folder(Path(self.output)) / self.run

    @property
    def path(self) -> Path:
        """The file that holds this manifest."""
        return self.folder / MANIFEST_NAME

    def features_of(self, table: pa.Table) -> pa.Table:
        """Return the features, with all that the plan says of these columns in the schema."""
        schema = _features_schema(self.input.arrow_schema, self.features)
        columns = [table.column(name) for name in self.features]
        if all(column.type == type_ for column, type_ in zip(columns, schema.types, strict=True)):
            return pa.Table.from_arrays(columns, schema=schema)
        return table.select(self.features)

    def to_json(self) -> str:
        """Return the manifest as JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Return the manifest that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        model = _model_ref(fields.pop("model"))
        source = fields.pop("input")
        source["files"] = tuple(DataFile(**file) for file in source["files"])
        for name in ("features", "required", "columns", "carry"):
            fields[name] = tuple(fields[name])
        return cls(model=model, input=InputRef(**source), **fields)


def _model_ref(fields: dict[str, Any]) -> ModelRef:
    access = fields.pop("access")
    headers = tuple((name, value) for name, value in access["headers"])
    secrets = tuple(Secret(**each) for each in access["secrets"])
    return ModelRef(**fields, access=Access(headers, secrets))


def parts_folder(output: Path) -> Path:
    """Return where the runs that write `output` keep their parts, one folder each."""
    return output.with_name(f"{output.name}{PARTS_SUFFIX}")


def output_of(manifest: str) -> str:
    """Return the output of the run whose manifest lies here, also when it is gone."""
    return str(Path(manifest).parent.parent).removesuffix(PARTS_SUFFIX)


def load_manifest(path: str) -> Manifest:
    """Return the manifest in this file; the last few stay in memory while the file is the same.

    Raises StorageFailed if it is not there, damaged, or of another version of Peers: the command
    writes it again.
    """
    try:
        return _load(path, Path(path).stat().st_mtime_ns)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it holds no manifest ({error})"
        raise StorageFailed(
            f"the run's manifest {path} cannot be read: {reason}",
            "The folder must be on a path that all hosts of the peers share. If it was deleted, "
            "run the same command again.",
        ) from error


@lru_cache(maxsize=16)
def _load(path: str, _mtime_ns: int) -> Manifest:
    return Manifest.from_json(Path(path).read_text(encoding="utf-8"))
