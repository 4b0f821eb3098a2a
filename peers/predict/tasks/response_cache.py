"""Keep an endpoint's responses when a chunk releases its slot, so that no request is repeated."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from peers.predict.atomic_files import atomic_write
from peers.predict.errors import RowError

if TYPE_CHECKING:
    import pyarrow as pa

    from peers.predict.models import Predictions

_KEY_BYTES: Final = 16


class ResponseCache:
    """The responses to a chunk's requests: those of earlier attempts, and those of this one."""

    def __init__(self, folder: Path, chunk: int) -> None:
        self._path = folder / f"chunk-{chunk:06d}.responses"
        self._responses: dict[str, Predictions] = {}
        self._earlier = self._read()

    def take(self, key: str) -> Predictions | None:
        """Return the response that an earlier attempt got, once; None if there is none."""
        if key not in self._earlier:
            return None
        predictions = _decoded(self._earlier.pop(key))
        self._responses[key] = predictions
        return predictions

    def add(self, key: str, predictions: Predictions) -> None:
        """Add a response."""
        self._responses[key] = predictions

    def save(self) -> None:
        """Write all responses for the next attempt. Raises OutputError."""
        new = {key: _encoded(one) for key, one in self._responses.items()}
        text = json.dumps({**self._earlier, **new}, default=str)
        with atomic_write(self._path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def delete(self) -> None:
        """Remove the file: the chunk is done."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # without a readable file every request is made again
            return {}
        return found


def request_key(table: pa.Table) -> str:
    """Return a digest of these rows."""
    # of the values: what Arrow writes of a slice also has bytes of its neighbours
    text = json.dumps([table.column_names, table.to_pydict()], default=repr)
    return hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES).hexdigest()


def _encoded(predictions: Predictions) -> dict[str, Any]:
    if isinstance(predictions, np.ndarray):
        return {"array": predictions.tolist(), "dtype": predictions.dtype.str}
    errors = {at: str(one) for at, one in enumerate(predictions) if isinstance(one, Exception)}
    values = [None if isinstance(one, Exception) else one for one in predictions]
    return {"list": values, "errors": errors}


def _decoded(response: dict[str, Any]) -> Predictions:
    if "array" in response:
        return np.array(response["array"], np.dtype(response["dtype"]))
    values = list(response["list"])
    for at, text in response["errors"].items():
        values[int(at)] = RowError(text)
    return values
