"""What peers run: `peers run --app thumbnails.tasks`."""

from __future__ import annotations

import io

from PIL import Image

from peers import Reject, task
from thumbnails.models import Photo, Session


@task("photos.thumbnail", queue="media", max_attempts=3, timeout=30)
def make_thumbnail(photo_id: int, width: int = 256) -> dict[str, int]:
    """Store the thumbnail and return its size. Running twice stores the same bytes twice."""
    with Session.begin() as session:
        photo = session.get(Photo, photo_id)
        if photo is None:
            raise Reject(f"there is no photo {photo_id}")
        picture = Image.open(io.BytesIO(photo.image))
        picture.thumbnail((width, width))
        out = io.BytesIO()
        picture.save(out, "PNG")
        photo.thumbnail = out.getvalue()
    return {"width": picture.width, "height": picture.height}
