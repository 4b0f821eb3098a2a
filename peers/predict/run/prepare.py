"""From a request to a run: find model and input, check that they fit, try a few rows."""

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
from peers.predict.inputs import decisions, whole_columns
from peers.predict.inputs.column_types import Decision, Question, decide
from peers.predict.models.model_process import Candidate, Loaded
from peers.predict.models.signature import Signature
from peers.predict.run.own_peer import OwnPeer
from peers.predict.run.request import Request
from peers.predict.sizes import (
    REMOTE_BATCH_SIZE,
    Measured,
    batch_rows,
    chunk_rows,
    remote_chunk_rows,
    sample_rows,
)
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
class Trial:
    """A plan whose model has predicted some rows, and what was decided of the columns for it."""

    plan: Plan
    decision: Decision
    signature: Signature


def prepare(request: Request, peer: OwnPeer | None = None) -> Plan:
    """Check everything that can be checked before anything is submitted, and write the manifest.

    What was decided of the columns is printed. Raises ModelError, InputError or OutputError, which
    name what does not fit and what to do.
    """
    tried = try_out(request, peer, announced=decisions.announce)
    save(tried.plan.manifest)
    return tried.plan


def try_out(
    request: Request, peer: OwnPeer | None = None,
    announced: Callable[[Decision], None] = lambda _: None,
) -> Trial:  # fmt: skip
    """Have the model predict a few rows of the input, whose columns have the types of the run.

    `announced` is told what was decided before the input is converted and the model tried.
    """
    output = request.output.absolute()
    outputs.check_output(output)
    outputs.refuse_sources(output, input=request.input, model=request.model)
    source = _source(request)
    if source.query is not None:
        make_folder(parts_folder(output))
    with (
        Candidate(request, peer) as candidate,
        inputs.survey(source, parts_folder(output)) as survey,
    ):
        _check_id_column(request, survey.schema.names)
        has_id = request.id_column is not None
        outputs.check_carried(request.carry, survey.schema.names, has_id=has_id)
        model = candidate.loaded()
        decision = decide(model.signature, survey.schema, _question(request), survey.notes)
        announced(decision)
        run = _run_id(request, output, model.reference, survey.digest)
        with _kept_if_submitted(parts_folder(output) / run) as folder:
            found = whole_columns.noted(survey.settle(decision.schema, folder))
            manifest = _planned(request, run, model, found, decision)
            ends = inputs.chunks(found, sample_rows(len(found.schema)))
            tried = candidate.try_out(manifest, [ends[0], *ends[1:][-1:]])
            outputs.start_with(folder, tried.output)
            if not manifest.chunks:
                manifest = _sized(manifest, candidate.measured(manifest), request.batch_size)
    chunks = inputs.chunks(manifest.input, manifest.chunk_rows)
    return Trial(Plan(manifest, chunks), decision, model.signature)


@contextmanager
def _kept_if_submitted(folder: Path) -> Iterator[Path]:
    """Make the run's folder; a new one goes when the block fails: nothing was submitted."""
    is_new = not folder.exists()
    try:
        make_folder(folder)
        yield folder
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _before(folder: Path) -> Manifest | None:
    """Return the plan that the same command has made before: its chunks stay as they are."""
    try:
        return load_manifest(str(folder / MANIFEST_NAME))
    except StorageFailed:
        return None


def _planned(
    request: Request, run: str, model: Loaded, found: InputRef, decision: Decision
) -> Manifest:
    """Return the plan: that of the same command before, or a new one without chunks as yet.

    The place of a token is no part of what a run is, so the one that was named last counts.
    """
    new = _manifest(request, run, model, found, decision)
    before = _before(new.folder)
    if before is not None:
        new = replace(before, model=model.reference, input=found)
    return _asked(new, request)


def _sized(manifest: Manifest, measured: Measured | None, batch_size: int | None) -> Manifest:
    """Return the plan with its chunks and batches; `batch_size`: what the user bounds them to."""
    rows = manifest.input.rows
    if manifest.asynchronous:
        batch, size = manifest.batch_size, remote_chunk_rows(rows, manifest.batch_size)
    else:
        batch = batch_rows(measured, batch_size)
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
            "a query needs a database for its input, and a database a query",
            "Write --input 'postgresql://…' --query 'select …', or --input with a file alone.",
        )
    return inputs.Source(request.input, request.query, request.id_column, request.text)


def _question(request: Request) -> Question:
    name = request.model.rpartition("/")[2]
    beside = [request.id_column] if request.id_column is not None else []
    return Question(name, request.types, beside, request.carry, request.allow_nan)


def _check_id_column(request: Request, columns: Sequence[str]) -> None:
    if request.id_column is not None and request.id_column not in columns:
        raise InputError(
            f"the input has no column {request.id_column!r} for the ids",
            f"It has {', '.join(columns)}: correct --id-column.",
        )


def _manifest(
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


def _asked(manifest: Manifest, request: Request) -> Manifest:
    """Return the plan with what may be another each time that the command is given."""
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
    """Return the same id for the same work: then what is done already is found."""
    identity = [
        asdict(replace(model, access=NO_ACCESS)), digest,  # a token may move
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
            f"the parts of the output cannot be put into {folder}: {error.strerror}",
            "Name another --output.",
        ) from error


def save(manifest: Manifest) -> None:
    """Write the manifest, whole or not at all."""
    text = manifest.to_json()
    if manifest.path.exists() and manifest.path.read_text(encoding="utf-8") == text:
        return
    with outputs.replaced(manifest.path) as temporary:
        temporary.write_text(text, encoding="utf-8")
