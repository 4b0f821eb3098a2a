"""Pictures of graphs: how they are folded, and that each form is valid whatever the kinds are."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree as ET

import pytest

from peers.pictures import dot, mermaid, svg, tree
from peers.pictures.fold import MAX_NODES, fold
from peers.pictures.layout import Size, lay_out
from peers.pictures.picture import Picture
from peers.pictures.read import Edge, Task, Tasks
from peers.pictures.texts import cells, shortened, wrapped
from tests.support.pictures import fan, pictures, scattered

# ------------------------------------------------------------------------------------------ folding


def test_a_fan_of_alike_children_is_one_node() -> None:
    """Also their own children, level by level; and what is dead is named."""
    picture = fold(fan(), "graph 42, thumbs", MAX_NODES)
    assert [node.name.replace("\u00d7", "x") for node in picture.nodes] == [
        "shop.list", "10,000 x thumbs.make", "10,000 x thumbs.upload", "shop.report",
    ]  # fmt: skip
    make, upload, report = picture.nodes[1:]
    assert make.states_in_words == "9,950 completed, 48 running, 2 dead"
    assert make.note == "dead: 2, 3"
    assert make.state == "dead"
    assert upload.states == {"completed": 9950, "blocked": 48, "held": 2}
    assert report.state == "held"
    assert [(link.parent, link.child, link.edges) for link in picture.links] == [
        (0, 1, 10_000), (1, 2, 10_000), (2, 3, 10_000),
    ]  # fmt: skip


def test_small_graphs_are_not_folded() -> None:
    """Nor large ones with no limit."""
    assert len(fold(fan(20), "g", MAX_NODES).nodes) == 42
    assert len(fold(fan(1000), "g", None).nodes) == 2002


def test_a_long_row_is_one_node() -> None:
    """Tasks of a kind that follow each other."""
    row = Tasks(
        [Task(n, "step", "completed" if n < 900 else "blocked") for n in range(1, 1001)],
        [Edge(n, n + 1, "hold") for n in range(1, 1000)],
    )
    [node] = fold(row, "g", MAX_NODES).nodes
    assert node.note == "tasks 1, 2, 3, …, one after the other"


def test_the_task_that_was_asked_for_stays_apart() -> None:
    """It is one of 10,000 alike ones."""
    picture = fold(fan(), "g", MAX_NODES, focus=77)
    [focus] = [node for node in picture.nodes if node.is_focus]
    assert focus.ids == [77]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("most", [1, 7, 40, None])
def test_every_task_and_edge_is_in_the_picture_once(seed: int, most: int | None) -> None:
    """Within the limit; no dead one is hidden; parents come before children."""
    found = scattered(seed)
    picture = fold(found, "g", most)
    assert most is None or len(picture.nodes) <= most
    ids = [task for node in picture.nodes for task in node.ids]
    assert sorted(ids) == [task.id for task in found.tasks]
    dead = {task.id for task in found.tasks if task.state == "dead"}
    assert {task for node in picture.nodes for task in node.dead_ids} == dead
    assert all(node.state == "dead" for node in picture.nodes if node.dead_ids)
    node_of = {task: number for number, node in enumerate(picture.nodes) for task in node.ids}
    between = Counter(
        (node_of[edge.parent], node_of[edge.child], edge.policy)
        for edge in found.edges
        if node_of[edge.parent] != node_of[edge.child]
    )
    assert {(link.parent, link.child, link.policy): link.edges for link in picture.links} == between
    ends = [(link.parent, link.child) for link in picture.links]
    layout = lay_out([Size(10, 10)] * len(picture.nodes), ends)
    for link in picture.links:
        assert layout.corners[link.parent].x < layout.corners[link.child].x


def test_only_what_waits_for_a_dead_task_is_held() -> None:
    """A waived edge and another policy hold nothing; a held parent holds its children."""
    tasks = [Task(1, "a", "dead"), *(Task(n, "b", "blocked") for n in range(2, 7))]
    edges = [
        Edge(1, 2, "hold"), Edge(2, 3, "run"), Edge(1, 4, "run"), Edge(1, 5, "hold", waived=True),
    ]  # fmt: skip
    picture = fold(Tasks(tasks, edges), "g", None)
    assert {node.ids[0]: node.state for node in picture.nodes} == {
        1: "dead", 2: "held", 3: "held", 4: "blocked", 5: "blocked", 6: "blocked",
    }  # fmt: skip


# -------------------------------------------------------------------------------------- each form


MERMAID_LABEL = r'"(?:[^"#&<>`*\\%{}|~$\n]|\#\w+;|<br/>)+"'
MERMAID_LINE = re.compile(
    rf"""flowchart\ LR
    |\ \ %%\ [^{{}}%\n]*
    |\ \ n\d+(?:\[{MERMAID_LABEL}\]|\{{\{{{MERMAID_LABEL}\}}\}}|\(\[{MERMAID_LABEL}\]\)
        |\[/{MERMAID_LABEL}/\]|\[\\{MERMAID_LABEL}\\\]):::\w+
    |\ \ n\d+\ (?:-->|-->\|cancel\||-\.->\|run\|)\ n\d+
    |\ \ classDef\ \w+\ [-\w\#:,]+""",
    re.VERBOSE,
)


