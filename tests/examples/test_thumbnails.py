"""The web application of examples/thumbnails/."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import httpx
from PIL import Image

from tests.support.cli import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.examples.conftest import Example


def test_a_photo_gets_its_thumbnail(example: Example, tmp_path: Path) -> None:
    """A posted photo has a thumbnail as soon as a peer runs; what is no picture has none."""
    picture = io.BytesIO()
    Image.new("RGB", (800, 400), "teal").save(picture, "PNG")
    socket = tmp_path / "web"
    web = (sys.executable, "-m", "uvicorn", "thumbnails.app:app", "--uds", str(socket))
    with (
        example.started(*web) as server,
        httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://web"
        ) as client,
    ):
        until(lambda: socket.exists() or server.poll() is not None, "the web application listens")
        assert server.poll() is None
        good = client.post("/photos", content=picture.getvalue()).json()["id"]
        bad = client.post("/photos", content=b"no picture").json()["id"]
        assert client.get(f"/photos/{good}/thumbnail").status_code == 202
        assert client.get("/photos/99/thumbnail").status_code == 404

        with example.peer("--app", "thumbnails.tasks", "--queues", "media=2"):
            until(
                lambda: client.get(f"/photos/{good}/thumbnail").status_code == 200,
                "the thumbnail is made",
            )
        made = client.get(f"/photos/{good}/thumbnail")
    assert Image.open(io.BytesIO(made.content)).size == (256, 128)
    results = example.db.execute("select args ->> 'photo_id' as photo, result from peers.task")
    assert {row["photo"]: row["result"] for row in results} == {
        str(good): {"width": 256, "height": 128},
        str(bad): None,
    }
