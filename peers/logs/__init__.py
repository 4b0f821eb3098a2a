"""Format the log, and write it without blocking."""
