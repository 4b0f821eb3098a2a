"""The options of `peers predict`, and the types of their arguments."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peers.cli.argument_types import duration, name, positive, text
from peers.types import BATCH_WAIT_MAX

if TYPE_CHECKING:
    from peers.cli.parser import Parser
    from peers.predict.inputs import TextOptions

TYPE_NAMES: Final = (
    "text", "integer", "number", "boolean", "category", "timestamp", "date", "json",
)  # fmt: skip


def add_options(parser: Parser) -> None:
    """Declare the options of a run."""
    _add_model(parser.add_argument_group("model"))
    _add_endpoint(parser.add_argument_group("model behind an HTTP endpoint"))
    _add_input(parser.add_argument_group("input"))
    _add_text(parser.add_argument_group("format of a text input, as for pandas.read_csv"))
    _add_output(parser.add_argument_group("output"))
    _add_run(parser.add_argument_group("run"))


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", type=text, required=True, metavar="FILE|MODULE:CALLABLE|URL",
        help="*.onnx, scikit-learn's *.joblib, a Python callable, or an HTTP endpoint")  # fmt: skip
    add("--method", type=text, metavar="NAME", help="method to call, such as predict_proba")
    add("--batch-size", type=positive, metavar="ROWS",
        help="most rows in one call (default: as many as take about 50 ms; 256 for an "
        "endpoint)")  # fmt: skip
    add("--timeout", type=timeout, metavar="DURATION", help="stop a call that takes longer")
    add("--allow-nan", action="store_true",
        help="pass missing values to a callable, an endpoint or an ONNX model, which do not say "
        "whether they accept them")  # fmt: skip


def _add_endpoint(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--protocol", choices=("v1", "mlflow", "v2", "openai"),
        help="protocol of the endpoint (default: by its URL)")  # fmt: skip
    add("--concurrency", type=positive, metavar="N", help="most requests at once, over all peers")
    add("--header", type=text, action="append", default=[], metavar="'NAME: VALUE'",
        help="header of each request; not for secrets")  # fmt: skip
    for flag, metavar, what in (
        ("--token-file", "FILE", "file with a bearer token"),
        ("--token-env", "NAME", "environment variable with a bearer token"),
        ("--token-credential", "NAME", "systemd credential with a bearer token"),
        ("--header-file", "FILE", "file with secret headers, one 'Name: value' a line"),
    ):
        add(flag, type=text, metavar=metavar, help=f"{what}; each worker reads it")


def _add_input(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--input", type=text, required=True, metavar="FILE|URL",
        help="*.parquet, *.csv, *.tsv, *.jsonl or *.json (text also .gz, .bz2, .xz or .zst), or "
        "the URL of a Postgres for --query")  # fmt: skip
    add("--query", type=text, metavar="SQL", help="query that selects the rows from that Postgres")
    add("--types", type=types, default={}, metavar="COLUMN=TYPE,…",
        help="types of input columns: text, integer, number, boolean, category, timestamp, date or "
        "json (default: as the model was fitted, otherwise by the input's schema or "
        "pandas.read_csv)")  # fmt: skip
    add("--id-column", type=text, metavar="COLUMN",
        help="column that identifies a row; it is written to the output and not passed to the "
        "model")  # fmt: skip


def _add_text(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--csv-separator", metavar="CHAR",
        help="separator of fields (default: comma; for *.tsv: tab)")  # fmt: skip
    add("--csv-quote", default='"', metavar="CHAR",
        help='quote around fields that contain separators (default: ")')  # fmt: skip
    add("--csv-decimal", default=".", metavar="CHAR", help="decimal point (default: .)")
    add("--csv-thousands", metavar="CHAR", help="thousands separator (default: none)")
    add("--encoding", type=text, metavar="NAME",
        help="such as latin-1 (default: by byte order mark, or UTF-8)")  # fmt: skip
    add("--na-values", default="", metavar="A,B,…",
        help="more texts of a CSV that mean a missing value, beside those of pandas")  # fmt: skip
    add("--no-default-na", action="store_true",
        help="read NA, NULL, None and the like as texts")  # fmt: skip


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--output", type=Path, required=True, metavar="FILE",
        help="*.parquet, *.csv or *.jsonl, on a path that all peers share")  # fmt: skip
    add("--columns", type=listed, default=(), metavar="NAME,…",
        help="columns of the model's result to write (default: all)")  # fmt: skip
    add("--carry", type=listed, default=(), metavar="NAME,…",
        help="columns of the input to copy into the output")  # fmt: skip
    add("--overwrite", action="store_true", help="replace an output with other contents")


def _add_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--run", dest="run_name", type=name, metavar="NAME", help="name of the run")
    add("--dry-run", action="store_true",
        help="print the types of the columns and the first rows as the model gets them, and "
        "submit nothing")  # fmt: skip
    add("--workers", type=positive, metavar="N",
        help="start a peer with N workers for the time of the run")  # fmt: skip
    add("--batch-wait", type=batch_wait, metavar="DURATION",
        help="how long single rows wait for others to share one call (for --workers; other peers "
        "use PEERS_PREDICT_BATCH_WAIT)")  # fmt: skip
    add("--max-attempts", type=positive, default=3, metavar="N",
        help="attempts for a row that fails alone (default: 3)")  # fmt: skip
    add("--retry-dead", action="store_true", help="first retry the rows that are dead")
    add("--max-dead", type=dead_limit, default="0", metavar="N|SHARE%",
        help="exit with code 5 if more rows than this are dead, such as 5 or 0.1%% "
        "(default: 0)")  # fmt: skip
    add("--stop-after-dead", type=dead_limit, metavar="N|SHARE%",
        help="stop the run when more rows than this are dead; a share is of the rows tried so "
        "far, from 1,000 on (default: 50%%, but never within --max-dead; 100%%: never "
        "stop)")  # fmt: skip


def text_options(args: argparse.Namespace) -> TextOptions:
    """Return the options for the format of a text input."""
    from peers.predict.inputs import TextOptions

    return TextOptions(
        separator=args.csv_separator, quote=args.csv_quote, decimal=args.csv_decimal,
        thousands=args.csv_thousands, encoding=args.encoding,
        na_values=tuple(args.na_values.split(",")) if args.na_values else (),
        default_na=not args.no_default_na,
    )  # fmt: skip


def dead_limit(value: str) -> str:
    """Return a number or share of rows, as text."""
    from peers.predict.dead_limit import DeadLimit

    try:
        return DeadLimit(value).text
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def listed(value: str) -> tuple[str, ...]:
    """Return names separated by commas; a name that contains a comma is quoted as in CSV."""
    (names,) = csv.reader([value])
    if not all(names):
        raise argparse.ArgumentTypeError(f'must be names separated by commas, not "{value}"')
    return tuple(dict.fromkeys(names))


def types(value: str) -> dict[str, str]:
    """Return types by column; a column whose name contains a comma or = cannot be named."""
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
    """Return the seconds of a duration above 0."""
    seconds = duration(value).total_seconds()
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"must be longer than 0, not {value}")
    return seconds


def batch_wait(value: str) -> float:
    """Return the seconds of a duration that a batch handler may wait."""
    seconds = duration(value).total_seconds()
    if not 0 <= seconds <= BATCH_WAIT_MAX:
        raise argparse.ArgumentTypeError(f"must be 0 to {BATCH_WAIT_MAX:g} s, not {value}")
    return seconds
