"""Handlers whose tasks are submitted in plain SQL."""
