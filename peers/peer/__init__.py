"""The peer process: claim tasks, hand them to workers, record their outcomes."""
