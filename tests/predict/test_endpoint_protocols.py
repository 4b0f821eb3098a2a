"""The protocols of endpoints, each spoken with a server that holds to its specification."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from peers.predict.errors import InputError, ModelError, RowError
from peers.predict.inputs.column_options import ColumnOptions
from peers.predict.inputs.column_types import decide
from peers.predict.models import Model, Trust, load, resolve
from peers.predict.models.protocols import protocol_of
from tests.predict.endpoint import Endpoint, Reply, RequestedColumns

ZONE = datetime.timezone(datetime.timedelta(hours=2))
ODD = pa.table(
    {
        "price": pa.array([Decimal("12.50"), Decimal("3.00")], pa.decimal128(9, 2)),
        "at": pa.array([datetime.datetime(2024, 2, 29, 12, 30, tzinfo=ZONE)] * 2,
                       pa.timestamp("us", "+02:00")),
        "on": pa.array([datetime.date(2024, 2, 29)] * 2),
        "image": pa.array([b"\x00\xff"] * 2),
        "name": ["é", None],
        "gap": [float("nan"), 0.5],
        "big": pa.array([9007199254740993, 1]),
        "yes": [True, False],
    }
)  # fmt: skip
PLAIN = [
    {"price": 12.5, "at": "2024-02-29T12:30:00+02:00", "on": "2024-02-29", "image": "AP8=",
     "name": "é", "gap": None, "big": 9007199254740993, "yes": True},
    {"price": 3, "at": "2024-02-29T12:30:00+02:00", "on": "2024-02-29", "image": "AP8=",
     "name": None, "gap": 0.5, "big": 1, "yes": False},
]  # fmt: skip


def model_of(url: str, protocol: Any = None, method: str | None = None) -> Model:
    """The model of this URL."""
    return load(resolve(url, method, protocol), Trust())


def ask(url: str, table: pa.Table, protocol: Any = None, method: str | None = None) -> Any:
    """Its predictions."""
    return asyncio.run(model_of(url, protocol, method).predict_async(table))


@pytest.mark.parametrize(
    ("path", "protocol"),
    [
        ("/invocations", "mlflow"),
        ("/serve/a/invocations/", "mlflow"),
        ("/v2/models/iris", "v2"),
        ("/v2/models/iris/infer", "v2"),
        ("/proxy/v2/models/iris/versions/3/infer", "v2"),
        ("/v1/models/iris:predict", "v1"),
        ("/predict", "v1"),
        ("/v2/predict", "v1"),
        ("", "v1"),
    ],
)
def test_the_form_of_a_url_says_its_protocol(path: str, protocol: str) -> None:
    """Where it is plain; what is chosen on the command line goes first."""
    assert protocol_of(f"http://host{path}") == protocol
    assert resolve(f"http://host{path}", None).protocol == protocol
    assert resolve(f"http://host{path}", None, "openai").protocol == "openai"


def test_only_an_endpoint_takes_a_protocol() -> None:
    """A callable has none, and a method is an output of version 2."""
    with pytest.raises(ModelError, match="not an endpoint"):
        resolve("json:loads", None, "v2")
    with pytest.raises(ModelError, match="--method"):
        resolve("http://host/predict", "probabilities")
    assert resolve("http://host/v2/models/m", "probabilities").method == "probabilities"


# ---------------------------------------------------------------------------------- V1 and MLflow


def test_values_that_json_does_not_have_are_sent_in_their_usual_form(endpoint: Endpoint) -> None:
    """Decimals as numbers, times as ISO texts, bytes as base64, gaps as null; integers exact."""
    endpoint.respond = lambda _: (200, {}, {"predictions": [1, 2]})
    ask(endpoint.url, ODD)
    assert endpoint.asked[0].body == {"instances": PLAIN}
    assert base64.b64decode(endpoint.asked[0].body["instances"][0]["image"]) == b"\x00\xff"


def test_infinity_has_no_form(endpoint: Endpoint) -> None:
    """It is the row's fault."""
    with pytest.raises(RowError, match="infinity"):
        ask(endpoint.url, pa.table({"x": [float("inf")]}))


def mlflow_server(asked: RequestedColumns) -> Reply:
    """As `mlflow models serve` does it: exactly one known key, else 400."""
    assert asked.path == "/invocations"
    assert asked.headers["content-type"] == "application/json"
    if set(asked.body) != {"dataframe_split"}:
        return 400, {}, {"error_code": "BAD_REQUEST"}
    frame = asked.body["dataframe_split"]
    at = frame["columns"].index("x")
    return 200, {}, {"predictions": [row[at] * 2 for row in frame["data"]]}


