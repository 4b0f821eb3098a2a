"""Recognize a run's own output by its digest, so that no other file is overwritten by mistake."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Final

from peers.predict.atomic_files import atomic_write, destination
from peers.predict.errors import OutputConflict, OutputError
from peers.predict.spec import Manifest

RUN_KEY: Final = b"peers.run"
_SUFFIXES: Final = (".parquet", ".csv", ".jsonl")
OUTPUT_DIGEST_NAME: Final = "written.json"


def check_output(output: Path) -> None:
    """Raise OutputError if the output cannot be written, or has an unknown format."""
    if output.suffix.lower() not in _SUFFIXES:
        raise OutputError(
            f"the format of the output {output} is unknown",
            f"The known formats are {', '.join(_SUFFIXES)}.",
        )
    target = destination(output)
    if target.is_symlink():
        raise OutputError(f"the output {output} is a symbolic link to itself")
    if target.is_dir():
        raise OutputError(f"the output {output} is a folder", "Name a file.")
    if not target.parent.is_dir():
        raise OutputError(
            f"the folder {target.parent} of the output is missing", "Create it first."
        )
    for folder in {output.parent, target.parent}:
        if not os.access(folder, os.W_OK):
            raise OutputError(
                f"the folder {folder} of the output cannot be written to",
                "Correct its access rights.",
            )


def refuse_foreign_output(manifest: Manifest) -> None:
    """Raise OutputConflict if the output exists and this run did not write it."""
    output = Path(manifest.output)
    if output.exists() and not is_written_by(manifest):
        raise OutputConflict(
            f"{output} exists, and this run did not write its contents",
            "Move it away, name another --output, or use --overwrite.",
        )


def is_written_by(manifest: Manifest) -> bool:
    """Return whether the output exists as this run wrote it last."""
    output = Path(manifest.output)
    digests = _output_digests(manifest)
    return bool(digests) and output.is_file() and digest_of(output) in digests


def record_output_digest(manifest: Manifest, written: Path) -> None:
    """Record the digest of the file that will replace the output.

    The digest of the present output stays as well, if it is the run's, until it is replaced.
    """
    before = [digest_of(Path(manifest.output))] if is_written_by(manifest) else []
    digests = [*before, digest_of(written)]
    with atomic_write(manifest.folder / OUTPUT_DIGEST_NAME) as temporary:
        temporary.write_text(json.dumps({"digests": digests}), encoding="utf-8")


def _output_digests(manifest: Manifest) -> list[str]:
    try:
        text = (manifest.folder / OUTPUT_DIGEST_NAME).read_text(encoding="utf-8")
        digests: list[str] = json.loads(text)["digests"]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # missing, or not written completely
    return digests


def digest_of(path: Path) -> str:
    """Return a digest of the contents."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, hashlib.blake2b).hexdigest()
