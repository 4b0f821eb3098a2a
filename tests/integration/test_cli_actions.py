"""`peers actions` and `peers prune`: what they print."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import pytest

from peers.cli import bulk
from tests.support.cli import Here
from tests.support.world import Peer, advance, run, submit, value

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Connection


@pytest.fixture
def here(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """Run commands on the test's database, in a wide terminal."""
    command = Here(database_url, monkeypatch, capsys)
    monkeypatch.setenv("COLUMNS", "200")
    return command


def test_actions_are_listed_newest_first(here: Here, db: Connection) -> None:
    """Who, what, how many and why; as JSON with everything that is known."""
    found = here("actions")
    assert (found.code, found.out, found.err) == (0, "", "no actions\n")
    submit(db)
    run(db, "select * from peers.cancel_tasks('{\"kind\": \"a\"}', reason => 'by mistake')")
    assert here("pause", "media", "--reason", "disk full").code == 0
    lines = here("actions").out.splitlines()
    assert lines[0].split() == [
        "AT", "(UTC)", "WHO", "VERB", "TARGET", "TASKS", "CHILDREN", "REASON",
    ]  # fmt: skip
    assert "(peers pause)" in lines[1]
    assert " pause " in lines[1]
    assert "queue=media" in lines[1]
    assert lines[1].endswith("disk full")
    assert "kind=a" in lines[2]
    assert lines[2].split()[-4:] == ["1", "0", "by", "mistake"]
    document = here("actions", "--json").document["actions"]
    assert [each["verb"] for each in document] == ["pause", "cancel_tasks"]
    assert document[1]["task_ids"] == [1]


def test_actions_are_filtered(here: Here, db: Connection) -> None:
    """By age, by verb, and by number."""
    run(db, "select peers.pause('old')")
    advance(db, "3 hours")
    run(db, "select peers.pause('new'), peers.resume('new')")
    assert len(here("actions", "--json", "--since", "1h").document["actions"]) == 2
    assert len(here("actions", "--json", "--verb", "pause").document["actions"]) == 2
    unknown = here("actions", "--verb", "puase")
    assert unknown.err == 'no action has the verb "puase"; the verbs are: pause, resume\n'
    assert here("actions", "--verb", "pause", "--since", "0s").err == "no actions\n"
    limited = here("actions", "--limit", "1")
    assert len(limited.out.splitlines()) == 2
    assert "--limit shows more" in limited.err


def test_prune_says_what_it_deletes(here: Here, db: Connection) -> None:
    """A dry run says the same and deletes nothing."""
    peer = Peer.join(db)
    dead = submit(db)
    peer.fail(*peer.claim(), reject=True)
    submit(db, depends_on=[dead])
    submit(db)
    peer.complete(*peer.claim())
    words = ("prune", "--keep-completed", "0s", "--keep-dead", "0s")
    assert here(*words, "--dry-run").out == (
        "would delete 1 dead letter (and cancel 1 task that waits for them) and 1 task\n"
    )
    assert value(db, "select count(*) from peers.task") == 3
    found = here(*words, "--reason", "new start")
    assert found.out.startswith("deleted 1 dead letter (and cancel")
    assert value(db, "select count(*) from peers.action where reason = 'new start'") == 2


def test_graph_commands_have_a_dry_run(here: Here, db: Connection) -> None:
    """They say what they would do."""
    graph = value(db, "insert into peers.graph (name) values ('g') returning id")
    submit(db, graph_id=graph)
    assert here("graph", "cancel", "g", "--dry-run").out == f"graph {graph}: would cancel 1 task\n"
    assert here("graph", "retry", "g", "--dry-run").out == f"graph {graph}: would retry 0 tasks\n"
    assert here("graph", "cancel", "g", "--reason", "x").out == (
        f"graph {graph}: 1 task cancelled or asked to stop\n"
    )


def test_what_is_left_out_is_said(
    here: Here, db: Connection, connect: Callable[[], Connection]
) -> None:
    """A task that another session has locked stays; the command says so on stderr."""
    locked = submit(db)
    other = connect()
    with other.transaction():
        run(other, "select from peers.task where id = %s for share", locked)
        found = here("cancel", "--kind", "a")
    assert found.out == "cancelled 0 tasks\n"
    assert found.err.splitlines()[:2] == [
        "1 task is left out: other sessions have locked or have just changed it",
        "hint: Call it again to act on the rest.",
    ]


@pytest.mark.parametrize("words", [(), ("1", "--kind", "a"), ("1", "--all")])
def test_ids_and_filters_exclude_each_other(here: Here, words: tuple[str, ...]) -> None:
    """With the remedy."""
    with pytest.raises(SystemExit) as refused:
        here("cancel", *words)
    assert refused.value.code == 2


