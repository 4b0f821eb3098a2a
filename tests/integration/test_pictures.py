"""`peers graph draw`, and pictures that Graphviz draws."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from xml.etree import ElementTree as ET

import pytest

from peers.pictures import dot
from peers.pictures.picture import Picture
from peers.pictures.texts import shortened
from tests.support.cli import Answer, Here, bury, join, submit
from tests.support.pictures import HOSTILE, pictures
from tests.support.server import Connection


@pytest.fixture
def here(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """Run commands on the test's database."""
    return Here(database_url, monkeypatch, capsys)


def done(answer: Answer) -> str:
    """Return the output of a command that has succeeded."""
    assert answer.code == 0, answer
    return answer.out


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
@pytest.mark.parametrize("picture", pictures())
def test_graphviz_draws_it(picture: Picture) -> None:
    """Without a warning, and with the texts as they are."""
    source = "\n".join(dot.lines(picture))
    done = subprocess.run(
        ["dot", "-Tsvg"], input=source.encode(), capture_output=True, check=True, timeout=60
    )
    assert not done.stderr
    texts = "".join(ET.fromstring(done.stdout).itertext())  # our own output
    for node in picture.nodes:
        assert shortened(node.name).replace(" ", "") in re.sub(r"\s", "", texts)


def submit_graph(db: Connection, kinds: list[str]) -> tuple[int, list[int]]:
    """Submit a task of kind a, and a child of it for each of these kinds; return all ids."""
    nodes = [{"name": "root", "kind": "a"}]
    nodes += [{"name": f"n{n}", "kind": kind, "after": ["root"]} for n, kind in enumerate(kinds)]  # type: ignore[dict-item]
    found = db.execute(
        "select task_id, graph_id from peers.submit_graph(%s, name => %s) order by task_id",
        (json.dumps(nodes), 'the "first"'),
    ).fetchall()
    return found[0]["graph_id"], [row["task_id"] for row in found]


def test_a_graph_is_drawn_in_each_form(here: Here, db: Connection) -> None:
    """`peers graph 42` is the short form of `peers graph draw 42`; a name works, too."""
    graph, ids = submit_graph(db, ["b"] * 100)
    bury(db, join(db, "a"))
    tree = done(here("graph", str(graph)))
    assert tree.splitlines() == [
        f'graph {graph}, the "first": 101 tasks, 100 held, 1 dead',
        f"a  dead  (task {ids[0]})",
        f"`- 100 x b  100 held  (tasks {ids[1]}, {ids[2]}, {ids[3]}, ...)",
    ] or tree.splitlines()[2].startswith("└─ 100 ")
    assert f"dead show {ids[0]}" in here("graph", str(graph)).err
    assert done(here("graph", "draw", 'the "first"')) == tree
    assert done(here("graph", str(graph), "--mermaid")).startswith("flowchart LR\n")
    assert done(here("graph", str(graph), "--dot")).startswith("digraph peers {\n")
    ET.fromstring(done(here("graph", str(graph), "--svg")))  # our own output
    document = json.loads(done(here("graph", str(graph), "--json")))
    assert document["states"] == {"dead": 1, "held": 100}
    assert [node["tasks"] for node in document["nodes"]] == [1, 100]
    assert document["edges"] == [
        {"parent": 0, "child": 1, "on_parent_failure": "hold", "edges": 100}
    ]
    assert len(json.loads(done(here("graph", str(graph), "--all", "--json")))["nodes"]) == 101
    assert len(json.loads(done(here("graph", str(graph), "--max", "1", "--json")))["nodes"]) == 1


def test_what_is_around_a_task(here: Here, db: Connection) -> None:
    """What it waits for and what waits for it, but not the other children of its parents."""
    first = submit(db, "a")
    parent, sibling = submit(db, "b", (first,)), submit(db, "s", (first,))
    task = submit(db, "c", (parent,))
    child = submit(db, "d", (task, sibling))
    document = json.loads(done(here("graph", "--task", str(task), "--json")))
    shown = {node["task_ids"][0] for node in document["nodes"]}
    assert shown == {first, parent, task, child}
    assert "> c" in done(here("graph", f"--task={task}"))


def test_tasks_of_another_graph_are_marked(here: Here, db: Connection) -> None:
    """Those that are parents or children of the graph's own tasks."""
    before = submit(db, "before")
    graph, ids = submit_graph(db, ["b"])
    db.execute(
        "insert into peers.dependency (parent_id, child_id) values (%s, %s)", (before, ids[0])
    )
    after = submit(db, "after", (ids[1],))
    out = done(here("graph", str(graph)))
    assert f"(task {before}, in another graph)" in out
    assert f"(task {after}, in another graph)" in out


def test_hostile_kinds_come_through_the_database(here: Here, db: Connection) -> None:
    """Every kind that the database takes."""
    kinds = [kind for kind in HOSTILE if kind.isprintable()]
    graph, _ = submit_graph(db, kinds)
    for form in ("--svg", "--dot", "--mermaid"):
        assert len(done(here("graph", str(graph), form)).splitlines()) > len(kinds)


def test_mistakes_are_explained(here: Here) -> None:
    """An unknown id, and neither or both of a graph and a task."""
    answer = here("graph", "999")
    assert answer.code == 4
    assert "there is no graph 999" in answer.err
    assert "graph --task 999" in answer.err
    assert here("graph", "--task", "999").code == 4
    for words in (["draw"], ["1", "--task", "1"], ["1", "--svg", "--dot"], ["1", "--max", "0"]):
        with pytest.raises(SystemExit) as stopped:
            here("graph", *words)
        assert stopped.value.code == 2
