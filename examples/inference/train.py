"""Train the model and write the rows: `python -m inference.train FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import joblib
import pandas as pd

from inference.model import CheckedRegression

ROWS = 2000
BAD_ROW = 1234


def rows() -> pd.DataFrame:
    """Return houses; one of them has an impossible area."""
    table = pd.DataFrame({"id": range(1, ROWS + 1)})
    table["area"] = 50.0 + table["id"] % 150
    table["rooms"] = 1 + table["id"] % 6
    table.loc[table["id"] == BAD_ROW, "area"] = -1.0
    return table


def main() -> None:
    """Write model.joblib and rows.csv into the folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    table = rows()
    features = table[table["area"] > 0][["area", "rooms"]]
    model = CheckedRegression().fit(features, 1000 * features["area"] + 500 * features["rooms"])
    joblib.dump(model, folder / "model.joblib")
    table.to_csv(folder / "rows.csv", index=False)


if __name__ == "__main__":
    main()
