"""The request of a user: the parsed command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from peers.predict.inputs import TextOptions
from peers.predict.inputs.column_kinds import TypeName
from peers.predict.spec import DEFAULT_MAX_ATTEMPTS, NO_ACCESS, Access, EndpointProtocol


@dataclass(frozen=True, slots=True)
class Request:
    """A request for predictions.

    `model`: a file, `module:callable` or a URL. `input`: a file, or the URL of a Postgres for
    `query`. `batch_size`: the most rows in a call of the model. `timeout`: seconds that such a call
    may take. `concurrency`: concurrent requests to a remote model, over all peers. `protocol`,
    `access`: of an endpoint. `run`: a name to find the run by. `text`: the format of a text input.
    `allow_nan`: send missing values even to a model that does not say whether it takes them.
    `types`: of columns, by name. `columns`: the columns of the model to keep; none: all. `carry`:
    columns of the input to copy into the output. `max_dead`, `stop_after_dead`: see DeadLimit.
    """

    model: str
    input: str
    output: Path
    query: str | None = None
    method: str | None = None
    id_column: str | None = None
    run: str | None = None
    batch_size: int | None = None
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    timeout: float | None = None
    allow_nan: bool = False
    types: Mapping[str, TypeName] = field(default_factory=dict)
    concurrency: int | None = None
    overwrite: bool = False
    text: TextOptions = field(default_factory=TextOptions)
    protocol: EndpointProtocol | None = None
    access: Access = NO_ACCESS
    columns: tuple[str, ...] = ()
    carry: tuple[str, ...] = ()
    max_dead: str = "0"
    stop_after_dead: str | None = None
