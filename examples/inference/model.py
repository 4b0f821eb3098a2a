"""The model: scikit-learn's, behind a check that refuses impossible rows."""

from __future__ import annotations

from typing import Any

from sklearn.linear_model import LinearRegression


class CheckedRegression(LinearRegression):  # type: ignore[misc]  # scikit-learn has no types
    """A regression that raises for a negative area, as a strict model may."""

    def predict(self, X: Any) -> Any:  # noqa: N803 - scikit-learn's own name
        """Return the predictions. Raises ValueError for a negative area."""
        if (X["area"] < 0).any():
            raise ValueError("an area must not be negative")
        return super().predict(X)
