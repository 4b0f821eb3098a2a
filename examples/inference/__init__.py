"""A model over a file."""