def test_mlflow_gets_a_data_frame(endpoint: Endpoint) -> None:
    """Split into columns and data, in the order of the columns."""
    endpoint.respond = mlflow_server
    table = pa.table({"name": ["a", "b"], "x": [1.5, 2.5]})
    assert ask(f"{endpoint.base}/invocations", table) == [3.0, 5.0]
    endpoint.respond = lambda _: (200, {}, {"predictions": [{"p": 1}, {"p": 2}]})
    assert ask(f"{endpoint.base}/invocations", ODD) == [{"p": 1}, {"p": 2}]
    frame = endpoint.asked[-1].body["dataframe_split"]
    assert frame == {"columns": ODD.column_names, "data": [list(row.values()) for row in PLAIN]}


# --------------------------------------------------------------------- the Open Inference Protocol


class Server:
    """A server of version 2 with one model `m`, whose answers are in its specification's form."""

    def __init__(self, inputs: list[dict[str, Any]] | None, outputs: list[dict[str, Any]]) -> None:
        self.inputs = inputs
        self.outputs = outputs

    def __call__(self, asked: RequestedColumns) -> Reply:
        """Metadata for a GET, tensors for a POST."""
        if asked.method == "GET":
            assert asked.path == "/v2/models/m"
            if self.inputs is None:
                return 404, {}, {"error": "not found"}
            return 200, {}, {"name": "m", "platform": "test", "inputs": self.inputs, "outputs": []}
        assert asked.path == "/v2/models/m/infer"
        for tensor in asked.body["inputs"]:
            assert {"name", "shape", "datatype", "data"} <= tensor.keys()
            assert len(tensor["data"]) == np.prod(tensor["shape"])
        return 200, {}, {"model_name": "m", "outputs": self.outputs}


def tensor(name: str, datatype: str, shape: list[int], data: Any = None) -> dict[str, Any]:
    """As metadata and answers have them."""
    made = {"name": name, "datatype": datatype, "shape": shape}
    return made if data is None else {**made, "data": data}


SCORES = [tensor("scores", "FP32", [2], [0.5, 1.5])]


def test_types_come_from_the_metadata_of_the_model(endpoint: Endpoint) -> None:
    """Each column as the tensor that is named like it, in its type and number of dimensions."""
    endpoint.respond = Server(
        [tensor("n", "INT64", [-1, 1]), tensor("x", "FP32", [-1]), tensor("b", "BOOL", [-1, 1]),
         tensor("t", "BYTES", [-1, 1]), tensor("raw", "BYTES", [-1])],
        SCORES,
    )  # fmt: skip
    table = pa.table(
        {"n": [1.0, 2.0], "x": [1, 2], "b": [1, 0], "t": [10, 20], "raw": [b"\xff", b"a"],
         "id": ["r", "s"]}
    )  # fmt: skip
    model = model_of(f"{endpoint.base}/v2/models/m/infer")
    signature = model.signature
    chosen = list(signature.names or [])
    assert chosen == ["n", "x", "b", "t", "raw"]
    kinds = [one.kind for one in signature.features or ()]
    assert kinds == ["integer", "number", "boolean", "anything", "anything"]
    found = asyncio.run(model.predict_async(table.select(chosen)))
    assert (found.tolist(), found.dtype) == ([0.5, 1.5], np.float32)  # type: ignore[union-attr]
    assert endpoint.asked[-1].body == {
        "inputs": [
            tensor("n", "INT64", [2, 1], [1, 2]), tensor("x", "FP32", [2], [1.0, 2.0]),
            tensor("b", "BOOL", [2, 1], [True, False]), tensor("t", "BYTES", [2, 1], ["10", "20"]),
            {**tensor("raw", "BYTES", [2], ["/w==", "YQ=="]),
             "parameters": {"content_type": "base64"}},
        ]
    }  # fmt: skip
    assert [asked.method for asked in endpoint.asked] == ["GET", "POST"]


def test_a_model_that_was_deployed_again_is_asked_for_its_inputs_again(endpoint: Endpoint) -> None:
    """A warm worker learns of it by the first error."""
    endpoint.respond = Server([tensor("x", "FP64", [-1])], [])
    model = model_of(f"{endpoint.base}/v2/models/m")
    table = pa.table({"x": [1, 2]})
    with pytest.raises(ModelError):
        asyncio.run(model.predict_async(table))
    endpoint.respond = Server([tensor("x", "INT64", [-1, 1])], SCORES)
    asyncio.run(model.predict_async(table))
    assert endpoint.asked[-1].body["inputs"] == [tensor("x", "INT64", [2, 1], [1, 2])]


