"""Models: what they say is what they say alone, and what may not be loaded is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.base import BaseEstimator
from sklearn.ensemble import AdaBoostRegressor, BaggingClassifier, RandomForestClassifier
from sklearn.multioutput import ClassifierChain
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from peers.predict import models
from peers.predict.errors import InputError, ModelError, RowError
from peers.predict.inputs.column_options import ColumnOptions
from peers.predict.inputs.column_types import decide
from peers.predict.models import Trust
from tests.predict.conftest import Forest

MODULE = "tests.predict.models_for_tests"


def trusting(forest: Forest) -> Trust:
    """The folder of the forest."""
    return Trust((forest.model.parent,), (MODULE,))


def features_of(forest: Forest) -> pa.Table:
    """The input without its ids."""
    return pq.read_table(forest.rows).drop_columns(["id"])


def chosen(
    model: models.Model, columns: dict[str, pa.DataType], beside: Sequence[str] = ()
) -> list[str]:
    """The columns that the model gets of such an input."""
    question = ColumnOptions("the model", ids=beside)
    return list(decide(model.signature, pa.schema(columns.items()), question, {}).features)


@pytest.mark.parametrize("size", [1, 256, 3000])
def test_an_estimator_in_batches_says_what_it_says_about_all(forest: Forest, size: int) -> None:
    """Labels by default, probabilities by predict_proba; whatever the batches."""
    table = features_of(forest).slice(0, 512 if size == 1 else 3000)
    labels = models.load(models.resolve(str(forest.model), None), trusting(forest))
    chances = models.load(models.resolve(str(forest.model), "predict_proba"), trusting(forest))
    starts = range(0, table.num_rows, size)
    said = np.concatenate([labels.predict(table.slice(start, size)) for start in starts])
    assert said.tolist() == forest.truth[: table.num_rows]
    by_class: list[Any] = [chances.predict(table.slice(start, size)) for start in starts]
    assert all(list(one.values) == [f"proba_{digit}" for digit in range(10)] for one in by_class)
    odds = np.concatenate([np.column_stack(list(one.values.values())) for one in by_class])
    expected = joblib.load(forest.model).predict_proba(forest.features[: table.num_rows])
    assert np.array_equal(odds, expected)


def test_a_model_in_onnx_says_the_same(forest: Forest, tmp_path: Path) -> None:
    """Its one input takes all columns; its second output are the probabilities."""
    skl2onnx = pytest.importorskip("skl2onnx")
    kind = skl2onnx.common.data_types.FloatTensorType([None, 64])
    made = skl2onnx.convert_sklearn(
        joblib.load(forest.model), initial_types=[("x", kind)], options={"zipmap": False}
    )
    path = tmp_path / "digits.onnx"
    path.write_bytes(made.SerializeToString())
    model = models.load(models.resolve(str(path), None), Trust())
    columns = {f"p{n}": pa.float64() for n in range(64)}
    assert chosen(model, {"id": pa.string(), **columns}, ["id"]) == list(columns)
    same = np.asarray(model.predict(features_of(forest))) == np.array(forest.truth)
    assert same.mean() > 0.99  # it computes in single precision
    with pytest.raises(InputError, match="takes 64 columns"):
        chosen(model, {"p0": pa.float64()})


def test_code_is_loaded_only_from_where_the_operator_trusts_it(
    forest: Forest, tmp_path: Path
) -> None:
    """Not through a link that leads elsewhere, not from a module whose name only begins alike."""
    reference = models.resolve(str(forest.model), None)
    with pytest.raises(ModelError, match="PEERS_PREDICT_TRUST"):
        models.load(reference, Trust())
    link = tmp_path / "digits.joblib"
    link.symlink_to(forest.model)
    with pytest.raises(ModelError, match="a link to"):
        models.load(models.resolve(str(link), None), Trust((tmp_path,)))
    callable_ = models.resolve(f"{MODULE}:double", None)
    with pytest.raises(ModelError, match="not trusted"):
        models.load(callable_, Trust((), (MODULE[:-1], "tests.pre")))
    assert models.load(callable_, Trust((), ("tests",))).predict(pa.table({"x": [2.0]})) == [4.0]


def test_a_model_that_changed_since_the_run_was_planned_is_refused(
    forest: Forest, tmp_path: Path
) -> None:
    """Else a run would hold the predictions of two models."""
    path = tmp_path / "digits.joblib"
    path.write_bytes(forest.model.read_bytes())
    reference = models.resolve(str(path), None)
    joblib.dump({"another": "thing"}, path)
    with pytest.raises(ModelError, match="changed"):
        models.load(reference, Trust((tmp_path,)))


def test_wrong_columns_are_named(forest: Forest) -> None:
    """By their number, and by their types."""
    model = models.load(models.resolve(str(forest.model), None), trusting(forest))
    columns = {f"p{n}": pa.float64() for n in range(64)}
    with pytest.raises(InputError, match="takes 64 columns, but the input has 65"):
        chosen(model, {**columns, "id": pa.string()})
    with pytest.raises(InputError, match="holds texts in the column 'p3'"):
        chosen(model, {**columns, "p3": pa.string()})


@pytest.mark.parametrize(("asked", "gets"), [(-1, 3), (2, 2), (8, 3), (None, None)])
def test_an_estimator_has_no_more_threads_than_its_worker(
    asked: int | None, gets: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do those that it is made of; who asked for none gets none."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    inner = RandomForestClassifier(2, n_jobs=asked, random_state=1)
    joblib.dump(make_pipeline(StandardScaler(), inner).fit([[0], [1]], [0, 1]), tmp_path / "m.pkl")
    model: Any = models.load(models.resolve(str(tmp_path / "m.pkl"), None), Trust((tmp_path,)))
    assert model._estimator[-1].n_jobs == gets


def test_whole_numbers_of_a_text_fit_a_model_of_whole_numbers(tmp_path: Path) -> None:
    """A CSV has doubles only; a fraction among them is its row's fault."""
    skl2onnx = pytest.importorskip("skl2onnx")
    kind = skl2onnx.common.data_types.Int64TensorType([None, 1])
    tree = DecisionTreeClassifier().fit([[0], [1]], [0, 1])
    made = skl2onnx.convert_sklearn(tree, initial_types=[("x", kind)])
    path = tmp_path / "tree.onnx"
    path.write_bytes(made.SerializeToString())
    model = models.load(models.resolve(str(path), None), Trust())
    assert chosen(model, {"x": pa.float64()}) == ["x"]
    assert np.asarray(model.predict(pa.table({"x": [0.0, 1.0]}))).tolist() == [0, 1]
    with pytest.raises(RowError, match="does not fit"):
        model.predict(pa.table({"x": [0.5]}))


