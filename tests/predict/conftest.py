"""What the tests of predictions share: a trained model, and a stage with real peers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.harness import Stage
from tests.predict.endpoint import Endpoint

ROWS = 3000


@dataclass(frozen=True)
class Forest:
    """A model in a file, an input of 3,000 rows, and what the model says about it."""

    model: Path
    rows: Path
    features: np.ndarray[Any, Any]
    truth: list[int]


@pytest.fixture(scope="session")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    """Ten trees on scikit-learn's digits."""
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    folder = tmp_path_factory.mktemp("forest")
    pixels, digits = load_digits(return_X_y=True)
    trained = RandomForestClassifier(10, random_state=1).fit(pixels, digits)
    random = np.random.default_rng(1)
    features = pixels[random.integers(0, len(pixels), ROWS)] + random.normal(0, 0.5, (ROWS, 64))
    joblib.dump(trained, folder / "digits.joblib")
    columns: dict[str, Any] = {"id": [f"r{row}" for row in range(ROWS)]}
    columns |= {f"p{number}": features[:, number] for number in range(64)}
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    return Forest(
        folder / "digits.joblib", folder / "rows.parquet", features,
        trained.predict(features).tolist(),
    )  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _forked_predict_commands() -> Iterator[None]:
    from tests.predict.runs import end_forked_commands

    yield
    end_forked_commands()


@pytest.fixture
def stage(database_url: str, tmp_path: Path) -> Iterator[Stage]:
    """A database and no peer yet."""
    with Stage(database_url, tmp_path) as made:
        yield made


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A server on this machine."""
    made = Endpoint()
    thread = threading.Thread(target=made.server.serve_forever, args=[0.02])
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()