def test_a_matrix_is_sent_to_a_model_that_takes_one(endpoint: Endpoint) -> None:
    """All columns in one tensor, row by row; as many as it says."""
    endpoint.respond = Server([tensor("features", "FP32", [-1, 3])], SCORES)
    table = pa.table({"a": [1, 2], "b": [3.5, 4.5], "c": [True, False]})
    url = f"{endpoint.base}/v2/models/m"
    model = model_of(url)
    wanted = model.signature.features or ()
    assert [(one.name, one.kind) for one in wanted] == [(None, "number")] * 3
    asyncio.run(model.predict_async(table))
    [sent] = endpoint.asked[-1].body["inputs"]
    assert sent == tensor("features", "FP32", [2, 3], [1.0, 3.5, 1.0, 2.0, 4.5, 0.0])


def test_without_metadata_the_columns_say_their_types(endpoint: Endpoint) -> None:
    """Numbers as a matrix, else a tensor for each column."""
    endpoint.respond = Server(None, SCORES)
    url = f"{endpoint.base}/v2/models/m/infer"
    ask(url, pa.table({"a": [1, 2], "b": [0.5, 1.5]}))
    assert endpoint.asked[-1].body["inputs"] == [
        tensor("input-0", "FP64", [2, 2], [1.0, 0.5, 2.0, 1.5])
    ]
    ask(url, pa.table({"a": [1, 2], "t": ["x", "y"], "d": [datetime.date(2024, 2, 29)] * 2}))
    assert endpoint.asked[-1].body["inputs"] == [
        tensor("a", "INT64", [2, 1], [1, 2]), tensor("t", "BYTES", [2, 1], ["x", "y"]),
        tensor("d", "BYTES", [2, 1], ["2024-02-29", "2024-02-29"]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT8", 128), ("UINT8", -1), ("INT64", 0.5), ("BOOL", 2), ("FP32", "x"), ("INT64", "7"),
     ("FP64", None), ("BYTES", None), ("FP32", float("nan")), ("INT32", float("inf"))],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_its_rows_fault(
    endpoint: Endpoint, datatype: str, value: Any
) -> None:
    """And never sent as another."""
    endpoint.respond = Server([tensor("x", datatype, [-1])], SCORES)
    with pytest.raises(RowError, match="'x'"):
        ask(f"{endpoint.base}/v2/models/m", pa.table({"x": [value]}))
    assert [asked.method for asked in endpoint.asked] == ["GET"]


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([tensor("y", "FP64", [2, 1], [1.0, 2.0])], [1.0, 2.0]),
        ([tensor("y", "INT64", [2, 2], [1, 2, 3, 4])], [[1, 2], [3, 4]]),
        ([tensor("y", "INT64", [2, 2], [[1, 2], [3, 4]])], [[1, 2], [3, 4]]),
        ([tensor("y", "FP32", [2, 1, 2], [1, 2, 3, 4])], [[[1, 2]], [[3, 4]]]),
        ([tensor("y", "BYTES", [2], ["a", "b"])], ["a", "b"]),
        ([tensor("y", "BOOL", [2], [True, False])], [True, False]),
        ([tensor("label", "BYTES", [2], ["a", "b"]), tensor("p", "FP64", [2], [0.25, 0.75])],
         [{"label": "a", "p": 0.25}, {"label": "b", "p": 0.75}]),
    ],
)  # fmt: skip
def test_outputs_are_read_by_rows(
    endpoint: Endpoint, outputs: list[dict[str, Any]], expected: list[Any]
) -> None:
    """Flat or nested; several outputs are a dict for each row."""
    endpoint.respond = Server([tensor("x", "FP64", [-1])], outputs)
    found = ask(f"{endpoint.base}/v2/models/m", pa.table({"x": [1.0, 2.0]}))
    assert (found if isinstance(found, list) else found.tolist()) == expected


def test_an_output_can_be_chosen(endpoint: Endpoint) -> None:
    """By --method; the server is asked for it alone, and one that is not there is named."""
    both = [tensor("label", "INT64", [2], [0, 1]), tensor("p", "FP64", [2], [0.25, 0.75])]
    endpoint.respond = Server([tensor("x", "FP64", [-1])], both)
    url, table = f"{endpoint.base}/v2/models/m", pa.table({"x": [1.0, 2.0]})
    assert ask(url, table, method="p").tolist() == [0.25, 0.75]
    assert endpoint.asked[-1].body["outputs"] == [{"name": "p"}]
    with pytest.raises(ModelError, match=r"no output q.*label, p"):
        ask(url, table, method="q")


