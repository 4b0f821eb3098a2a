"""A nightly pipeline as a graph."""
