"""Runs against endpoints: who waits holds nobody up, and nothing secret is left anywhere."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from psycopg import sql

from tests.e2e.harness import Stage
from tests.predict.endpoint import Endpoint, Reply, RequestedColumns, double
from tests.predict.runs import APP, MODELS, numbers, predict, results, start

# of this run of the tests alone: the arguments of all processes of the machine are searched
SECRET = f"tok-{uuid4().hex}"
OTHER_SECRET = f"key-{uuid4().hex}"
SNOOZED = (
    "select count(*) > 0 from peers.task where kind = 'peers.predict.remote'"
    " and state = 'scheduled' and stopped_because like '%%snoozed%%'"
)


def words_for(model: str, source: Path, output: Path, *more: object) -> list[Any]:
    """A command without a peer of its own."""
    return ["--model", model, "--input", source, "--output", output, "--id-column", "id", *more]


@pytest.mark.parametrize("trouble", ["away", "busy"])
def test_a_run_whose_endpoint_is_away_holds_no_slot(
    stage: Stage, endpoint: Endpoint, trouble: str, tmp_path: Path
) -> None:
    """Another run on the peer's only slot is done meanwhile; when the endpoint is back the first
    one ends as well, with no attempt used up.
    """
    (tmp_path / "other").mkdir()
    waiting, other = tmp_path / "waiting.parquet", tmp_path / "other.parquet"
    source = numbers(tmp_path, rows=300)
    if trouble == "away":
        endpoint.respond = lambda _: (503, {}, {"why": "nobody is here"})
    else:
        endpoint.respond = lambda _: (429, {"retry-after": "3000"}, {})
    stage.peer(APP, "predict=1", predict_trust=MODELS, poll_interval="50ms")
    words = words_for(endpoint.url, source, waiting, "--batch-size", 50, "--concurrency", 4)
    with start(stage, *words) as command:
        stage.until_true(SNOOZED)
        beside = numbers(tmp_path / "other", rows=100)
        predict(stage, *words_for(f"{MODELS}:double", beside, other))
        assert results(other) == [(row, row * 2.0) for row in range(100)]
        assert stage.row("select count(*) from peers.task where state = 'dead'")["count"] == 0
        endpoint.respond = double
        stage.db.execute("select peers.end_cooldown(name) from peers.cooldown")
        stage.db.execute(
            "select peers.change(id, scheduled_at => peers.now()) from peers.task"
            " where state = 'scheduled'"
        )
        out, said = command.communicate(timeout=100)
    assert command.returncode == 0, said
    assert json.loads(out)["retries"] == 0
    assert results(waiting) == [(row, row * 2.0) for row in range(300)]
    assert stage.rows("select * from peers.failure") == []
    assert stage.row("select max(attempt) from peers.task")["max"] == 1


def test_a_busy_endpoint_shuts_the_limit_of_its_name(
    stage: Stage, endpoint: Endpoint, tmp_path: Path
) -> None:
    """Its `Retry-After` says for how long: no task takes a slot meanwhile. The limit learns."""
    endpoint.respond = lambda _: (429, {"retry-after": "3000"}, {})
    stage.db.execute(
        "insert into peers.limit (name, kind, max_running, learns)"
        " values (%s, 'peers.predict.remote', 4, true)",
        [endpoint.url],
    )
    stage.peer(APP, "predict=4", predict_trust=MODELS, poll_interval="50ms")
    source, output = numbers(tmp_path, rows=300), tmp_path / "out.parquet"
    words = words_for(endpoint.url, source, output, "--batch-size", 50, "--concurrency", 4)
    with start(stage, *words) as command:
        stage.until_true("select shut_until > now() + interval '40 minutes' from peers.limit")
        stage.until_true("select count(*) = 0 from peers.task where state = 'running'")
        assert stage.rows("select * from peers.cooldown") == []
        assert stage.row("select learned from peers.limit")["learned"] == 2
        asked = endpoint.requests
        stage.db.execute(
            "select peers.change(id, scheduled_at => peers.now()) from peers.task"
            " where state = 'scheduled'"
        )
        stage.until_true("select waiting > 0 from peers.limit_status")
        assert endpoint.requests == asked
        endpoint.respond = double
        stage.db.execute("select peers.open_limit(name) from peers.limit")
        out, said = command.communicate(timeout=100)
    assert command.returncode == 0, said
    assert json.loads(out)["retries"] == 0
    assert results(output) == [(row, row * 2.0) for row in range(300)]


def batch_file(folder: Path, rows: int) -> Path:
    """Requests as OpenAI's Batch API takes them; their bodies differ in form."""
    path = folder / "batch.jsonl"
    lines = []
    for row in range(rows):
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": f"{row}"}]}
        if row % 2:
            body["temperature"] = 0.5
        lines.append(
            {"custom_id": f"r-{row}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_batch_file_goes_in_and_a_batch_file_comes_out(
    stage: Stage, endpoint: Endpoint, tmp_path: Path
) -> None:
    """Each request is sent as it is, and answered once, though the endpoint has enough of it in
    the middle; one that is refused is a dead row.
    """
    answered: Counter[str] = Counter()

    def complete(asked: RequestedColumns) -> Reply:
        assert asked.path == "/v1/chat/completions"
        content = asked.body["messages"][0]["content"]
        assert ("temperature" in asked.body) is bool(int(content) % 2)
        assert set(asked.body) <= {"model", "messages", "temperature"}
        if content == "5":
            return 400, {}, {"error": {"message": "no fives"}}
        if content == "9" and sum(answered.values()) < 12 and endpoint.requests < 12:
            return 429, {"retry-after": "2"}, {}
        answered[content] += 1
        return 200, {"x-request-id": f"req-{content}"}, {"choices": [content]}

    endpoint.respond = complete
    source, output = batch_file(tmp_path, 15), tmp_path / "out.jsonl"
    words = ["--model", f"{endpoint.base}/v1", "--protocol", "openai", "--input", source]
    words += ["--output", output, "--workers", 1, "--max-attempts", 1, "--max-dead", 1]
    summary, _ = predict(stage, *words)
    assert [dead["row"] for dead in summary["dead_rows"]] == [5]
    assert "no fives" in summary["dead_rows"][0]["error"]
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == [f"r-{row}" for row in range(15) if row != 5]
    assert lines[3]["response"] == {
        "status_code": 200, "request_id": "req-3", "body": {"choices": ["3"]},
    }  # fmt: skip
    assert all(line["error"] is None and line["id"] for line in lines)
    assert answered.pop("0") == 2  # it was tried first
    assert set(answered.values()) == {1}


def everything_in(stage: Stage) -> str:
    """All rows of all tables."""
    tables = stage.rows("select tablename from pg_tables where schemaname = 'peers'")
    texts = []
    for table in tables:
        query = sql.SQL("select t::text as t from peers.{} t").format(
            sql.Identifier(table["tablename"])
        )
        texts += [str(row["t"]) for row in stage.db.execute(query).fetchall()]
    return "\n".join(texts)


def command_lines() -> str:
    """The arguments of all processes."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(file.read_bytes().decode(errors="replace"))
    return "\n".join(found)


def test_a_secret_is_in_no_table_file_log_or_argument(
    stage: Stage, endpoint: Endpoint, tmp_path: Path
) -> None:
    """Though the endpoint repeats it where it refuses a row, and the peer logs all that it can."""
    vault, work = tmp_path / "vault", tmp_path / "work"
    vault.mkdir()
    work.mkdir()
    (vault / "token").write_text(f"{SECRET}\n")
    (vault / "headers").write_text(f"X-Api-Key: {OTHER_SECRET}\n")
    arguments: list[str] = []

    def reply(asked: RequestedColumns) -> Reply:
        if not arguments:
            arguments.append(command_lines())
        told = (asked.headers.get("authorization"), asked.headers.get("x-api-key"))
        if told != (f"Bearer {SECRET}", OTHER_SECRET):
            return 401, {}, {}
        if any(row["x"] == -1 for row in asked.body["instances"]):
            return 400, {}, {"error": f"not with {told}"}
        return double(asked)

    endpoint.respond = reply
    output = work / "out.parquet"
    peer = stage.peer(APP, "predict=1", log_level="debug")
    words = words_for(endpoint.url, numbers(work, {7: -1}, rows=40), output, "--max-attempts", 1)
    words += ["--token-file", vault / "token", "--header-file", vault / "headers"]
    summary, said = predict(stage, *words, "--header", "X-Team: blue", "--max-dead", 1)
    assert [row["row"] for row in summary["dead_rows"]] == [7]
    assert endpoint.asked[-1].headers["x-team"] == "blue"
    shown = {
        "tables": everything_in(stage), "log": peer.log.read_text(), "stderr": said,
        "summary": json.dumps(summary), "arguments": arguments[0],
        "files": "\n".join(
            file.read_bytes().decode(errors="replace") for file in work.rglob("*") if file.is_file()
        ),
    }  # fmt: skip
    for place, text in shown.items():
        assert SECRET not in text, place
        assert OTHER_SECRET not in text, place
    assert str(vault / "token") in shown["files"]  # the manifest says where it lies
    assert "not with" in shown["tables"]
    assert "peers" in shown["arguments"]


def test_a_secret_on_the_command_line_is_refused(stage: Stage, tmp_path: Path) -> None:
    """With the remedy; nothing is submitted."""
    words = words_for("http://127.0.0.1:9/", numbers(tmp_path, rows=5), tmp_path / "out.parquet")
    _, said = predict(stage, *words, "--header", f"Authorization: Bearer {SECRET}", code=1)
    assert "--token-file" in said
    assert SECRET not in said
    assert stage.rows("select * from peers.task") == []