@pytest.mark.parametrize(
    "outputs",
    [
        [], [{}], [tensor("y", "FP64", [3], [1, 2, 3])], [tensor("y", "FP64", [2], [1])],
        [tensor("y", "FP64", [2])], [tensor("y", "STRANGE", [2], [1, 2])], ["y"],
        [tensor("y", "INT64", [2], ["a", "b"])], [tensor("y", "FP64", [], [1])],
        [tensor("y", "INT64", [2], [1, 2.5])], [tensor("y", "UINT8", [2], [1, 256])],
        [tensor("y", "BOOL", [2], ["yes", "no"])],
    ],
)  # fmt: skip
def test_an_answer_that_is_no_tensor_of_the_rows_is_an_error(
    endpoint: Endpoint, outputs: list[Any]
) -> None:
    """And no prediction."""
    endpoint.respond = Server([tensor("x", "FP64", [-1])], outputs)
    with pytest.raises(ModelError, match="/v2/models/m"):
        ask(f"{endpoint.base}/v2/models/m", pa.table({"x": [1.0, 2.0]}))


@pytest.mark.parametrize(("status", "error"), [(400, ModelError), (401, ModelError)])
def test_metadata_that_are_refused_are_no_rows_fault(
    endpoint: Endpoint, status: int, error: type[Exception]
) -> None:
    """Triton answers 400 for a model that it does not know."""
    endpoint.respond = lambda _: (status, {}, {"error": "unknown model"})
    with pytest.raises(error, match="unknown model"):
        ask(f"{endpoint.base}/v2/models/m", pa.table({"x": [1.0]}))


# ------------------------------------------------------------------------------------------ OpenAI


def batch_file(**change: Any) -> pa.Table:
    """A row as a batch file has it, its body as JSON in a text column."""
    row = {
        "custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions",
        "body": json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}),
        **change,
    }  # fmt: skip
    return pa.table({name: [value] for name, value in row.items()})


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/"])
def test_a_request_of_a_batch_file_is_a_line_of_its_output(endpoint: Endpoint, base: str) -> None:
    """Posted to base URL and url as it is; the line has what OpenAI and vLLM write."""
    completion = {"id": "c", "choices": [{"message": {"content": "Hello"}}]}
    endpoint.respond = lambda _: (200, {"x-request-id": "req_7"}, completion)
    [line] = ask(f"{endpoint.base}{base}", batch_file(), "openai")
    [asked] = endpoint.asked
    assert (asked.method, asked.path) == ("POST", "/v1/chat/completions")
    assert asked.body == {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    written = json.loads(line)
    assert written.pop("id").startswith("batch_req_")
    assert written == {
        "custom_id": "request-1",
        "response": {"status_code": 200, "request_id": "req_7", "body": completion},
        "error": None,
    }


@pytest.mark.parametrize(
    "change",
    [{"method": "GET"}, {"url": "http://elsewhere/v1"}, {"url": "v1/x"}, {"url": "@elsewhere/"},
     {"body": "[1]"}, {"body": "no JSON"}],
)  # fmt: skip
def test_a_request_that_cannot_be_sent_is_its_rows_fault(
    endpoint: Endpoint, change: dict[str, str]
) -> None:
    """And goes nowhere."""
    with pytest.raises(RowError):
        ask(endpoint.base, batch_file(**change), "openai")
    assert endpoint.asked == []


@pytest.mark.parametrize("status", [400, 404, 405, 422])
def test_a_url_of_a_row_that_is_not_there_is_its_rows_fault(
    endpoint: Endpoint, status: int
) -> None:
    """Elsewhere, where all rows go to one URL, it is the model's."""
    endpoint.respond = lambda _: (status, {}, {"error": {"message": "no such model"}})
    with pytest.raises(RowError, match="no such model"):
        ask(endpoint.base, batch_file(), "openai")


def test_a_batch_file_needs_its_columns(endpoint: Endpoint) -> None:
    """The method may be left out; what else is there is not sent."""
    model = model_of(endpoint.base, "openai")
    question = ColumnOptions(model="m", ids=["custom_id"])
    for names, chosen in (
        (["body", "custom_id", "isolated", "url"], ("custom_id", "url", "body")),
        (["body", "custom_id", "method", "url"], ("custom_id", "url", "body", "method")),
    ):
        schema = pa.schema([(name, pa.string()) for name in names])
        assert decide(model.signature, schema, question, {}).features == chosen
    schema = pa.schema([("url", pa.string()), ("body", pa.string())])
    with pytest.raises(InputError, match="lacks custom_id"):
        decide(model.signature, schema, ColumnOptions(model="m"), {})
