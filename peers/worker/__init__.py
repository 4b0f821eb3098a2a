"""The child process that runs user code. It dies alone: its parent holds the leases, not it."""
