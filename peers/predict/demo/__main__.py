"""`python -m peers.predict.demo`: print one line of JSON; exit code 1 if a row is wrong."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pyarrow.parquet as pq

from peers.database import schema
from peers.embedded import throwaway
from peers.predict.demo.data import Material, prepare
from peers.predict.demo.model import FOREST_VARIABLE
from peers.predict.kinds import APP, CHUNK, QUEUE

_MODEL: Final = "peers.predict.demo.model:predict"
_ROWS: Final = 40_000
_TREES: Final = 100
_TIMEOUT: Final = 300.0
_LEASE: Final = "4s"
_DONE: Final = f"select count(*) from peers.task where kind = '{CHUNK}' and state = 'completed'"  # noqa: S608 - our own name


def main() -> int:
    """Train a model, predict rows with poison among them, kill, resume, and verify."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=_ROWS)
    parser.add_argument("--trees", type=int, default=_TREES, help="of the forest")
    parser.add_argument("--batch-size", type=int, default=256)
    options = parser.parse_args()
    rows: int = options.rows
    with tempfile.TemporaryDirectory(prefix="peers-predict-") as place:
        folder = Path(place)
        _say(
            f"training a forest of {options.trees} trees on scikit-learn's digits,"
            f" writing {rows:,} rows to Parquet"
        )
        material = prepare(folder, rows, options.trees)
        _say(f"poisoned rows: {', '.join(f'{n} ({how})' for n, how in material.poisoned.items())}")
        with (
            throwaway() as postgres,
            psycopg.connect(postgres.url(), autocommit=True) as connection,
        ):
            schema.migrate(connection)
            command = _command(folder, material, options.batch_size)
            summary = _run(connection, command, _environment(postgres.url(), material), material)
        figures = _verify(folder / "predictions.parquet", material, summary, rows)
    for dead in summary["dead_rows"]:
        _say(f"dead letter of task {dead['task_id']}: {dead['error']}")
    print(json.dumps(figures))
    named = {dead["row"] for dead in summary["dead_rows"]} == set(material.poisoned)
    wrong = figures["missing"] or figures["duplicated"] or figures["mismatched"]
    return 0 if named and not wrong and figures["dead"] == len(material.poisoned) else 1


def _run(
    connection: psycopg.Connection[Any], command: list[str], environment: dict[str, str],
    material: Material,
) -> dict[str, Any]:  # fmt: skip
    """Run the prediction, kill a peer and the command, and resume; return the summary."""
    with _peer(environment) as victim, _peer(environment):
        _say(f"two peers; {' '.join(command[1:])}")
        first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        _await_half(connection, first, material)
        victim.kill()
        first.kill()
        first.wait()
        _say(
            f"killed one peer and the command after {_done(connection)} chunks; same command again"
        )
        again = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, timeout=_TIMEOUT, check=True
        )
    summary: dict[str, Any] = json.loads(again.stdout)
    return summary


def _await_half(
    connection: psycopg.Connection[Any], command: subprocess.Popen[bytes], material: Material
) -> None:
    give_up = time.monotonic() + _TIMEOUT
    while True:
        [(chunks,)] = connection.execute(
            "select count(*) from peers.task where kind = %s", [CHUNK]
        ).fetchall()
        if chunks and _done(connection) * 2 >= chunks:
            return
        if command.poll() is not None or time.monotonic() > give_up:
            raise SystemExit(f"the command ended before half of {material.rows} was done")
        time.sleep(0.02)


def _done(connection: psycopg.Connection[Any]) -> int:
    [(done,)] = connection.execute(_DONE).fetchall()
    return int(done)


def _verify(output: Path, material: Material, summary: dict[str, Any], rows: int) -> dict[str, Any]:
    """Compare every prediction with the sequential one."""
    found = pq.read_table(output)
    ids = found.column("id").to_pylist()
    predicted = dict(zip(ids, found.column("prediction").to_pylist(), strict=True))
    return {
        "rows": rows,
        "predicted": len(ids),
        "dead": summary["dead"],
        "missing": len(material.truth.keys() - predicted.keys()),
        "duplicated": len(ids) - len(predicted),
        "mismatched": sum(material.truth.get(id_) != digit for id_, digit in predicted.items()),
        "rows_per_second": summary["rows_per_second"],
        "seconds": summary["seconds"],
    }


def _command(folder: Path, material: Material, batch_size: int) -> list[str]:
    return [
        sys.executable, "-m", "peers", "predict", "--model", _MODEL, "--input", str(material.rows),
        "--output", str(folder / "predictions.parquet"), "--id-column", "id", "--run", "demo",
        "--batch-size", str(batch_size), "--max-dead", str(len(material.poisoned)), "--json",
    ]  # fmt: skip


def _environment(url: str, material: Material) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PEERS_")}
    return {
        **inherited,
        "PEERS_DATABASE_URL": url,
        "PEERS_PREDICT_TRUST": _MODEL.partition(":")[0],
        FOREST_VARIABLE: str(material.forest),
    }


@contextmanager
def _peer(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "peers", "run", "--app", APP, "--queues", f"{QUEUE}=1",
         "--lease-timeout", _LEASE],
        env=environment, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
