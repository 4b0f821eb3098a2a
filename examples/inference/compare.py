"""Compare the output with the model's own predictions: `python -m inference.compare FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import joblib
import pandas as pd

TOLERANCE = 1e-6


def main() -> None:
    """Print how many predictions there are. Fails if one differs from the model's own."""
    folder = Path(sys.argv[1])
    rows = pd.read_csv(folder / "rows.csv")
    found = pd.read_csv(folder / "predictions.csv").set_index("id")["prediction"]
    good = rows[rows["area"] > 0]
    model = joblib.load(folder / "model.joblib")
    own = pd.Series(model.predict(good[["area", "rooms"]]), index=good["id"])
    if len(found) != len(own) or not (found - own).abs().max() < TOLERANCE:
        sys.exit(f"{len(found)} predictions instead of {len(own)}, or not the model's own")
    print(f"{len(found)} of {len(rows)} rows predicted, all as the model itself does")


if __name__ == "__main__":
    main()
