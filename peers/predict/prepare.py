"""From a request to a run: find model and input, check that they fit, try a few rows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final
from uuid import uuid4

from peers.predict import inputs, outputs
from peers.predict.candidate import Candidate, Loaded
from peers.predict.errors import InputError, OutputError
from peers.predict.request import Request
from peers.predict.spec import MOST_BATCHES, Chunk, InputRef, Manifest, ModelRef, parts_folder

_FEWEST_BATCHES: Final = 8
_CHUNKS: Final = 1000
"""As many chunks as a large input should have, within these bounds of a chunk's size."""
_REMOTE_CONCURRENCY: Final = 8
_REMOTE_TIMEOUT: Final = 60.0
_RUN_ID_BYTES: Final = 8
_DATABASE: Final = re.compile(r"postgres(ql)?(\+\w+)?://")


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that can be submitted."""

    manifest: Manifest
    chunks: Sequence[Chunk]


def prepare(request: Request) -> Plan:
    """Check everything that can be checked before anything is submitted, and write the manifest.

    Raises ModelError, InputError or OutputError, which name what does not fit and what to do.
    """
    output = request.output.absolute()
    outputs.check_output(output)
    with Candidate(request) as candidate:
        model = candidate.loaded()
        with _input(request, output) as source:
            fewest = 1 if model.asynchronous else _FEWEST_BATCHES
            found, chunks = inputs.plan(
                source,
                lambda rows: chunk_rows(rows, request.batch_size, fewest),
                id_column=request.id_column,
            )
            _check_id_column(request, dict(found.columns))
            manifest = _manifest(request, output, model, found, chunks)
            features = candidate.try_out(manifest, [chunks[0], *chunks[1:][-1:]])
            manifest = replace(manifest, features=features)
            manifest = _settle(manifest, source, is_query=request.query is not None)
    save(manifest)
    return Plan(manifest, chunks)


def _check_id_column(request: Request, columns: Mapping[str, str]) -> None:
    if request.id_column is not None and request.id_column not in columns:
        raise InputError(
            f"the input has no column {request.id_column!r} for the ids",
            f"It has {', '.join(columns)}: correct --id-column.",
        )


def chunk_rows(rows: int, batch_size: int, fewest: int) -> int:
    """How many rows a chunk should have: whole batches; small enough for an even end of the run.

    `fewest` batches: a chunk has one call at a time, and is so much work that its task is worth it.
    """
    batches = -(-rows // (_CHUNKS * batch_size))
    return batch_size * min(max(batches, fewest), MOST_BATCHES)


@contextmanager
def _input(request: Request, output: Path) -> Iterator[Path]:
    """The input as a file: itself, or a snapshot of what the query answers now."""
    is_url = _DATABASE.match(request.input) is not None
    if is_url != (request.query is not None):
        raise InputError(
            "a query needs a database for its input, and a database a query",
            "Write --input 'postgresql://…' --query 'select …', or --input with a file alone.",
        )
    if request.query is None:
        yield Path(request.input).expanduser().absolute()
        return
    folder = parts_folder(output)
    _make(folder)
    snapshot = folder / f"query-{uuid4().hex}.parquet"
    try:
        inputs.snapshot(request.input, request.query, snapshot, request.id_column)
        yield snapshot
    finally:
        snapshot.unlink(missing_ok=True)


def _manifest(
    request: Request, output: Path, model: Loaded, found: InputRef, chunks: Sequence[Chunk]
) -> Manifest:
    reference = model.reference
    source = inputs.hidden(request.input) if request.query is not None else found.path
    return Manifest(
        run=_run_id(request, output, reference, found), name=request.run, model=reference,
        input=found, source=source, id_column=request.id_column, features=(), output=str(output),
        batch_size=request.batch_size,
        max_attempts=request.max_attempts,
        timeout=request.timeout or (_REMOTE_TIMEOUT if reference.kind == "http" else None),
        asynchronous=model.asynchronous, allow_nan=request.allow_nan, chunks=len(chunks),
        concurrency=request.concurrency or (_REMOTE_CONCURRENCY if model.asynchronous else None),
    )  # fmt: skip


def _run_id(request: Request, output: Path, model: ModelRef, found: InputRef) -> str:
    """The same for the same work: then what is done already is found."""
    identity = [
        asdict(model), found.digest, str(output), request.query, request.id_column,
        request.batch_size, request.allow_nan, request.run,
    ]  # fmt: skip
    text = json.dumps(identity, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=_RUN_ID_BYTES).hexdigest()


def _settle(manifest: Manifest, source: Path, *, is_query: bool) -> Manifest:
    """Makes the run's folder; the snapshot of a query moves into it and becomes its input."""
    _make(manifest.folder)
    if not is_query:
        return manifest
    target = manifest.folder / "input.parquet"
    if not target.exists():
        source.replace(target)
    there = target.stat()
    place = replace(manifest.input, path=str(target), mtime_ns=there.st_mtime_ns)
    return replace(manifest, input=place)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the parts of the output cannot be put into {folder}: {error.strerror}",
            "Name another --output.",
        ) from error


def save(manifest: Manifest) -> None:
    """Writes the manifest, whole or not at all."""
    text = manifest.to_json()
    if manifest.path.exists() and manifest.path.read_text(encoding="utf-8") == text:
        return
    with outputs.replaced(manifest.path) as temporary:
        temporary.write_text(text, encoding="utf-8")
