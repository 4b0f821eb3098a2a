"""Secrets of endpoints: read where they lie, sent to the endpoint, and shown to nobody."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from peers.predict.errors import ModelError, PredictError, RowError
from peers.predict.models import Trust, load, resolve
from peers.predict.models.access import access_of
from peers.predict.spec import Access
from tests.predict.endpoint import Endpoint, Reply, RequestedColumns, double

SECRET = "tok-8f3a1c55"
NEWER = "tok-0b44e9d2"
ROW = pa.table({"x": [1.0]})


def ask(endpoint: Endpoint, access: Access) -> Any:
    """A prediction of one row."""
    model = load(resolve(endpoint.url, None, access=access), Trust())
    return asyncio.run(model.predict_async(ROW))


def written(path: Path, text: str) -> str:
    """A file with this text."""
    path.write_text(text, encoding="utf-8")
    return str(path)


def authorized(asked: RequestedColumns) -> Reply:
    """Doubles x for who says the secret; repeats what it was told to all others."""
    if asked.headers.get("authorization") == f"Bearer {SECRET}":
        return double(asked)
    return 401, {}, {"error": f"wrong: {asked.headers.get('authorization')}"}


@pytest.mark.parametrize("where", ["file", "environment", "credential", "header file"])
def test_a_token_is_read_where_it_lies(
    endpoint: Endpoint, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the run knows only where."""
    file = written(tmp_path / "token", f"  {SECRET}\n")
    headers = written(
        tmp_path / "headers", f"\nAuthorization: Bearer {SECRET}\nX-Api-Key: {NEWER}\n"
    )
    monkeypatch.setenv("TOKEN_OF_THE_TEST", SECRET)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    access = {
        "file": access_of([], None, file, None, None),
        "environment": access_of([], None, None, "TOKEN_OF_THE_TEST", None),
        "credential": access_of([], None, None, None, "token"),
        "header file": access_of([], headers, None, None, None),
    }[where]
    endpoint.respond = authorized
    assert ask(endpoint, access) == [2.0]
    if where == "header file":
        assert endpoint.asked[0].headers["x-api-key"] == NEWER
    assert SECRET not in repr(access)


def test_a_token_that_was_exchanged_is_read_again(endpoint: Endpoint, tmp_path: Path) -> None:
    """Once, when the endpoint says 401; one that is still wrong is not sent again and again."""
    file = tmp_path / "token"
    model = load(
        resolve(endpoint.url, None, access=access_of([], None, written(file, NEWER), None, None)),
        Trust(),
    )
    endpoint.respond = authorized
    with pytest.raises(ModelError, match="401"):
        asyncio.run(model.predict_async(ROW))
    assert endpoint.requests == 1
    written(file, SECRET)
    assert asyncio.run(model.predict_async(ROW)) == [2.0]
    assert endpoint.requests == 3


@pytest.mark.parametrize("status", [400, 401, 403, 500])
def test_an_endpoint_that_repeats_a_secret_does_not_spread_it(
    endpoint: Endpoint, status: int, tmp_path: Path
) -> None:
    """What it says goes into dead letters and logs."""
    endpoint.respond = lambda asked: (
        status, {}, {"error": f"{asked.headers['authorization']} {asked.headers['x-api-key']}"}
    )  # fmt: skip
    access = access_of(
        [], written(tmp_path / "headers", f"X-Api-Key: {NEWER}"),
        written(tmp_path / "token", SECRET), None, None,
    )  # fmt: skip
    with pytest.raises((PredictError, RowError)) as caught:
        ask(endpoint, access)
    assert SECRET not in str(caught.value)
    assert NEWER not in str(caught.value)
    assert "***" in str(caught.value)


def test_a_short_value_is_no_secret(endpoint: Endpoint, tmp_path: Path) -> None:
    """Else a tenant's number would be hidden in every message that has the digit."""
    endpoint.respond = lambda _: (400, {}, {"error": f"row 17 of 21: {NEWER}"})
    headers = written(tmp_path / "headers", f"X-Tenant: 1\nX-Api-Key: {NEWER}")
    with pytest.raises((PredictError, RowError), match=r"row 17 of 21: \*\*\*"):
        ask(endpoint, access_of([], headers, None, None, None))


