"""A web application whose photos get thumbnails."""
