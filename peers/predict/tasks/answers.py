"""Keep what an endpoint answered when a chunk gives its slot back, so that it is asked once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from peers.predict.errors import RowError
from peers.predict.outputs.durable import replaced

if TYPE_CHECKING:
    import pyarrow as pa

    from peers.predict.models import Predictions

_KEY_BYTES: Final = 16


class Answers:
    """The answers of a chunk: those of an earlier attempt, once each, and those of this one."""

    def __init__(self, folder: Path, chunk: int) -> None:
        self._path = folder / f"chunk-{chunk:06d}.answers"
        self._found: dict[str, Predictions] = {}
        self._earlier = self._read()

    def recall(self, key: str) -> Predictions | None:
        """Take what an earlier attempt was answered; None: it was not."""
        if key not in self._earlier:
            return None
        predictions = _decoded(self._earlier.pop(key))
        self._found[key] = predictions
        return predictions

    def note(self, key: str, predictions: Predictions) -> None:
        """Take in an answer."""
        self._found[key] = predictions

    def keep(self) -> None:
        """Write what there is for the next attempt. Raises OutputError."""
        text = json.dumps(
            {**self._earlier, **{key: _encoded(one) for key, one in self._found.items()}},
            default=str,
        )
        with replaced(self._path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def discard(self) -> None:
        """Remove the file: the chunk is done."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or unreadable: it is asked again
            return {}
        return found


def key_of(table: pa.Table) -> str:
    """Return what tells these rows from others."""
    # by values: what Arrow writes of a slice also has bytes of its neighbours
    text = json.dumps([table.column_names, table.to_pydict()], default=repr)
    return hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES).hexdigest()


def _encoded(predictions: Predictions) -> dict[str, Any]:
    if isinstance(predictions, np.ndarray):
        return {"array": predictions.tolist(), "dtype": predictions.dtype.str}
    errors = {at: str(one) for at, one in enumerate(predictions) if isinstance(one, Exception)}
    values = [None if isinstance(one, Exception) else one for one in predictions]
    return {"list": values, "errors": errors}


def _decoded(kept: dict[str, Any]) -> Predictions:
    if "array" in kept:
        return np.array(kept["array"], np.dtype(kept["dtype"]))
    values = list(kept["list"])
    for at, text in kept["errors"].items():
        values[int(at)] = RowError(text)
    return values
