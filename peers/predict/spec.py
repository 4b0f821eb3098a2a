"""The data classes that describe a run: plain values that JSON can hold."""

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
    """Where a secret is stored. The secret itself is in no manifest, row, log or command line."""

    stored_in: Literal["file", "environment", "credential"]
    place: str
    holds: Literal["token", "headers"]

    @property
    def label(self) -> str:
        """The name of the secret in messages."""
        return f"{_STORED_IN[self.stored_in]} {self.place}"


_STORED_IN: Final = {
    "file": "file", "environment": "environment variable", "credential": "credential of systemd",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Access:
    """What each request to an endpoint carries: headers (name, value), and secrets."""

    headers: tuple[tuple[str, str], ...] = ()
    secrets: tuple[Secret, ...] = ()


NO_ACCESS: Final = Access()


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A reference to a model: where it is, its digest when the run was planned, and its method.

    `ref` is an absolute path, `module:callable` or a URL. `digest` is that of its contents.
    `protocol` and `access` are those of an endpoint.
    """

    kind: ModelKind
    ref: str
    digest: str
    method: str | None = None
    protocol: EndpointProtocol | None = None
    access: Access = NO_ACCESS


Partition: TypeAlias = "tuple[tuple[str, str | int | None], ...]"
"""Columns with one value for a whole file, from the names of its folders: (("year", 2024), …)."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A Parquet file as it was when the run was planned."""

    path: str
    size: int
    mtime_ns: int
    rows: int
    partition: Partition = ()

    def __post_init__(self) -> None:
        """Convert lists, which JSON gives, to tuples, which have a hash."""
        object.__setattr__(self, "partition", tuple(map(tuple, self.partition)))


@dataclass(frozen=True, slots=True)
class InputRef:
    """The rows of an input: Parquet files, in order, and the columns as the run reads them.

    The files are the user's own, or a snapshot of a text file or a query in the run's folder.
    `digest`: that of the user's input. `arrow_schema`: base64 of a serialized Arrow schema.
    `categories`: the file with the categories of dictionary columns, if there are any.
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
    """Return the schema as text, the form that InputRef has."""
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
    """The values that all tasks of a run share."""

    run: str
    name: str | None
    model: ModelRef
    input: InputRef
    source: str
    """The input as the user named it, with passwords hidden."""
    id_column: str | None
    features: tuple[str, ...]
    output: str
    batch_size: int
    """The most rows in a call of the model; the actual number depends on how long calls take."""
    chunk_rows: int
    rows_per_second: float | None
    """The rate of one worker, as measured before the run; None: it was not measured."""
    call_seconds: float | None
    """How long a call of the model should take, by the same measurement."""
    max_attempts: int
    timeout: float | None
    """Seconds that a call of the model may take."""
    asynchronous: bool
    """Whether the model has to be awaited, as a remote one has."""
    required: tuple[str, ...]
    """Features that must have a value in each row: the model does not accept missing ones."""
    chunks: int
    concurrency: int | None
    columns: tuple[str, ...] = ()
    """The model's columns that go into the output; none: all."""
    carry: tuple[str, ...] = ()
    """Columns of the input that are copied into the output."""
    max_dead: str = "0"
    """How many rows may be dead for exit code 0: see DeadLimit."""
    stop_after_dead: str | None = None
    """How many rows may be dead before the run is stopped; None: the default."""

    @property
    def folder(self) -> Path:
        """The folder of the run's parts, beside its output."""
        return parts_folder(Path(self.output)) / self.run

    @property
    def path(self) -> Path:
        """The file that holds this manifest."""
        return self.folder / MANIFEST_NAME

    def features_of(self, table: pa.Table) -> pa.Table:
        """Return the features, with the metadata of the run's schema."""
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
    """Return the folder that has a folder for each run that writes `output`."""
    return output.with_name(f"{output.name}{PARTS_SUFFIX}")


def output_of(manifest: str) -> str:
    """Return the output of the run with this manifest, from the path alone."""
    return str(Path(manifest).parent.parent).removesuffix(PARTS_SUFFIX)


def load_manifest(path: str) -> Manifest:
    """Return the manifest in this file. The last few stay in memory while their files are the same.

    Raises StorageFailed if the file is missing, damaged, or of another version of Peers. The
    command writes it again.
    """
    try:
        return _load(path, Path(path).stat().st_mtime_ns)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not a manifest ({error})"
        raise StorageFailed(
            f"the run's manifest {path} cannot be read: {reason}",
            "The folder must be on a path that all hosts of the peers share. If it was deleted, "
            "run the same command again.",
        ) from error


@lru_cache(maxsize=16)
def _load(path: str, _mtime_ns: int) -> Manifest:
    return Manifest.from_json(Path(path).read_text(encoding="utf-8"))
