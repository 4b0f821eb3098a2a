"""Whose an output is: nobody's work is overwritten by mistake."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.errors import OutputError
from peers.predict.outputs.durable import replaced
from peers.predict.spec import parts_folder

RUN_KEY: Final = b"peers.run"
_SUFFIXES: Final = (".parquet", ".csv", ".jsonl")
_RECEIPT: Final = "written.json"


def check_output(output: Path) -> None:
    """Raises OutputError for a place where nothing can be written, and for unknown formats."""
    if output.suffix.lower() not in _SUFFIXES:
        raise OutputError(
            f"the format of the output {output} is unknown", f"Known are {', '.join(_SUFFIXES)}."
        )
    if output.is_dir():
        raise OutputError(f"the output {output} is a folder", "Name a file.")
    if not output.parent.is_dir():
        raise OutputError(f"the folder {output.parent} of the output is missing", "Make it first.")
    if not os.access(output.parent, os.W_OK):
        raise OutputError(f"the folder {output.parent} cannot be written to", "Correct its rights.")


def belongs_to(output: Path) -> str | None:
    """The run that wrote this file; None: another program, or somebody changed it since.

    Raises FileNotFoundError.
    """
    if output.suffix.lower() == ".parquet":
        try:
            metadata = pq.read_schema(output).metadata or {}
        except pa.ArrowException:
            return None
        run = metadata.get(RUN_KEY)
        return run.decode() if run else None
    digest = digest_of(output)
    for receipt in parts_folder(output).glob(f"*/{_RECEIPT}"):
        try:
            found = json.loads(receipt.read_text(encoding="utf-8"))["digest"]
        except (ValueError, KeyError, TypeError):
            continue  # not one that we wrote whole
        if found == digest:
            return receipt.parent.name
    return None


def leave_receipt(folder: Path, digest: str) -> None:
    """Notes what the run has written, where the file itself has no place for it."""
    with replaced(folder / _RECEIPT) as temporary:
        temporary.write_text(json.dumps({"digest": digest}), encoding="utf-8")


def digest_of(path: Path) -> str:
    """Of the contents."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, hashlib.blake2b).hexdigest()
