"""The application's own table."""

from __future__ import annotations

import os

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker


class Base(DeclarativeBase):
    """All tables of the application."""


class Photo(Base):
    """A photo, and its thumbnail once a peer has made it."""

    __tablename__ = "photo"

    id: Mapped[int] = mapped_column(primary_key=True)
    image: Mapped[bytes]
    thumbnail: Mapped[bytes | None]


# An engine connects when it is first used, so a peer may import this module and fork its workers.
engine = create_engine(
    os.environ["PEERS_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)
)
Session = sessionmaker(engine)
