"""The web application: `uvicorn thumbnails.app:app`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response

from thumbnails.models import Base, Photo, Session, engine
from thumbnails.tasks import make_thumbnail

app = FastAPI()
Base.metadata.create_all(engine)


async def body(request: Request) -> bytes:
    """Return the body of the request."""
    return await request.body()


@app.post("/photos", status_code=201)
def add_photo(image: Annotated[bytes, Depends(body)]) -> dict[str, int]:
    """Store a photo and have its thumbnail made: both, or neither."""
    with Session.begin() as session:
        photo = Photo(image=image)
        session.add(photo)
        session.flush()  # the database gives it an id
        make_thumbnail.submit_in(session, photo_id=photo.id)
        return {"id": photo.id}


@app.get("/photos/{photo_id}/thumbnail")
def thumbnail(photo_id: int) -> Response:
    """Return the thumbnail; 202 while it is not made yet."""
    with Session() as session:
        photo = session.get(Photo, photo_id)
    if photo is None:
        raise HTTPException(404, "there is no such photo")
    if photo.thumbnail is None:
        return Response(status_code=202, headers={"Retry-After": "1"})
    return Response(photo.thumbnail, media_type="image/png")