def test_probabilities_by_class_can_be_written_whatever_the_classes(tmp_path: Path) -> None:
    """ONNX has maps with numbers for keys, files have texts."""
    skl2onnx = pytest.importorskip("skl2onnx")
    kind = skl2onnx.common.data_types.FloatTensorType([None, 1])
    tree = DecisionTreeClassifier().fit([[0], [1]], [3, 5])
    made = skl2onnx.convert_sklearn(tree, initial_types=[("x", kind)])
    path = tmp_path / "tree.onnx"
    path.write_bytes(made.SerializeToString())
    model = models.load(models.resolve(str(path), "predict_proba"), Trust())
    found = model.predict(pa.table({"x": [0.0, 1.0]}))
    assert found == [{"proba_3": 1.0, "proba_5": 0.0}, {"proba_3": 0.0, "proba_5": 1.0}]


class Wrapped(BaseEstimator):  # type: ignore[misc]
    """An estimator of one's own, which says nothing of what the one in it was fitted on."""

    def __init__(self, inner: Any = None) -> None:
        self.inner = inner

    def predict(self, rows: Any) -> Any:
        """What the inner one says."""
        return self.inner.predict(rows)


def _loaded(estimator: Any, folder: Path, method: str | None = None) -> models.Model:
    path = folder / "model.joblib"
    joblib.dump(estimator, path)
    return models.load(models.resolve(str(path), method), Trust((folder,)))


def test_a_wrapper_of_what_was_fitted_on_a_data_frame_gets_one(tmp_path: Path) -> None:
    """Else columns in another order would be taken for one another, without a word."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [9.0, 8.0, 7.0, 6.0]})
    model = _loaded(Wrapped(DecisionTreeClassifier().fit(frame, [0, 1, 0, 1])), tmp_path)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    assert np.asarray(model.predict(table)).tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(table.select(["b", "a"]))


def test_probabilities_of_a_chain_are_all_there(tmp_path: Path) -> None:
    """It has classes for each label: all of them have one name."""
    rows = np.array([[0.0], [1.0], [2.0], [3.0]])
    chain = ClassifierChain(DecisionTreeClassifier(max_depth=1))
    chain.fit(rows, [[0, 1], [1, 0], [0, 0], [1, 1]])
    model = _loaded(chain, tmp_path, "predict_proba")
    found = np.asarray(model.predict(pa.table({"x": rows[:, 0]})))
    assert found.tolist() == chain.predict_proba(rows).tolist()


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_an_ensemble_is_asked_by_its_members_not_by_their_template(
    library: str, tmp_path: Path
) -> None:
    """The template beside them was never fitted, and knows nothing."""
    made = pytest.importorskip(library)
    prefix = {"lightgbm": "LGBM", "xgboost": "XGB"}[library]
    classifier = getattr(made, f"{prefix}Classifier")(n_estimators=2)
    regressor = getattr(made, f"{prefix}Regressor")(n_estimators=2)
    rows = np.random.default_rng(1).random((60, 3))
    labels = (rows[:, 0] > 0.5).astype(int)
    for estimator in (
        BaggingClassifier(classifier, n_estimators=2, max_features=2),
        AdaBoostRegressor(regressor, n_estimators=2),
    ):
        estimator.fit(rows, labels)
        model = _loaded(estimator, tmp_path)
        table = pa.table({str(place): rows[:, place] for place in range(3)})
        assert np.asarray(model.predict(table)).tolist() == estimator.predict(rows).tolist()


def test_weights_that_a_model_in_onnx_keeps_elsewhere_are_of_its_digest(tmp_path: Path) -> None:
    """Whatever that file is called: other weights are another model."""
    onnx = pytest.importorskip("onnx")
    values, place = onnx.helper.make_tensor_value_info, tmp_path / "model.onnx"
    digests = []
    for name, weight in (("w.bin", 1.0), ("w.bin", 2.0), ("w" * 200, 1.0), ("w" * 200, 2.0)):
        weights = onnx.numpy_helper.from_array(np.full((1, 2), weight, np.float32), "w")
        ends = [values(one, onnx.TensorProto.FLOAT, [None, None]) for one in "xy"]
        node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
        graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [weights])
        (tmp_path / name).unlink(missing_ok=True)
        onnx.save_model(
            onnx.helper.make_model(graph), place, save_as_external_data=True, location=name,
            size_threshold=0,
        )  # fmt: skip
        digests.append((place.read_bytes(), models.resolve(str(place), None).digest))
    assert digests[0][0] == digests[1][0]
    assert digests[2][0] == digests[3][0]
    assert len({digest for _, digest in digests}) == len(digests)
