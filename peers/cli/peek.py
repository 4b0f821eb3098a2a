"""`peers peek`: show what the handler of a running task does."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from peers.cli import output
from peers.cli.argument_types import duration, positive, task_id
from peers.cli.database import connected, perform
from peers.cli.parser import add_command, advice
from peers.client.peek import PEEK_TIMEOUT, Peek, ask
from peers.errors import NotRunning, PeersError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from datetime import timedelta

    from peers.cli.parser import Commands

_EVERY: Final = 1.0


def register(commands: Commands) -> None:
    """Declare `peek`."""
    peek = add_command(
        commands,
        "peek",
        _peek,
        "show the stack, memory and CPU of a running handler, without stopping it",
        reads=True,
        example=["peers peek 42", "peers peek 42 --repeat 20 --every 500ms"],
    )
    peek.add_argument("id", type=task_id, metavar="ID", help="id of a running task")
    peek.add_argument(
        "--repeat",
        type=positive,
        default=1,
        metavar="N",
        help="look N times, and count where the handler was (default: 1)",
    )
    peek.add_argument(
        "--every",
        type=duration,
        metavar="DURATION",
        help=f"time between two looks (default: {_EVERY:g}s)",
    )
    peek.add_argument(
        "--timeout",
        type=duration,
        metavar="DURATION",
        help=f"how long to wait for the peer's reply (default: {PEEK_TIMEOUT:g}s)",
    )


def _peek(args: argparse.Namespace) -> int:
    every = _EVERY if args.every is None else args.every.total_seconds()
    seen: list[Peek] = []
    with connected(args) as connection:
        for number in range(args.repeat):
            if number:
                time.sleep(every)
            try:
                seen.append(_ask(lambda request: perform(connection, request), args))
            except NotRunning:
                if not seen:
                    raise
                break
            if seen[-1].phase == "ended":
                break
    if args.json:
        output.document(_document(args, seen))
    else:
        _print(args, seen)
    return 0


def _ask(perform_: Callable[[Any], Any], args: argparse.Namespace) -> Peek:
    """Ask once. A peer that does not reply is an error with a remedy."""
    timeout: timedelta | None = args.timeout
    try:
        return ask(perform_, args.id, timeout)
    except TimeoutError as error:
        raise PeersError(
            str(error),
            f"`{advice(args, 'status')}` lists the peers; `{advice(args, f'explain {args.id}')}` "
            "says where the task runs.",
        ) from error


def _document(args: argparse.Namespace, seen: list[Peek]) -> dict[str, Any]:
    last = seen[-1]
    document = {
        "task_id": args.id,
        "phase": last.phase,
        **last.facts,
        "report": last.report,
    }
    if args.repeat > 1:
        document["samples"] = [
            {"innermost": frame, "count": count} for frame, count in _counted(seen)
        ]
    return document


def _print(args: argparse.Namespace, seen: list[Peek]) -> None:
    print(output.readable(seen[-1].report))
    if args.repeat > 1:
        print()
        print(f"where the handler was in {output.count(len(seen), 'look')}:")
        for frame, count in _counted(seen):
            print(f"  {count:>4}  {output.one_line(frame)}")
    if seen[-1].phase == "ended":
        hint = advice(args, f"explain {args.id}")
        output.say(f"hint: `{hint}` says what became of the task.")


def _counted(seen: list[Peek]) -> list[tuple[str, int]]:
    frames = Counter(str(peek.facts.get("innermost") or "no stack") for peek in seen)
    return frames.most_common()
