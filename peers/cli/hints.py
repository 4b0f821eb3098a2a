"""Suggest the commands for what `peers.explain` and `peers.explain_schedule` say.

Their sentences name functions of SQL, because they are read in psql, too.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, Final

from peers.cli.parser import advice

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

# A name may contain quotes, so the match ends at the text that follows the name.
_LIMIT: Final = re.compile(
    r'(?:^Ready, but|\bunder|\band) limit "(.+?)"'
    r'(?= is (?:shut|used up|full|locked)\b| for | and limit "|\.)'
)
_DEAD_PARENT: Final = re.compile(r" is dead \(call peers\.retry\((\d+)\)")
_TASK: Final = re.compile(r" is task (\d+)(?: of a backfill)?\. .*peers\.")
_EARLIER_RUN: Final = re.compile(r"If it cannot end by itself, peers\.cancel\((\d+)\)")
_BACKFILL: Final = re.compile(r"Backfill (\d+) is in progress")

_OF_PEERS: Final = " (peers.peer_status lists the peers)"


def without_hints(sentence: str) -> str:
    """Return the sentence without what a hint says in the words of the command line."""
    return sentence.replace(_OF_PEERS, "")


def of_task(
    args: argparse.Namespace, task: dict[str, Any], id: int, sentence: str
) -> Iterator[str]:
    """Yield the commands for a task that `peers.explain` describes with this sentence."""
    state, graph = task["state"].parsed(), task["graph_id"].parsed()
    if state == "dead":
        yield f"`{advice(args, f'dead show {id}')}` has the tracebacks."
        yield _retry_or_discard(args, str(id), "runs it again", "gives it up")
    if state == "blocked" and (parents := _DEAD_PARENT.findall(sentence)):
        what = "the dead parent" if len(parents) == 1 else "the dead parents"
        yield _retry_or_discard(args, " ".join(parents), f"runs {what} again", f"gives {what} up")
    if state == "ready":
        yield from _of_ready(args, task["queue"].parsed(), sentence)
    if state == "running" and "peers.check(" in sentence:
        yield f"`{advice(args, 'check --repair')}` makes the task ready again."
    elif state == "running" and "has expired" not in sentence:
        yield f"`{advice(args, f'peek {id}')}` shows what its handler does."
    if state != "cancelled" and f"peers.resume_graph({graph})" in sentence:
        yield f"`{advice(args, f'graph resume {graph}')}` resumes the graph."


def _of_ready(args: argparse.Namespace, queue: str, sentence: str) -> Iterator[str]:
    for limit in _LIMIT.findall(sentence):
        command = advice(args, f"limit show {shlex.quote(limit)}")
        yield f"`{command}` shows what runs and waits under the limit."
    if "peers.resume(" in sentence:
        yield f"`{advice(args, f'resume {shlex.quote(queue)}')}` resumes the queue."
    if _OF_PEERS in sentence:
        yield f"`{advice(args, 'status')}` lists the peers."


def _retry_or_discard(args: argparse.Namespace, ids: str, retried: str, discarded: str) -> str:
    retry, discard = (advice(args, f"dead {verb} {ids}") for verb in ("retry", "discard"))
    return f"`{retry}` {retried}, `{discard}` {discarded}."


def of_schedule(args: argparse.Namespace, sentence: str) -> Iterator[str]:
    """Yield the commands for a schedule that `peers.explain_schedule` describes like this."""
    if "peers.resume_schedule(" in sentence:
        command = advice(args, f"schedule resume {shlex.quote(args.name)}")
        yield f"`{command}` resumes the schedule."
    if found := _TASK.search(sentence):
        yield f"`{advice(args, f'explain {found[1]}')}` says what to do about the task."
    if found := _EARLIER_RUN.search(sentence):
        yield f"`{advice(args, f'cancel {found[1]}')}` cancels that run."
    for number in _BACKFILL.findall(sentence):
        yield f"`{advice(args, f'schedule cancel-backfill {number}')}` ends the backfill."
