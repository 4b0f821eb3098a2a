"""The version of the installed package."""

from __future__ import annotations


def package_version() -> str | None:
    """Return the version of the installed package; None if it is not installed."""
    import importlib.metadata  # it is slow to import

    try:
        return importlib.metadata.version("peers")
    except importlib.metadata.PackageNotFoundError:
        return None
