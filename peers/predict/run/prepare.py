"""Turn a request into a plan: find model and input, check that they fit, run the smoke test."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from peers.predict import inputs, outputs
from peers.predict.errors import InputError, OutputError, StorageFailed
from peers.predict.inputs import decisions, missing_values, whole_columns
from peers.predict.inputs.column_options import ColumnOptions
from peers.predict.inputs.column_types import Decision, decide
from peers.predict.run.chunk_sizes import REMOTE_BATCH_SIZE, chunk_rows, remote_chunk_rows
from peers.predict.run.messages import say
from peers.predict.run.model_process import ModelProcess
from peers.predict.run.own_peer import OwnPeer
from peers.predict.run.request import Request
from peers.predict.signature import Signature
from peers.predict.spec import (
    MANIFEST_NAME,
    NO_ACCESS,
    Chunk,
    InputRef,
    Manifest,
    ModelRef,
    load_manifest,
    parts_folder,
)
from peers.predict.tasks.batch_sizes import max_batch_rows
from peers.predict.tasks.measure import Measurement, sample_rows
from peers.predict.tasks.model_server import Loaded

_REMOTE_CONCURRENCY: Final = 8
_REMOTE_TIMEOUT: Final = 60.0
_RUN_ID_BYTES: Final = 8
_DATABASE: Final = re.compile(r"postgres(ql)?(\+\w+)?://")


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that can be submitted."""

    manifest: Manifest
    chunks: Sequence[Chunk]


@dataclass(frozen=True, slots=True)
class TestedPlan:
    """A plan whose model has passed the smoke test, and the types that its columns have."""

    plan: Plan
    decision: Decision
    signature: Signature
    missing: dict[str, int]
    """How many values are missing in columns whose rows need a value."""


def prepare(request: Request, peer: OwnPeer | None = None) -> Plan:
    """Make a plan, check all that can be checked before submission, and write the manifest.

    Print the types of the columns and missing values. Raises ModelError, InputError or OutputError,
    which say what does not fit and what to do.
    """
    tested = make_tested_plan(request, peer, on_decision=decisions.announce)
    rows = tested.plan.manifest.input.rows
    for line in missing_values.warnings(tested.missing, rows):
        say(line)
    save(tested.plan.manifest)
    return tested.plan


def make_tested_plan(
    request: Request, peer: OwnPeer | None = None,
    on_decision: Callable[[Decision], None] = lambda _: None,
) -> TestedPlan:  # fmt: skip
    """Make a plan, and have the model predict a few rows of the input with the run's column types.

    `on_decision` gets the column types before the input is converted and the model is tested.
    """
    output = request.output.absolute()
    outputs.check_output(output)
    outputs.refuse_sources(output, input=request.input, model=request.model)
    source = _source(request)
    if source.query is not None:
        make_folder(parts_folder(output))
    with (
        ModelProcess(request, peer) as process,
        inputs.survey(source, parts_folder(output)) as survey,
    ):
        _check_id_column(request, survey.schema.names)
        has_id = request.id_column is not None
        outputs.check_carried(request.carry, survey.schema.names, has_id=has_id)
        model = process.loaded()
        decision = decide(model.signature, survey.schema, _column_options(request), survey.notes)
        on_decision(decision)
        run = _run_id(request, output, model.reference, survey.digest)
        with _removed_on_failure(parts_folder(output) / run) as folder:
            found = whole_columns.with_missing_values(survey.with_types(decision.schema, folder))
            manifest = _make_manifest(request, run, model, found, decision)
            ends = inputs.chunks(found, sample_rows(len(found.schema)))
            tested = process.smoke_test(manifest, [ends[0], *ends[1:][-1:]])
            outputs.set_first_type(folder, tested.output)
            if not manifest.chunks:
                manifest = _with_sizes(manifest, process.measure(manifest), request.batch_size)
    chunks = inputs.chunks(manifest.input, manifest.chunk_rows)
    missing = missing_values.missing_values(manifest.input, manifest.required)
    return TestedPlan(Plan(manifest, chunks), decision, model.signature, missing)


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[Path]:
    """Make the run's folder; remove a new one if the block fails, since nothing was submitted."""
    is_new = not folder.exists()
    try:
        make_folder(folder)
        yield folder
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _earlier_plan(folder: Path) -> Manifest | None:
    """Return the manifest that the same command wrote before; its chunks must stay the same."""
    try:
        return load_manifest(str(folder / MANIFEST_NAME))
    except StorageFailed:
        return None