@pytest.mark.parametrize("picture", pictures())
def test_mermaid_has_only_lines_that_its_grammar_allows(picture: Picture) -> None:
    """No character of a kind is interpreted: each is a letter of a label, or an entity."""
    for line in mermaid.lines(picture):
        assert MERMAID_LINE.fullmatch(line), line


DOT_STRING = r'"(?:[^"\\\n]|\\\\|\\"|\\n)*"'
DOT_LINE = re.compile(
    rf"""digraph\ peers\ \{{|\}}
    |\ \ (?:graph|node|edge|n\d+|n\d+\ ->\ n\d+)\ \[\w+=(?:\w+|{DOT_STRING})
        (?:,\ \w+=(?:\w+|{DOT_STRING}))*\];""",
    re.VERBOSE,
)


@pytest.mark.parametrize("picture", pictures())
def test_dot_has_only_lines_that_its_grammar_allows(picture: Picture) -> None:
    """Backslashes and quotes are escaped, and entities are not interpreted."""
    for line in dot.lines(picture):
        assert DOT_LINE.fullmatch(line), line
        assert not re.search(r"&(?!amp;)", line)


@pytest.mark.parametrize("picture", pictures())
def test_svg_is_xml_whose_texts_fit_into_their_boxes(picture: Picture) -> None:
    """Boxes do not overlap, nothing is outside, and all has a tooltip."""
    root = ET.fromstring("\n".join(svg.lines(picture)))  # our own output
    space = "{http://www.w3.org/2000/svg}"
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = []
    drawing = root.find(f"./{space}g[last()]")
    assert drawing is not None
    left, top = _shift(drawing)
    for group in drawing.findall(f"{space}g"):
        x, y = _shift(group)
        box = group.find(f"{space}rect[@stroke-width]")
        assert box is not None
        w, h = float(box.attrib["width"]), float(box.attrib["height"])
        boxes.append((x, y, w, h))
        assert group.find(f"{space}title") is not None
        for text in group.findall(f"{space}text"):
            size = float(text.attrib["font-size"])
            assert float(text.attrib["x"]) + cells(text.text or "") * size * 0.602 <= w - 8
            assert float(text.attrib["y"]) <= h
        assert x + left >= 0
        assert x + left + w <= width
        assert y + top + h <= height
    assert len(boxes) == len(picture.nodes)
    for number, (x, y, w, h) in enumerate(boxes):
        for other_x, other_y, other_w, other_h in boxes[number + 1 :]:
            apart = x + w < other_x or other_x + other_w < x
            assert apart or y + h < other_y or other_y + other_h < y
    for state in picture.states:
        assert f">{state}</text>" in "\n".join(svg.lines(picture))


def _shift(group: ET.Element) -> tuple[float, float]:
    x, y = re.findall(r"-?[\d.]+", group.attrib["transform"])
    return float(x), float(y)


def test_the_tree_shows_each_node_once() -> None:
    """And refers to it at its other parents."""
    found = Tasks(
        [Task(n, kind, "blocked") for n, kind in enumerate("abcd", 1)],
        [Edge(1, 2, "hold"), Edge(1, 3, "run"), Edge(2, 4, "hold"), Edge(3, 4, "cancel")],
    )
    lines = list(tree.lines(fold(found, "graph 1, g", None), ascii_only=True))
    assert lines == [
        "graph 1, g: 4 tasks, 4 blocked",
        "a  blocked  (task 1)",
        "|- b  blocked  (task 2)",
        "|  `- [4] d: see below",
        "`- (run) c  blocked  (task 3)",
        "   `- (cancel) [4] d  blocked  (task 4)",
    ]


@pytest.mark.parametrize("picture", pictures())
def test_the_tree_has_every_node_and_no_control_characters(picture: Picture) -> None:
    """So that a kind cannot change the colours of a terminal."""
    lines = list(tree.lines(picture))
    assert sum("(" in line for line in lines) >= len(picture.nodes)
    assert all(line.isprintable() for line in lines)


def test_texts_are_shortened_in_the_middle_and_wrapped_at_commas() -> None:
    """Wide letters take two cells."""
    assert shortened("a" * 10 + "b" * 10, 9) == "aaaa…bbbb"
    assert cells(shortened("\u65e5" * 100, 40)) <= 40
    assert wrapped("10 completed, 20 running, 3 dead", 26) == [
        "10 completed, 20 running,",
        "3 dead",
    ]
