"""Find out what LightGBM's and XGBoost's models were fitted on."""

from __future__ import annotations

from typing import Any, Final

from peers.predict.signature import Feature, Kind

_SHOWN: Final = 5
_XGBOOST: Final[dict[str, Kind]] = {
    "float": "number",
    "q": "number",
    "int": "number",
    "i": "number",
}


def is_known(model: Any) -> bool:
    """Return whether the model is an estimator or a booster of LightGBM or XGBoost."""
    return library_of(model) in {"lightgbm", "xgboost"}


def library_of(model: Any) -> str:
    """Return the package of the model's class."""
    return type(model).__module__.partition(".")[0]


def names_of(model: Any) -> list[str] | None:
    """Return the names of its columns, or None. LightGBM replaces blanks by _."""
    if library_of(model) == "lightgbm":
        names = _lightgbm(model).feature_name()
        return None if names == [f"Column_{place}" for place in range(len(names))] else names
    found = _xgboost(model).feature_names
    return None if found is None else [str(name) for name in found]


def count_of(model: Any) -> int:
    """Return how many features the model takes."""
    if library_of(model) == "lightgbm":
        return int(_lightgbm(model).num_feature())
    return int(_xgboost(model).num_features())


def features_of(model: Any, count: int) -> list[Feature]:
    """Return the features: numbers, and categories as the model knows them; both may be missing."""
    known = _known_categories(model, count)
    numbers = _numbers(model, count)
    return [
        Feature(kind=numbers[place], accepts_missing=True)
        if (values := known.get(place)) is None
        else _category(values)
        for place in range(count)
    ]


def _category(values: tuple[Any, ...]) -> Feature:
    return Feature(kind="category", accepts_missing=True, known=values[:_SHOWN], categories=values)


def _numbers(model: Any, count: int) -> list[Kind]:
    types = None if library_of(model) == "lightgbm" else _xgboost(model).feature_types
    return [_XGBOOST.get(one, "category") for one in types] if types else ["number"] * count


def _known_categories(model: Any, count: int) -> dict[int, tuple[Any, ...]]:
    """Return categories by position. LightGBM stores lists for categorical columns only."""
    if library_of(model) == "lightgbm":
        booster = _lightgbm(model)
        lists = booster.pandas_categorical or []
        return dict(zip(_categorical_places(booster), map(tuple, lists), strict=False))
    booster = _xgboost(model)
    if not booster.feature_types or not hasattr(booster, "get_categories"):
        return {}
    pairs = booster.get_categories(export_to_arrow=True).to_arrow() or []
    return {
        place: tuple(values.to_pylist())
        for place, (_, values) in enumerate(pairs[:count])
        if values is not None
    }


def _categorical_places(booster: Any) -> list[int]:
    """Return the categorical columns, from the model's text: [categorical_feature: 1,4]."""
    text: str = booster.model_to_string(num_iteration=1)
    for line in text.splitlines():
        if line.startswith("[categorical_feature: "):
            inner = line.removeprefix("[categorical_feature: ").removesuffix("]")
            return sorted(int(place) for place in inner.split(",") if place.strip())
    return []


def _lightgbm(model: Any) -> Any:
    return getattr(model, "booster_", model)


def _xgboost(model: Any) -> Any:
    return model.get_booster() if hasattr(model, "get_booster") else model