@pytest.mark.parametrize(
    "header",
    [
        f"Authorization: Bearer {SECRET}", f"Proxy-Authorization: {SECRET}", f"X-Api-Key: {SECRET}",
        f"api-key: {SECRET}", f"apikey: {SECRET}", f"X_API_KEY: {SECRET}", f"Cookie: a={SECRET}",
        f"X-Auth-Token: {SECRET}", f"Ocp-Apim-Subscription-Key: {SECRET}", f"X-Secret: {SECRET}",
        f"X-Amz-Security-Token: {SECRET}", f"X-Other: Bearer {SECRET}", f"X-Password: {SECRET}",
        f"no colon {SECRET}", f": {SECRET}", f"X Y: {SECRET}", f"X: {SECRET}\nY: z",
        f"Host: {SECRET}",
    ],
)  # fmt: skip
def test_a_header_that_looks_like_a_secret_is_refused(header: str) -> None:
    """With the remedy, and without its value."""
    with pytest.raises(ModelError) as caught:
        access_of([header], None, None, None, None)
    assert SECRET not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["key", "api_key", "apikey", "access_token", "sig-token", "auth"])
def test_a_url_with_a_secret_is_refused(name: str) -> None:
    """It would be in the manifest and in the log of each request."""
    with pytest.raises(ModelError, match=name) as caught:
        resolve(f"https://host/predict?alt=json&{name}={SECRET}", None)
    assert SECRET not in str(caught.value)
    assert (
        resolve("https://host/predict?alt=json&monkey=1&author=me&tokens=3", None).protocol == "v1"
    )


def test_headers_that_are_no_secret_are_sent(endpoint: Endpoint) -> None:
    """With each request."""
    access = access_of(["X-Team: blue", "traceparent:  00-ab  "], None, None, None, None)
    assert ask(endpoint, access) == [2.0]
    headers = endpoint.asked[0].headers
    assert (headers["x-team"], headers["traceparent"]) == ("blue", "00-ab")


@pytest.mark.parametrize(
    ("access", "says"),
    [
        (("file", "/nowhere/token"), "/nowhere/token"),
        (("environment", "NOT_SET_ANYWHERE"), "variable NOT_SET_ANYWHERE .*not set"),
        (("credential", "token"), "CREDENTIALS_DIRECTORY"),
    ],
)
def test_a_secret_that_is_not_there_is_named(
    endpoint: Endpoint, access: tuple[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its place; no request is made without it."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    where, place = access
    wanted = {"file": None, "environment": None, "credential": None, where: place}
    made = access_of([], None, wanted["file"], wanted["environment"], wanted["credential"])
    with pytest.raises(ModelError, match=says):
        ask(endpoint, made)
    assert endpoint.asked == []


@pytest.mark.parametrize("text", ["", "\n", f"{SECRET}\nmore", f"{SECRET}é", f"a\x00{SECRET}"])
def test_a_token_that_is_none_is_not_repeated(
    endpoint: Endpoint, text: str, tmp_path: Path
) -> None:
    """Neither sent nor said."""
    access = access_of([], None, written(tmp_path / "token", text), None, None)
    with pytest.raises(ModelError) as caught:
        ask(endpoint, access)
    assert SECRET not in str(caught.value)
    assert endpoint.asked == []


def test_a_netrc_file_is_not_read(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nobody is advised to write one."""
    file = tmp_path / "netrc"
    file.write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    os.chmod(file, 0o600)  # noqa: PTH101
    monkeypatch.setenv("NETRC", str(file))
    assert ask(endpoint, Access()) == [2.0]
    assert "authorization" not in endpoint.asked[0].headers
    with pytest.raises(ModelError) as caught:
        resolve("http://me:pass@host/", None)
    assert "netrc" not in str(caught.value)
    assert "--header-file" in str(caught.value)


def test_there_is_one_bearer_token() -> None:
    """Two would be a guess; and a credential is a name, not a path."""
    with pytest.raises(ModelError, match="one bearer token"):
        access_of([], None, "/a", "B", None)
    with pytest.raises(ModelError, match="not a name"):
        access_of([], None, None, None, "../token")


def test_the_place_that_was_named_last_counts(endpoint: Endpoint, tmp_path: Path) -> None:
    """A token that moved is no reason for another run, and its old place is asked no more."""
    source, output = tmp_path / "rows.csv", tmp_path / "out.parquet"
    source.write_text("x\n1\n2\n")
    code = f"""if True:
        from pathlib import Path
        from peers.predict.models.access import access_of
        from peers.predict.run.prepare import prepare
        from peers.predict.run.request import Request
        for place in ("old", "new"):
            token = Path("{tmp_path}", place)
            token.write_text("{SECRET}")
            access = access_of([], None, str(token), None, None)
            request = Request("{endpoint.url}", "{source}", Path("{output}"), access=access)
            manifest = prepare(request).manifest
            token.unlink()
            print(manifest.run, *(secret.place for secret in manifest.model.access.secrets))
    """
    said = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    (first, old), (again, new) = map(str.split, said.stdout.decode().splitlines())
    assert first == again
    assert (old, new) == (str(tmp_path / "old"), str(tmp_path / "new"))
