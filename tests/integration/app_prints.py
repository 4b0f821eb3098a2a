"""An app that prints while it is imported."""

from peers import task

print("imported")


@task("noop")
def noop() -> None:
    """Nothing."""