def test_many_ids_are_shortened(here: Here, db: Connection) -> None:
    """A batch has a thousand; the table keeps the first ten and the number of the others."""
    run(db, "insert into peers.task (kind) select 'a' from generate_series(1, 1000)")
    assert here("cancel", "--kind", "a").out == "cancelled 1,000 tasks\n"
    found = here("actions")
    assert "ids=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]" in found.out
    assert "more_ids=990" in found.out
    [action] = here("actions", "--json").document["actions"]
    assert action["target"]["ids"] == list(range(1, 11))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("verb", ["cancel", "dead retry", "dead discard"])
def test_a_dry_run_of_several_batches_counts_as_the_run(
    here: Here, db: Connection, monkeypatch: pytest.MonkeyPatch, verb: str, seed: int
) -> None:
    """Also where a batch cancels tasks of a later one, because they wait for its tasks."""
    chance = random.Random(seed)
    monkeypatch.setattr(bulk, "BATCH", 2)
    peer = Peer.join(db)
    ids: list[int] = []
    for number in range(14):
        parents = chance.sample(ids, min(len(ids), chance.randint(0, 2)))
        ids.append(submit(db, kind=chance.choice("aab"), depends_on=parents))
        if number == 4:
            peer.fail(*peer.claim(), reject=True)
    filters = ["--kind", "a"] if verb == "cancel" or seed % 2 else ["--all"]
    before = here(*verb.split(), *filters, "--dry-run").out.splitlines()[0]
    after = here(*verb.split(), *filters).out.rstrip()
    said = re.sub(r"^would (\w+?)e?l? ", "", re.sub(r" \([0-9, …]*\)", "", before))
    assert said == after.split(" ", 1)[1], (before, after)


def test_it_says_how_many_handlers_are_being_stopped(here: Here, db: Connection) -> None:
    """And says nothing of handlers where none runs."""
    peer = Peer.join(db)
    submit(db)
    submit(db)
    [_claim] = peer.claim(1)
    submit(db, kind="b", depends_on=[submit(db, kind="b")])
    assert here("cancel", "--kind", "b").err == ""
    found = here("cancel", "--kind", "a")
    assert found.out == "cancelled 2 tasks\n"
    assert found.err == "1 handler is being stopped: the tasks stay running until then.\n"


def test_a_dry_run_of_prune_counts_runs_of_schedules(here: Here, db: Connection) -> None:
    """Those that are deleted: not those of unfinished tasks, and not young ones."""
    run(db, "insert into peers.schedule (name, every, kind) values ('s', '1 hour', 'a')")
    run(
        db,
        """
        insert into peers.schedule_run (schedule, due_at, outcome, recorded_at, task_id)
        select 's', now() - n * interval '1 day', 'fired', now() - n * interval '1 day', t.id
        from generate_series(1, 9) n
        left join lateral (select peers.submit('a') as id where n = 7) t on true""",
    )
    would = here("prune", "--keep-completed", "3d", "--dry-run").out
    assert would == "would delete 0 tasks and 6 runs of schedules\n"
    assert here("prune", "--keep-completed", "3d").out == would.replace("would delete", "deleted")


def test_a_time_long_ago_and_a_date_without_dashes(here: Here, db: Connection) -> None:
    """More than there was time is all; 20200101 is a date, not a number of seconds."""
    submit(db)
    for words in (["tasks"], ["dead", "list"], ["actions"]):
        found = here(*words, "--since", "99999999d")
        assert (found.code, "Traceback" in found.err) == (0, False)
    assert len(here("tasks", "--since", "99999999d", "--json").document["tasks"]) == 1
    assert len(here("tasks", "--since", "20200101", "--json").document["tasks"]) == 1
    assert len(here("tasks", "--until", "20200101", "--json").document["tasks"]) == 0


def test_prune_says_that_another_session_prunes(
    here: Here, db: Connection, connect: Callable[[], Connection]
) -> None:
    """With "deleted 0 tasks" one would take it that there is nothing to delete."""
    run(db, "select peers.cancel(%s)", submit(db))
    other = connect()
    with other.transaction():
        run(other, "select * from peers.apply_retention('1 day', null)")
        found = here("prune", "--keep-completed", "0s")
        assert (found.code, found.out) == (1, "")
        assert "another session has been pruning" in found.err
        assert "Call it again" in found.err
    assert here("prune", "--keep-completed", "0s").out == "deleted 1 task\n"
