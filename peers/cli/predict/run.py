"""`peers predict --model … --input … --output …`: start a run, or resume it."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from peers.cli import output
from peers.cli.parser import add_command
from peers.cli.place import located
from peers.cli.predict.extra import require_extra
from peers.cli.predict.options import add_options, text_options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from peers.cli.parser import Commands
    from peers.database.connection import Connection
    from peers.predict.run.own_peer import OwnPeer
    from peers.predict.run.request import Request
    from peers.predict.run.summary import Summary
    from peers.settings import Settings


def register(commands: Commands) -> None:
    """Declare `predict`."""
    parser = add_command(
        commands, "predict", _predict,
        "run batch inference (see also `peers predict status|list|cancel|clean --help`)",
        example=(
            "peers predict --model model.joblib --input rows.parquet --output scores.parquet",
            "peers predict --model model.onnx --input 'in/*.csv' --output out.csv --workers 4",
        ),
        reads=True,
    )  # fmt: skip
    add_options(parser)


def _predict(args: argparse.Namespace) -> int:
    require_extra()
    if args.dry_run:
        return _dry_run(args)
    with ExitStack() as stack:
        settings = stack.enter_context(located(args))
        peer = None
        if args.workers is not None:
            if settings.embedded:  # its schema may need a migration first
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
            f"{summary.dead:,} {'row is' if summary.dead == 1 else 'rows are'} dead, more than "
            f"--max-dead {args.max_dead} allows ({summary.max_dead:,})"
        )
    return summary.exit_code()


def _connecting(
    settings: Settings, args: argparse.Namespace
) -> Callable[[], AbstractContextManager[Connection]]:
    from peers.cli.predict.database import connecting  # it is slow to import

    return connecting(settings, args)


def _own_peer(args: argparse.Namespace, settings: Settings) -> AbstractContextManager[OwnPeer]:
    """Start a peer first, so that it imports the app while this process imports the rest."""
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
        output.say("--batch-wait needs --workers: other peers use PEERS_PREDICT_BATCH_WAIT")
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
        text=text_options(args), types=args.types,
        protocol=args.protocol, access=access_of(
            args.header, args.header_file, args.token_file, args.token_env, args.token_credential
        ),
        columns=args.columns, carry=args.carry,
        max_dead=args.max_dead, stop_after_dead=args.stop_after_dead,
    )  # fmt: skip
