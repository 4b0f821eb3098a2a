"""`peers predict`: batch inference; the runner is a guest, imported only when it is asked for."""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peers import schema
from peers.cli import output
from peers.cli.database import connection_to, located
from peers.cli.parser import add_command, duration, name, text
from peers.errors import PeersError
from peers.model import BATCH_WAIT_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from peers.cli.parser import Commands
    from peers.db import Connection
    from peers.settings import Settings


TYPE_NAMES: Final = (
    "text", "integer", "number", "boolean", "category", "timestamp", "date", "json",
)  # fmt: skip


def register(commands: Commands, words: list[str]) -> None:
    """Declares `predict` and `predict status`."""
    if words[:2] == ["predict", "status"]:
        group = commands.add_parser("predict", help="batch inference").add_subparsers(
            title="commands", metavar="COMMAND", required=True, dest="which"
        )
        parser = add_command(group, "status", _status, "how far a run is", reads=True)
        parser.add_argument("name", type=name, metavar="NAME", help="the --run NAME, or the id")
        parser.add_argument("--watch", action="store_true", help="until it is over")
        return
    parser = add_command(
        commands, "predict", _predict,
        "batch inference over the peers (`peers predict status NAME`: how far a run is)",
        reads=True,
    )  # fmt: skip
    what = parser.add_argument_group("what")
    what.add_argument(
        "--model",
        type=text,
        required=True,
        metavar="FILE|MODULE:CALLABLE|URL",
        help="*.onnx, scikit-learn's *.joblib, a Python callable, an HTTP endpoint",
    )
    what.add_argument("--method", type=text, metavar="NAME", help="such as predict_proba")
    what.add_argument("--input", type=text, required=True, metavar="FILE|URL",
                      help="*.parquet, *.csv, *.jsonl, or a Postgres for --query")  # fmt: skip
    what.add_argument("--query", type=text, metavar="SQL", help="what to select from that Postgres")
    what.add_argument("--types", type=types, default={}, metavar="COLUMN=TYPE,…",
                      help="of columns of the input: text, integer, number, boolean, category, "
                      "timestamp, date, json (default: as the model was fitted, else as the "
                      "input's schema or pandas.read_csv has them)")  # fmt: skip
    what.add_argument("--id-column", type=text, metavar="COLUMN", help="kept beside, no feature")
    what.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="*.parquet, *.csv or *.jsonl, on a path that all peers share",
    )
    what.add_argument("--run", dest="run_name", type=name, metavar="NAME", help="to find it by")
    how = parser.add_argument_group("how")
    how.add_argument("--batch-size", type=positive, default=256, metavar="ROWS")
    how.add_argument("--batch-wait", type=batch_wait, metavar="DURATION",
                     help="how long rows that stand alone wait for others; for --workers, as peers "
                     "that run already have PEERS_PREDICT_BATCH_WAIT")  # fmt: skip
    how.add_argument("--timeout", type=timeout, metavar="DURATION",
                     help="of a call of the model; what takes longer is stopped")  # fmt: skip
    how.add_argument("--concurrency", type=positive, metavar="N",
                     help="requests at once to a model that is remote, over all peers")  # fmt: skip
    how.add_argument("--max-attempts", type=positive, default=3, metavar="N",
                     help="of a row that stands alone, before it is dead")  # fmt: skip
    how.add_argument("--retry-dead", action="store_true",
                     help="give rows that are dead another chance first")  # fmt: skip
    how.add_argument("--max-dead", type=whole, metavar="N",
                     help="exit code 1 if more rows than this are dead")  # fmt: skip
    how.add_argument("--allow-nan", action="store_true",
                     help="missing values go also to a model that does not say whether it takes "
                     "them: a callable, an endpoint, ONNX")  # fmt: skip
    how.add_argument("--dry-run", action="store_true",
                     help="print the columns' types and the first rows as the model gets them, and "
                     "submit nothing")  # fmt: skip
    how.add_argument("--overwrite", action="store_true", help="replace an output of other contents")
    how.add_argument("--workers", type=positive, metavar="N",
                     help="start a peer with N workers for the time of the run")  # fmt: skip