def _make_manifest(
    request: Request, run: str, model: Loaded, found: InputRef, decision: Decision
) -> Manifest:
    """Return the manifest: the one of the same command before, or a new one without chunks.

    A run is the same run wherever its token is stored, so the latest place of the token counts.
    """
    new = _new_manifest(request, run, model, found, decision)
    earlier = _earlier_plan(new.folder)
    if earlier is not None:
        new = replace(earlier, model=model.reference, input=found)
    return _with_options(new, request)


def _with_sizes(
    manifest: Manifest, measured: Measurement | None, batch_size: int | None
) -> Manifest:
    """Return the manifest with sizes of chunks and batches; `batch_size`: the user's limit."""
    rows = manifest.input.rows
    if manifest.asynchronous:
        batch, size = manifest.batch_size, remote_chunk_rows(rows, manifest.batch_size)
    else:
        batch = max_batch_rows(measured, batch_size)
        size = chunk_rows(rows, measured, batch_size)
    return replace(
        manifest,
        batch_size=batch,
        chunk_rows=size,
        chunks=len(inputs.chunks(manifest.input, size)),
        rows_per_second=None if measured is None else round(measured.rows_per_second, 1),
        call_seconds=None if measured is None else round(measured.call_seconds, 3),
    )


def _source(request: Request) -> inputs.Source:
    is_url = _DATABASE.match(request.input) is not None
    if is_url != (request.query is not None):
        raise InputError(
            "--query needs the URL of a database as --input, and such an input needs --query",
            "Write --input 'postgresql://…' --query 'select …', or --input FILE without --query.",
        )
    return inputs.Source(
        request.input, request.query, request.id_column, request.text, request.carry
    )


def _column_options(request: Request) -> ColumnOptions:
    name = request.model.rpartition("/")[2]
    ids = [request.id_column] if request.id_column is not None else []
    return ColumnOptions(name, request.types, ids, request.carry, request.allow_nan)


def _check_id_column(request: Request, columns: Sequence[str]) -> None:
    if request.id_column is not None and request.id_column not in columns:
        raise InputError(
            f"the input has no column {request.id_column!r} for the ids",
            f"It has {', '.join(columns)}: correct --id-column.",
        )


def _new_manifest(
    request: Request, run: str, model: Loaded, found: InputRef, decision: Decision
) -> Manifest:
    reference = model.reference
    is_query = request.query is not None
    place = inputs.hidden(request.input) if is_query else str(Path(request.input).absolute())
    return Manifest(
        run=run, name=request.run, model=reference, input=found, source=place,
        id_column=request.id_column, features=decision.features,
        output=str(request.output.absolute()),
        batch_size=REMOTE_BATCH_SIZE, chunk_rows=found.rows, chunks=0, rows_per_second=None,
        call_seconds=None,
        max_attempts=request.max_attempts, timeout=None, asynchronous=model.asynchronous,
        required=decision.required, concurrency=None,
        columns=request.columns, carry=request.carry,
        max_dead=request.max_dead, stop_after_dead=request.stop_after_dead,
    )  # fmt: skip


def _with_options(manifest: Manifest, request: Request) -> Manifest:
    """Return the manifest with the options that may differ each time the command is run."""
    is_remote, waits = manifest.model.kind == "http", manifest.asynchronous
    return replace(
        manifest,
        batch_size=request.batch_size or manifest.batch_size,
        max_attempts=request.max_attempts,
        timeout=request.timeout or (_REMOTE_TIMEOUT if is_remote else None),
        concurrency=request.concurrency or (_REMOTE_CONCURRENCY if waits else None),
        max_dead=request.max_dead,
        stop_after_dead=request.stop_after_dead,
    )


def _run_id(request: Request, output: Path, model: ModelRef, digest: str) -> str:
    """Return the run's id: the same work has the same id, so that finished work is found."""
    identity = [
        asdict(replace(model, access=NO_ACCESS)), digest,  # the token may be stored elsewhere
        str(output), request.query, request.id_column,
        request.allow_nan, request.run, dict(request.types), request.columns, request.carry,
    ]  # fmt: skip
    text = json.dumps(identity, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=_RUN_ID_BYTES).hexdigest()


def make_folder(folder: Path) -> None:
    """Make the folder of a run. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder {folder} for parts of the output cannot be made: {error.strerror}",
            "Name another --output.",
        ) from error


def save(manifest: Manifest) -> None:
    """Write the manifest atomically."""
    text = manifest.to_json()
    if manifest.path.exists() and manifest.path.read_text(encoding="utf-8") == text:
        return
    with outputs.atomic_write(manifest.path) as temporary:
        temporary.write_text(text, encoding="utf-8")
