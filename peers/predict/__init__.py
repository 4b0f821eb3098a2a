"""Batch inference over the peers: a guest of the scheduler."""