def positive(value: str) -> int:
    """A whole number from 1 on."""
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number from 1 on, not "{value}"')
    return int(value)


def whole(value: str) -> int:
    """A whole number from 0 on."""
    if not value.isdecimal():
        raise argparse.ArgumentTypeError(f'must be a whole number from 0 on, not "{value}"')
    return int(value)


def types(value: str) -> dict[str, str]:
    """The types of columns by their names; a name that has a comma or = in it cannot be given."""
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, value.split(","))):
        column, equals, type_ = part.rpartition("=")
        if not equals or not column or type_ not in TYPE_NAMES:
            raise argparse.ArgumentTypeError(
                f'must be like zip=text,age=integer, not "{part}"; the types are '
                f"{', '.join(TYPE_NAMES)}"
            )
        found[column] = type_
    return found


def timeout(value: str) -> float:
    """The seconds of a duration above 0."""
    seconds = duration(value).total_seconds()
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"must be longer than 0, not {value}")
    return seconds


def batch_wait(value: str) -> float:
    """The seconds of a duration that a batch handler may wait."""
    seconds = duration(value).total_seconds()
    if not 0 <= seconds <= BATCH_WAIT_MAX:
        raise argparse.ArgumentTypeError(f"must be 0 to {BATCH_WAIT_MAX:g} s, not {value}")
    return seconds


def _predict(args: argparse.Namespace) -> int:
    _require_extra()
    from peers.predict.command import How, predict
    from peers.predict.fleet import Fleet
    from peers.predict.preview import dry_run
    from peers.predict.request import Request

    request = Request(
        model=args.model, method=args.method, input=args.input, query=args.query,
        id_column=args.id_column, output=args.output, run=args.run_name,
        batch_size=args.batch_size, max_attempts=args.max_attempts,
        timeout=args.timeout,
        allow_nan=args.allow_nan, concurrency=args.concurrency, overwrite=args.overwrite,
        types=args.types,
    )  # fmt: skip
    if args.dry_run:
        preview = dry_run(request)
        if args.json:
            output.document(preview.as_json())
        else:
            print("\n".join(preview.lines()))
        return 0
    own = None
    if args.workers is not None:
        own = Fleet(args.workers, args.batch_wait)
    elif args.batch_wait is not None:
        output.say("--batch-wait is for --workers: peers that run have PEERS_PREDICT_BATCH_WAIT")
    with located(args) as settings:
        connect = _connecting(settings, args, migrate=settings.embedded)
        summary = predict(connect, settings.url, request, How(own, args.retry_dead))
    if args.json:
        output.document(summary.as_json())
    for line in summary.lines():
        print(line, file=sys.stderr if args.json else sys.stdout)
    if summary.state == "done" and args.max_dead is not None and summary.dead > args.max_dead:
        output.say(f"{summary.dead:,} rows are dead, more than --max-dead {args.max_dead:,}")
        return 1
    return 0 if summary.state == "done" else 1


def _status(args: argparse.Namespace) -> int:
    _require_extra()
    from peers.predict.command import status

    with located(args) as settings:
        connect = _connecting(settings, args, migrate=settings.embedded)
        summary = status(connect, args.name, wait=args.watch)
    if args.json:
        output.document(summary.as_json())
    else:
        print("\n".join(summary.lines()))
    return 0


def _connecting(
    settings: Settings, args: argparse.Namespace, *, migrate: bool
) -> Callable[[], AbstractContextManager[Connection]]:
    """What opens connections to a database whose schema fits, each in autocommit."""
    with connection_to(settings, args) as connection:
        if migrate:
            schema.migrate(connection)
        schema.require(connection)

    @contextmanager
    def connect() -> Iterator[Connection]:
        with connection_to(settings, args, pooled=False) as connection:
            connection.autocommit = True
            yield connection

    return connect


def _require_extra() -> None:
    try:
        import pyarrow as _  # noqa: F401
    except ImportError as error:
        raise PeersError(
            f"predictions need more than the core of Peers ({error})",
            "Install the extra: pip install 'peers[predict]'.",
        ) from error
