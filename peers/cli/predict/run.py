"""`peers predict --model … --input … --output …`: start a run, or go on with it."""

from __future__ import annotations

import argparse
import csv
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peers.cli import output
from peers.cli.parser import add_command, duration, name, positive, text
from peers.cli.place import located
from peers.cli.predict.extra import require_extra
from peers.types import BATCH_WAIT_MAX

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from peers.cli.parser import Commands
    from peers.database.connection import Connection
    from peers.predict.inputs import TextOptions
    from peers.predict.run.own_peer import OwnPeer
    from peers.predict.run.request import Request
    from peers.predict.run.summary import Summary
    from peers.settings import Settings


TYPE_NAMES: Final = (
    "text", "integer", "number", "boolean", "category", "timestamp", "date", "json",
)  # fmt: skip


def register(commands: Commands) -> None:
    """Declare `predict`."""
    parser = add_command(
        commands, "predict", _predict,
        "batch inference over the peers (see also `peers predict status|list|cancel|clean --help`)",
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
    _declare_endpoint(parser.add_argument_group("a model that is an endpoint"))
    what.add_argument("--method", type=text, metavar="NAME", help="such as predict_proba")
    what.add_argument("--input", type=text, required=True, metavar="FILE|URL",
                      help="*.parquet, *.csv, *.tsv, *.jsonl, *.json (text also .gz, .bz2, .xz, "
                      "or .zst), or a Postgres for --query")  # fmt: skip
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
    what.add_argument("--columns", type=listed, default=(), metavar="NAME,…",
                      help="columns of the model's that the output has (default: all)")  # fmt: skip
    what.add_argument("--carry", type=listed, default=(), metavar="NAME,…",
                      help="columns of the input that the output has, too")  # fmt: skip
    what.add_argument("--run", dest="run_name", type=name, metavar="NAME", help="to find it by")
    _text_options(parser)
    how = parser.add_argument_group("how")
    how.add_argument("--batch-size", type=positive, metavar="ROWS",
                     help="the most rows in a call of the model (default: as many as take about "
                     "50 ms; 256 in a request)")  # fmt: skip
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
    how.add_argument("--max-dead", type=dead_limit, default="0", metavar="N|SHARE%",
                     help="exit code 5 if more rows than this are dead, such as 5 or 0.1%% "
                     "(default: 0)")  # fmt: skip
    how.add_argument("--stop-after-dead", type=dead_limit, metavar="N|SHARE%",
                     help="stop the run once more rows than this are dead; a share is of the rows "
                     "tried so far, from 1,000 on (default: 50%%, but never within --max-dead; "
                     "100%%: never stop)")  # fmt: skip
    how.add_argument("--allow-nan", action="store_true",
                     help="missing values go also to a model that does not say whether it takes "
                     "them: a callable, an endpoint, ONNX")  # fmt: skip
    how.add_argument("--dry-run", action="store_true",
                     help="print the columns' types and the first rows as the model gets them, and "
                     "submit nothing")  # fmt: skip
    how.add_argument("--overwrite", action="store_true", help="replace an output of other contents")
    how.add_argument("--workers", type=positive, metavar="N",
                     help="start a peer with N workers for the time of the run")  # fmt: skip


def _text_options(parser: argparse.ArgumentParser) -> None:
    """Declares what pandas.read_csv has its sep, quotechar, decimal, … for."""
    how = parser.add_argument_group("how an input of text is written, as for pandas.read_csv")
    how.add_argument("--csv-separator", metavar="CHAR",
                     help="between fields, such as tab (default: comma; *.tsv: tab)")  # fmt: skip
    how.add_argument("--csv-quote", default='"', metavar="CHAR",
                     help='around fields that hold separators (default: ")')  # fmt: skip
    how.add_argument("--csv-decimal", default=".", metavar="CHAR",
                     help="in 0,5 (default: a point)")  # fmt: skip
    how.add_argument("--csv-thousands", metavar="CHAR", help="in 1.000.000 (default: none)")
    how.add_argument("--encoding", type=text, metavar="NAME",
                     help="such as latin-1 (default: by byte order mark, or UTF-8)")  # fmt: skip
    how.add_argument("--na-values", default="", metavar="A,B,…",
                     help="texts of a CSV that are gaps, beside pandas' own ones")  # fmt: skip
    how.add_argument("--no-default-na", action="store_true",
                     help="NA, NULL, None and the others of pandas are texts")  # fmt: skip


def _text_of(args: argparse.Namespace) -> TextOptions:
    from peers.predict.inputs import TextOptions

    return TextOptions(
        separator=args.csv_separator, quote=args.csv_quote, decimal=args.csv_decimal,
        thousands=args.csv_thousands, encoding=args.encoding,
        na_values=tuple(args.na_values.split(",")) if args.na_values else (),
        default_na=not args.no_default_na,
    )  # fmt: skip


def _declare_endpoint(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--protocol", choices=("v1", "mlflow", "v2", "openai"),
                       help="how it is asked (default: by its URL)")  # fmt: skip
    group.add_argument("--header", type=text, action="append", default=[], metavar="'NAME: VALUE'",
                       help="sent with each request; not for secrets")  # fmt: skip
    for flag, metavar, what in (
        ("--token-file", "FILE", "a file that holds a bearer token"),
        ("--token-env", "NAME", "an environment variable that holds a bearer token"),
        ("--token-credential", "NAME", "a credential of systemd that holds a bearer token"),
        ("--header-file", "FILE", "a file of lines 'Name: value' that are secret"),
    ):
        group.add_argument(flag, type=text, metavar=metavar, help=f"{what}; each worker reads it")


def dead_limit(value: str) -> str:
    """Return a number of rows, or a share of them, as a text."""
    from peers.predict.dead_limit import DeadLimit

    try:
        return DeadLimit(value).text
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def listed(value: str) -> tuple[str, ...]:
    """Names with commas between them; quoted as in CSV where a name has a comma."""
    (names,) = csv.reader([value])
    if not all(names):
        raise argparse.ArgumentTypeError(f'must be names with commas between them, not "{value}"')
    return tuple(dict.fromkeys(names))


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
    require_extra()
    if args.dry_run:
        return _dry_run(args)
    with ExitStack() as stack:
        settings = stack.enter_context(located(args))
        peer = None
        if args.workers is not None:
            if settings.embedded:  # its schema may have to be brought up to date first
                _connecting(settings, args)
            peer = stack.enter_context(_own_peer(args, settings))
        connect = _connecting(settings, args)
        summary = _summary(args, connect, peer)
    from peers.predict.run.summary import TOO_MANY_DEAD

    if args.json:
        output.document(summary.as_json())
    for line in summary.lines():
        print(line, file=sys.stderr if args.json else sys.stdout)
    if summary.exit_code() == TOO_MANY_DEAD:
        output.say(
            f"{summary.dead:,} rows are dead, more than --max-dead {args.max_dead} allows "
            f"({summary.max_dead:,})"
        )
    return summary.exit_code()


def _connecting(
    settings: Settings, args: argparse.Namespace
) -> Callable[[], AbstractContextManager[Connection]]:
    from peers.cli.predict.database import connecting  # it takes its time to import

    return connecting(settings, args)


def _own_peer(args: argparse.Namespace, settings: Settings) -> AbstractContextManager[OwnPeer]:
    """Start a peer before anything that takes time to import: it does so meanwhile."""
    from peers.predict.run.own_peer import OwnPeerOptions, own_peer
    from peers.settings import join_variables

    worker_env = join_variables(settings.worker_env)
    options = OwnPeerOptions(args.workers, args.model, args.method, args.batch_wait, worker_env)
    return own_peer(settings.url, options)


def _summary(
    args: argparse.Namespace,
    connect: Callable[[], AbstractContextManager[Connection]],
    peer: OwnPeer | None,
) -> Summary:
    from peers.predict.run.command import RunOptions, predict

    if args.workers is None and args.batch_wait is not None:
        output.say("--batch-wait is for --workers: peers that run have PEERS_PREDICT_BATCH_WAIT")
    return predict(connect, _request(args), RunOptions(peer, args.retry_dead))


def _dry_run(args: argparse.Namespace) -> int:
    from peers.predict.run.preview import dry_run

    preview = dry_run(_request(args))
    if args.json:
        output.document(preview.as_json())
    else:
        print("\n".join(preview.lines()))
    return 0


def _request(args: argparse.Namespace) -> Request:
    from peers.predict.models.access import access_of
    from peers.predict.run.request import Request

    return Request(
        model=args.model, method=args.method, input=args.input, query=args.query,
        id_column=args.id_column, output=args.output, run=args.run_name,
        batch_size=args.batch_size, max_attempts=args.max_attempts,
        timeout=args.timeout,
        allow_nan=args.allow_nan, concurrency=args.concurrency, overwrite=args.overwrite,
        text=_text_of(args), types=args.types,
        protocol=args.protocol, access=access_of(
            args.header, args.header_file, args.token_file, args.token_env, args.token_credential
        ),
        columns=args.columns, carry=args.carry,
        max_dead=args.max_dead, stop_after_dead=args.stop_after_dead,
    )  # fmt: skip
