"""The measured systems: an adapter for each, and what they share."""
