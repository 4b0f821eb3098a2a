"""Batch inference beside its controls: `python -m benchmarks.predict.forest` and its neighbours."""
